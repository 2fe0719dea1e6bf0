"""Searches: what may be searched, that one goes on where it stopped, and one real trial."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from mutineck import cli
from mutineck.running import study_run
from mutineck.search import search
from mutineck.search.search import Search, best_settings, open_base
from mutineck.search.space import SearchSpec, load_space
from mutineck.study.experiment import Experiment, load_experiment
from mutineck.study.jobs import NOTEBOOK, Job
from mutineck.study.stage import Outcome, Study, write_experiment
from mutineck.system.errors import ExperimentError
from mutineck.system.files import read_json, write_text
from tests.detection.tiny import experiment_of

SPACE = {
    "arm": "fgd:faster_rcnn",
    "parameters": {
        "strength": {"scale": ["distillation.alpha", "distillation.beta"], "low": 0.1, "high": 10, "log": True},
        "temperature": {"field": "distillation.temperature", "low": 0.1, "high": 2},
    },
}


def space(**changes: Any) -> SearchSpec:
    return SearchSpec.model_validate(SPACE | changes)


@pytest.mark.parametrize("path", sorted(Path("experiments/searches").glob("*.yaml")), ids=lambda path: path.stem)
@pytest.mark.parametrize("experiment", ["specialists_bccd", "peers_shapes"])
def test_the_searches_of_the_repository_fit_its_studies(path: Path, experiment: str) -> None:
    found = load_space(path.stem)
    found.check(load_experiment(experiment))
    assert found.present(load_experiment(experiment)) is not None


def test_a_factor_and_a_field_are_set() -> None:
    before = experiment_of(arms=["fgd:faster_rcnn"]).distillation
    after = space().apply(experiment_of(arms=["fgd:faster_rcnn"]), {"strength": 3.0, "temperature": 0.7}).distillation
    assert (after.alpha, after.beta) == pytest.approx((3 * before.alpha, 3 * before.beta))
    assert (after.temperature, after.gamma) == (0.7, before.gamma)


@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        (
            {"field": "distillation.temprature", "low": 1, "high": 2},
            "unknown field 'temprature'; did you mean 'temperature'",
        ),
        ({"field": "distillation.temperature", "low": -1, "high": 2}, "greater than 0"),
        ({"field": "arms.mutineck.start", "choices": ["own", "perhaps"]}, "unknown start"),
        ({"field": "input.flip", "low": 0, "high": 1}, "trains students alone"),
        ({"field": "intermediate.ridge", "low": 1, "high": 2}, "trains students alone"),
        ({"field": "features.minimum_size", "low": 1, "high": 2}, "`features` depends on features.minimum_size too"),
        ({"field": "arms.student.epochs", "choices": [1, 2]}, "the arm 'mutineck' does not depend on it"),
        ({"scale": ["student.inherit"], "low": 1, "high": 2}, "no number to multiply"),
        ({"field": "student.schedule.epochs", "low": 1.5, "high": 3}, "valid integer"),
        ({"field": "arms.mutineck.epochs", "low": 1, "high": 3}, "valid integer"),
        ({"scale": ["student.schedule.batch"], "low": 1, "high": 2}, "valid integer"),
    ],
    ids=[
        "misspelt",
        "range",
        "choice",
        "teachers see it",
        "the merged teacher",
        "vectors",
        "no effect",
        "no number",
        "half an end",
        "nothing yet",
        "half a batch",
    ],
)
def test_what_cannot_be_searched_is_refused_before_anything_is_trained(parameter: dict[str, Any], message: str) -> None:
    given = space(arm="mutineck", parameters={"it": parameter})
    with pytest.raises(ExperimentError, match=message):
        given.check(experiment_of(arms=["student", "mutineck"]))


def test_the_arm_must_be_there() -> None:
    with pytest.raises(ExperimentError, match="unknown arm 'mutinek'; did you mean 'mutineck'"):
        space(arm="mutinek").check(experiment_of(arms=["mutineck"]))


@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        ({"field": "a", "scale": ["b"], "low": 1, "high": 2}, "either one `field` or"),
        ({"low": 1, "high": 2}, "either one `field` or"),
        ({"field": "a", "low": 2, "high": 1}, "`low` under `high`"),
        ({"field": "a", "low": 1}, "`low` under `high`"),
        ({"field": "a", "low": 0, "high": 1, "log": True}, "starts above 0"),
        ({"field": "a", "choices": [1], "low": 0}, "go with one `field`"),
        ({"field": "a", "lo": 0, "high": 1}, "unknown key 'lo'; did you mean 'low'"),
    ],
    ids=["both", "neither", "order", "half", "log", "mixture", "misspelt"],
)
def test_a_space_that_says_nothing_sensible(tmp_path: Path, parameter: dict[str, Any], message: str) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(yaml.safe_dump({"parameters": {"it": parameter}}))
    with pytest.raises(ExperimentError) as error:
        load_space(path)
    assert message in str(error.value) and str(path) in str(error.value)


def test_a_space_that_is_not_there() -> None:
    with pytest.raises(ExperimentError, match="unknown search 'weight'; did you mean 'weights'"):
        load_space("weight")


def finish(study: Study, experiment: Experiment) -> None:
    """Make the jobs that the arm `fgd:faster_rcnn` needs look as `mutineck run` leaves them."""
    write_experiment(experiment, study.root)
    for stage, item in (("dataset", None), ("teachers", "faster_rcnn")):
        done = study.at(stage, item)
        done.finish()
        write_text(done.folder / NOTEBOOK, "{}")


@pytest.fixture
def base(tmp_path: Path) -> search.Base:
    experiment = experiment_of(("faster_rcnn",), arms=["student", "fgd:faster_rcnn"])
    finish(Study(experiment, tmp_path / "tiny", Job("dataset")), experiment)
    return open_base(tmp_path / "tiny")


class InOneProcess:
    """Stands in for the pool, so that a test can stand in for the training."""

    def __init__(self, *_: Any) -> None:
        pass

    def __enter__(self) -> InOneProcess:
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def map(self, function: Callable[..., Any], *arguments: Any) -> Iterator[Any]:
        return map(search.train_student, *arguments)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Replace the training by a formula of the settings: best at strength 1, whatever the rest."""
    done: list[tuple[str, str]] = []

    def train(root: str, job: Job) -> dict[str, Any]:
        done.append((Path(root).name, job.item))
        experiment = load_experiment(Path(root) / "experiment.yaml")
        assert experiment.evaluation.splits == ("val",)
        strength = experiment.distillation.alpha / 5e-5
        if strength > 8:
            raise RuntimeError("non-finite loss at epoch 1\nand more")
        return {"mAP": 0.5 - 0.1 * abs(strength - 1), "shares": {"loss_kd": 0.3}, "seconds": 2.0}

    monkeypatch.setattr(search, "train_student", train)
    monkeypatch.setattr(search, "ProcessPoolExecutor", InOneProcess)
    return done


def test_trials_begin_with_what_is_and_are_kept_as_a_table(base, trained, tmp_path) -> None:
    table = Search([base], space(seeds=(0, 1)), tmp_path / "found").run(4)
    assert trained[:2] == [("trial0000", "fgd-faster_rcnn/seed0"), ("trial0000", "fgd-faster_rcnn/seed1")]
    first = table.iloc[0]
    assert (first["strength"], first["temperature"], first["value"]) == (1.0, 0.5, pytest.approx(0.5))
    assert (first["tiny/seed0"], first["share/loss_kd"], first["seconds"]) == (0.5, 0.3, 4.0)
    kept = pd.read_csv(tmp_path / "found" / "trials.csv")
    assert kept["trial"].tolist() == [0, 1, 2, 3] and kept.columns[-1] == "error"
    done = table[table["state"] == "complete"]
    assert done["value"].tolist() == pytest.approx([0.5 - 0.1 * abs(s - 1) for s in done["strength"]])


def test_a_search_goes_on_and_a_stopped_one_finds_the_same(base, trained, tmp_path, monkeypatch) -> None:
    whole = Search([base], space(), tmp_path / "whole").run(5)
    parts = tmp_path / "parts"
    Search([base], space(), parts).run(2)
    train = search.train_student

    def stop(root: str, job: Job) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(search, "train_student", stop)
    with pytest.raises(KeyboardInterrupt):
        Search([base], space(), parts).run(5)
    monkeypatch.setattr(search, "train_student", train)
    table = Search([base], space(), parts).run(5)
    assert table[["trial", "strength", "temperature", "value"]].equals(
        whole[["trial", "strength", "temperature", "value"]]
    )
    count = len(trained)
    Search([base], space(), parts).run(5)
    assert len(trained) == count, "nothing was left to do"


def test_settings_under_which_training_breaks_down_are_a_finding(base, trained, tmp_path) -> None:
    parameters = {"strength": SPACE["parameters"]["strength"] | {"low": 8.5, "high": 9}}
    table = Search([base], space(parameters=parameters), tmp_path / "found").run(2)
    assert table["state"].tolist() == ["fail", "fail"]
    assert table["error"].tolist() == ["non-finite loss at epoch 1"] * 2
    assert best_settings(table, base, space(parameters=parameters)) == []


@pytest.mark.parametrize("log", [False, True])
def test_what_counts_is_tried_in_whole_numbers(base, trained, tmp_path, log) -> None:
    epochs = {"field": "student.schedule.epochs", "low": 2, "high": 9, "log": log}
    given = {"temperature": SPACE["parameters"]["temperature"], "epochs": epochs}
    table = Search([base], space(parameters=given), tmp_path / "found").run(5)
    assert table["epochs"].dtype == int and table["epochs"].between(2, 9).all()
    assert table["state"].tolist() == ["complete"] * 5


def test_a_trial_that_makes_no_experiment_has_failed_and_the_search_goes_on(
    base, trained, tmp_path, monkeypatch
) -> None:
    apply = SearchSpec.apply

    def refuse(self: SearchSpec, experiment: Experiment, values: Any) -> Experiment:
        if len(values) == 2 and values["temperature"] != 0.5:
            raise ExperimentError("the two\n  do not agree")
        return apply(self, experiment, values)

    monkeypatch.setattr(SearchSpec, "apply", refuse)
    table = Search([base], space(), tmp_path / "found").run(3)
    assert table["state"].tolist() == ["complete", "fail", "fail"]
    assert table["error"].tolist() == ["", *["the two do not agree"] * 2]


def test_another_search_of_the_same_name_is_refused(base, trained, tmp_path) -> None:
    Search([base], space(), tmp_path / "found").run(1)
    for other in (Search([base], space(seeds=(5,)), tmp_path / "found"),
                  Search([open_base(base.root, ["student.schedule.epochs=2"])], space(), tmp_path / "found")):  # fmt: skip
        with pytest.raises(ExperimentError, match=r"another (space|tiny).*--name"):
            other.run(1)


def test_the_best_is_said_as_settings(base) -> None:
    table = pd.DataFrame({"value": [0.1, 0.3, None], "strength": [1.0, 0.1, 2.0], "temperature": [0.5, 0.25, 1.0]})
    best = best_settings(table, base, space())
    assert [item.split("=")[0] for item in best] == [
        "distillation.alpha",
        "distillation.beta",
        "distillation.temperature",
    ]
    again = load_experiment(base.root / "experiment.yaml", best).distillation
    assert (again.alpha, again.beta, again.temperature) == pytest.approx((5e-6, 2.5e-6, 0.25))


def test_a_study_that_is_not_finished_is_no_base(base, tmp_path, monkeypatch) -> None:
    (base.root / "teachers" / "faster_rcnn" / "manifest.json").unlink()
    with pytest.raises(ExperimentError, match="teachers faster_rcnn is not finished") as error:
        Search([open_base(base.root, ["clusters.k=4"])], space(), tmp_path / "found")
    # The experiment's own file lies anywhere; the study's folder holds it.
    command = f"mutineck run {base.root / 'experiment.yaml'} --set clusters.k=4 --until clusters --outputs {tmp_path}"
    assert str(error.value).endswith(f"First: {command}")
    received = {}
    monkeypatch.setattr(
        study_run, "run_study", lambda experiment, outputs, **_: received.update({outputs: experiment}) or outputs
    )
    assert cli.main(command.split()[1:]) == 0
    assert received == {tmp_path: load_experiment(base.root / "experiment.yaml", ["clusters.k=4"])}
    with pytest.raises(FileNotFoundError, match="mutineck run nowhere --until clusters"):
        open_base(tmp_path / "nowhere")


def test_the_command(base, trained, tmp_path, capsys) -> None:
    file = tmp_path / "space.yaml"
    file.write_text(yaml.safe_dump(SPACE))
    given = ["search", str(base.root), "--space", str(file), "--trials", "2", "--outputs", str(tmp_path / "out")]
    assert cli.main(given) == 0
    text = capsys.readouterr().out
    assert "trial 0: strength 1, temperature 0.5" in text and "best mAP 50.00: --set distillation.alpha=" in text
    assert (tmp_path / "out" / "searches" / "space" / "trials.csv").is_file()


@pytest.mark.slow
def test_a_real_trial_trains_a_student_and_leaves_the_study_alone(tiny: Study, tmp_path: Path) -> None:
    root = tmp_path / "tiny"
    shutil.copytree(tiny.path("dataset"), root / "dataset")
    shutil.copytree(tiny.path("teachers", "faster_rcnn"), root / "teachers" / "faster_rcnn")
    experiment = experiment_of(("faster_rcnn",), arms=["fgd:faster_rcnn"])
    finish(Study(experiment, root, Job("dataset")), experiment)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    table = Search([open_base(root)], space(), tmp_path / "found").run(1, cores=1)
    (row,) = table.to_dict("records")
    assert row["state"] == "complete", row["error"]
    assert 0 <= row["value"] == row["tiny/seed0"] <= 1 and row["seconds"] > 0
    assert 0 < sum(value for name, value in row.items() if name.startswith("share/")) <= 1.01
    student = tmp_path / "found" / "tiny" / "trial0000" / "distillation" / "fgd-faster_rcnn" / "seed0"
    assert {line["split"] for line in read_json(student / "metrics.json")} == {"val"}
    assert not (root / "distillation").exists()
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert json.loads((tmp_path / "found" / "results" / "trial0000.json").read_text())["value"] == row["value"]


def test_a_student_of_other_values_is_not_taken_for_a_trials(
    base: search.Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mutineck import distillation

    trained: list[float] = []

    def distil(study: Study) -> Outcome[None]:
        trained.append(study.experiment.distillation.alpha)
        for name in ("student.pth", "metrics.json", "curves.csv"):
            write_text(study.folder / name, "{}")
        return Outcome(None, results={"val": study.experiment.distillation.alpha})

    monkeypatch.setattr(distillation, "distil", distil)
    monkeypatch.setattr(distillation, "loss_shares", lambda study: pd.DataFrame({"last tenth": {"loss_kd": 0.3}}))
    reached = []
    for alpha in (1e-4, 1e-4, 2e-4):
        weights = base.experiment.distillation.model_copy(update={"alpha": alpha})
        write_experiment(base.experiment.model_copy(update={"distillation": weights}), base.root)
        reached.append(search.train_student(str(base.root), Job.student("fgd:faster_rcnn", 0))["mAP"])
    assert trained == [1e-4, 2e-4] and reached == [1e-4, 1e-4, 2e-4]
