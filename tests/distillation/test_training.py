"""Whole trainings of an arm: what they leave behind, and that a stopped one ends where an unstopped one does."""

from __future__ import annotations

import csv
import logging
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mutineck.detection.hooks import LATEST, ResumableCheckpointHook
from mutineck.detection.loading import CheckpointError, non_finite
from mutineck.detection.repeatable import PromptEpochRunner
from mutineck.detection.training import IDENTITY
from mutineck.distillation import distil, stage
from mutineck.distillation.export import export_student
from mutineck.study.experiment_file import repository
from mutineck.study.stage import Study, write_experiment
from mutineck.system.files import read_json
from tests.detection.tiny import SCHEDULE, derive
from tests.distillation.tiny import link_intermediate, plant_centroids

EPOCHS = 3
STEPS = 4  # 16 pictures, 4 a step


def study_of(
    tiny: Study, ready: Study, root: Path, arm: str = "mutineck", *, seed: int = 0, workers: int = 0, **schedule: Any
) -> Study:
    schedule = {**SCHEDULE, "epochs": EPOCHS, **schedule}
    resources = {"device": "cpu", "workers": workers}
    study = derive(
        tiny,
        root,
        arms=[arm],
        schedule=schedule,
        distillation={"centroid_cosine": -1.0, "logits": 1.0},
        resources=resources,
    )
    link_intermediate(study, ready.root)
    plant_centroids(study)
    return study.at("distillation", f"{arm.replace(':', '-')}/seed{seed}")


def stoppable(monkeypatch: pytest.MonkeyPatch, folder: Path, armed: str | None) -> Path:
    """Let trainings pass by a `StoppingHook`, armed or not; return the file that counts the steps."""
    import tests.detection.stopping  # noqa: F401  registers the hook

    folder.mkdir(exist_ok=True)
    if armed:
        (folder / "armed").write_text(armed)
    hook = {"type": "StoppingHook", "armed": str(folder / "armed"), "steps": str(folder / "steps")}
    monkeypatch.setattr(stage, "HOOKS", (*stage.HOOKS, hook))
    return folder / "steps"


def weights(study: Study) -> dict[str, torch.Tensor]:
    return torch.load(study.folder / "student.pth", weights_only=True)["state_dict"]


def curves(study: Study) -> list[dict[str, str]]:
    with open(study.folder / "curves.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def unstopped(tiny: Study, ready: Study, tmp_path_factory: pytest.TempPathFactory) -> Study:
    study = study_of(tiny, ready, tmp_path_factory.mktemp("unstopped") / "study")
    distil(study)
    return study


def test_a_stopped_training_goes_on_and_ends_bit_for_bit_alike(
    tiny: Study, ready: Study, unstopped: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.detection.stopping import Stopped

    study = study_of(tiny, ready, tmp_path / "s")
    steps = stoppable(monkeypatch, tmp_path / "hook", "1 2 raise")
    with pytest.raises(Stopped):
        distil(study)
    assert not (study.folder / "student.pth").exists() and not (study.folder / "metrics.json").exists()
    assert (study.folder / "training" / LATEST).exists()
    before = len(steps.read_text())
    torch.rand(3)
    distil(study)
    assert len(steps.read_text()) - before == (EPOCHS - 1) * STEPS, "the first epoch is not trained again"
    expected = weights(unstopped)
    for name, value in weights(study).items():
        assert torch.equal(value, expected[name]), name
    assert [r for r in curves(study) if "time" not in r["term"]] == [
        r for r in curves(unstopped) if "time" not in r["term"]
    ]
    assert read_json(study.folder / "predictions_val.json") == read_json(unstopped.folder / "predictions_val.json")


def test_a_finished_training_leaves_a_student_curves_and_metrics(unstopped: Study) -> None:
    assert {p.name for p in unstopped.folder.iterdir()} >= {
        "student.pth",
        "config.py",
        "curves.csv",
        "metrics.json",
        "predictions_val.json",
        "training_config.py",
    }
    assert not (unstopped.folder / "training").exists()
    rows = read_json(unstopped.folder / "metrics.json")
    assert {(row["arm"], row["seed"], row["split"]) for row in rows} == {("mutineck", 0, "val")}
    terms = {row["term"] for row in curves(unstopped)}
    assert {
        "loss",
        "lr",
        "loss_cls",
        "loss_kd_centre",
        "share/loss_kd_centre",
        "omega/retinanet",
        "val/bbox_mAP",
    } <= terms
    by_step: dict[str, dict[str, float]] = {}
    for row in curves(unstopped):
        by_step.setdefault(row["iteration"], {})[row["term"]] = float(row["value"])
    for values in by_step.values():
        shares = [value for term, value in values.items() if term.startswith("share/")]
        if shares:
            assert sum(shares) == pytest.approx(1, abs=1e-3)


def test_another_schedule_discards_the_state_and_the_same_keeps_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from mutineck.detection.training import _discard_foreign_state

    folder = tmp_path / "training"
    _discard_foreign_state(folder, {"config": "lr = 1", "teacher": "abc"})
    (folder / LATEST).write_text("state")
    _discard_foreign_state(folder, {"teacher": "abc", "config": "lr = 1"})
    assert (folder / LATEST).exists()
    for identity in (
        {"config": "lr = 2", "teacher": "abc"},
        {"config": "lr = 2", "teacher": "abd"},
        {"config": "lr = 2"},
    ):
        _discard_foreign_state(folder, identity)
        assert not (folder / LATEST).exists() and (folder / IDENTITY).exists()
        (folder / LATEST).write_text("state")
    first = capsys.readouterr().out.splitlines()[0]
    assert first == f'{folder}: the state of another training is discarded (config: "lr = 1" -> "lr = 2")'


def test_only_what_changes_a_training_says_which_it_is(tiny: Study, ready: Study, tmp_path: Path) -> None:
    from mutineck.detection.training import describe
    from mutineck.detectors.training import detector_training

    def described(name: str, **changes: Any) -> dict[str, Any]:
        resources = {"device": "cpu", **changes.pop("resources", {})}
        checks = {name: changes.pop(name) for name in ("evaluation", "intermediate") if name in changes}
        schedule = {**SCHEDULE, **changes}
        study = derive(tiny, tmp_path / name, arms=["mutineck"], resources=resources, schedule=schedule, **checks)
        link_intermediate(study, ready.root)
        plant_centroids(study)
        study = study.at("distillation", "mutineck/seed0")
        schedule = study.experiment.student.schedule
        config = detector_training(study, stage.distiller_config(study), ["a"], schedule, seed=0)
        return describe(config, study.root)

    first = described("a")
    assert str(tmp_path) not in str(first)
    speed = {"cache_gib": 2.0, "cache": "on", "workers": 1, "threads": 2, "device": "auto", "hours": 1.0}
    shown = {"evaluation": {"splits": ["val", "test"], "report": "test", "batch": 2}, "intermediate": {"gate": 0.5}}
    assert described("b", resources=speed, **shown) == first
    assert described("c", resources={"cache": "off"}) != first
    assert described("d", learning_rate=0.006) != first


def test_a_student_depends_on_its_teachers_configs_too(ready: Study) -> None:
    files = stage.teaching_files(ready, ready.experiment.arm("mutineck"))
    for name in ("faster_rcnn", "retinanet", "intermediate"):
        assert files[f"config of {name}"] == ready.path("teachers", name, "config.py")
        assert files[f"teacher {name}"] == ready.path("teachers", name, "checkpoint.pth")


def test_a_state_of_other_teachers_is_not_gone_on_with(
    tiny: Study, ready: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.detection.stopping import Stopped

    study = study_of(tiny, ready, tmp_path / "s", "fgd:faster_rcnn", epochs=2)
    steps = stoppable(monkeypatch, tmp_path / "hook", "1 0 raise")
    with pytest.raises(Stopped):
        distil(study)
    before = len(steps.read_text())
    original = study.path("teachers", "faster_rcnn")
    content = torch.load(original / "checkpoint.pth", weights_only=True)
    content["state_dict"]["neck.fpn_convs.0.conv.bias"] += 0.1
    config = (original / "config.py").read_text()
    original.unlink()
    original.mkdir()
    torch.save(content, original / "checkpoint.pth")
    (original / "config.py").write_text(config)
    distil(study)
    assert len(steps.read_text()) - before == 2 * STEPS


def test_loader_processes_change_no_weight_and_a_config_in_a_state_is_not_run(
    tiny: Study, ready: Study, unstopped: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.detection.stopping import Stopped

    study = study_of(tiny, ready, tmp_path / "s", workers=2)
    steps = stoppable(monkeypatch, tmp_path / "hook", "1 0 raise")
    with pytest.raises(Stopped):
        distil(study)
    latest, target = study.folder / "training" / LATEST, tmp_path / "owned"
    state = torch.load(latest, weights_only=True)
    state["meta"]["config"] = f"import os\nos.mkdir({str(target)!r})"
    torch.save(state, latest)
    before, fewer = len(steps.read_text()), study.experiment.resources.model_copy(update={"workers": 1})
    study.experiment = study.experiment.model_copy(update={"resources": fewer})
    distil(study)
    assert not target.exists()
    assert len(steps.read_text()) - before == (EPOCHS - 1) * STEPS, "other workers go on with the same training"
    expected = weights(unstopped)
    assert all(torch.equal(value, expected[name]) for name, value in weights(study).items())


def spoil_loss(value: torch.Tensor, maps: dict[int, torch.Tensor]) -> torch.Tensor:
    return value * math.nan


def spoil_gradient(value: torch.Tensor, maps: dict[int, torch.Tensor]) -> torch.Tensor:
    # The root of what is always 0: a finite value, and a slope of 0 * infinity.
    return value + (0 * next(iter(maps.values()))).sum().abs().sqrt()


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        pytest.param(spoil_loss, r"non-finite loss loss_kd_attention=nan, loss=nan", id="loss"),
        pytest.param(spoil_gradient, r"non-finite gradient of \d+ weights \(.*\)", id="gradient"),
    ],
)
def test_a_non_finite_number_stops_the_run_is_named_and_leaves_the_last_good_state(
    spoil: Any, what: str, tiny: Study, ready: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mutineck.distillation.guidance import Guidance

    forward = Guidance.forward

    def spoilt(self: Guidance, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        losses = forward(self, *args, **kwargs)
        if kwargs["epoch"] >= 1.5:
            losses["loss_kd_attention"] = spoil(losses["loss_kd_attention"], args[4])
        return losses

    study = study_of(tiny, ready, tmp_path / "s", "fgd:faster_rcnn", epochs=2)
    steps = stoppable(monkeypatch, tmp_path / "hook", None)
    with monkeypatch.context() as patch:
        patch.setattr(Guidance, "forward", spoilt)
        with pytest.raises(RuntimeError, match=what + r" at epoch 2, iteration 7; pictures: .*\.png.*latest\.pth"):
            distil(study)
    latest = torch.load(study.folder / "training" / LATEST, weights_only=True)
    assert latest["meta"]["epoch"] == 1 and not non_finite(latest["state_dict"])
    before = len(steps.read_text())
    distil(study)
    assert len(steps.read_text()) - before == STEPS, "it goes on from the last good epoch"


def test_a_state_that_is_not_finite_does_not_replace_a_good_one(tmp_path: Path) -> None:
    model = torch.nn.BatchNorm1d(2)
    assert model.running_mean is not None
    model.running_mean[0] = math.inf
    (tmp_path / LATEST).write_text("good")
    runner = SimpleNamespace(model=model, epoch=3, work_dir=str(tmp_path))
    with pytest.raises(RuntimeError, match=r"non-finite weights after epoch 4: running_mean"):
        ResumableCheckpointHook().after_train_epoch(runner)
    assert (tmp_path / LATEST).read_text() == "good"


@pytest.mark.parametrize(
    ("seconds", "written"), [(0.5, [1, 2, 3, 4, 5, 6, 7, 8]), (3.0, [1, 5, 8])], ids=["little", "a lot"]
)
def test_states_that_take_long_are_written_less_often_and_the_last_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, written: list[int]
) -> None:
    """Epochs of 8 seconds: a state of 3 is left out for the 30 after it."""
    clock, found = SimpleNamespace(now=0.0), []

    def save(folder: str, *, filename_tmpl: str, **kwargs: object) -> None:
        (Path(folder) / filename_tmpl).write_text("state")
        clock.now += seconds
        found.append(runner.epoch + 1)

    monkeypatch.setattr("mutineck.detection.hooks.time.monotonic", lambda: clock.now)
    runner = SimpleNamespace(
        model=torch.nn.Linear(1, 1), epoch=0, max_epochs=8, work_dir=str(tmp_path), save_checkpoint=save
    )
    hook = ResumableCheckpointHook()
    for runner.epoch in range(8):
        clock.now += 8
        hook.after_train_epoch(runner)
    assert found == written


def test_distillation_that_is_nearly_the_whole_gradient_is_warned_of_once_and_gradients_are_logged(
    tiny: Study, ready: Study, tmp_path: Path
) -> None:
    """Three terms share what teaches, each of them less than nearly all: their sum is what counts."""
    arm = {"fgd:faster_rcnn": {"weights": {"gamma": 0.1, "alpha": 0.1, "beta": 0.1}}}
    schedule = {**SCHEDULE, "epochs": 2, "clip": None, "learning_rate": 1e-6}
    every = {"distillation": {"shares_every": 3}}
    study = derive(tiny, tmp_path / "s", arms=arm, schedule=schedule, **every).at(
        "distillation", "fgd-faster_rcnn/seed0"
    )
    with pytest.warns(
        RuntimeWarning, match=r"distillation terms are \d+\.\d % of the gradient .* at iteration 4"
    ) as caught:
        distil(study)
    assert len([item for item in caught if "of the gradient" in str(item.message)]) == 1
    norms = [float(row["value"]) for row in curves(study) if row["term"] == "grad_norm"]
    assert norms and all(norm > 0 for norm in norms), "logged though nothing is clipped"
    shares = shares_of(study)
    assert sorted(shares) == [1, 4, 7]
    for found in shares.values():
        assert sum(found.values()) == pytest.approx(1, abs=1e-4)
        assert max(found.values()) < 0.95


def shares_of(study: Study) -> dict[int, dict[str, float]]:
    """Return each measured iteration's shares of the gradient."""
    found: dict[int, dict[str, float]] = {}
    for row in curves(study):
        if row["term"].startswith("gradient/"):
            term = row["term"].removeprefix("gradient/")
            found.setdefault(int(row["iteration"]), {})[term] = float(row["value"])
    return found


def measured(study: Study, every: int) -> None:
    asked = study.experiment.distillation.model_copy(update={"shares_every": every})
    study.experiment = study.experiment.model_copy(update={"distillation": asked})


def test_measuring_gradients_changes_no_weight_and_no_state_of_a_training(
    tiny: Study, ready: Study, unstopped: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measured in every step, from the middle of a training that was not measured: it goes on, to the same end."""
    from tests.detection.stopping import Stopped

    study = study_of(tiny, ready, tmp_path / "s")
    steps = stoppable(monkeypatch, tmp_path / "hook", "1 0 raise")
    measured(study, 0)
    with pytest.raises(Stopped):
        distil(study)
    before = len(steps.read_text())
    measured(study, 1)
    distil(study)
    assert len(steps.read_text()) - before == (EPOCHS - 1) * STEPS
    expected = weights(unstopped)
    assert all(torch.equal(value, expected[name]) for name, value in weights(study).items())
    assert sorted(shares_of(study)) == list(range(STEPS + 1, EPOCHS * STEPS + 1))
    assert sorted(shares_of(unstopped)) == [1]
    terms = {term for found in shares_of(study).values() for term in found}
    assert terms == {row["term"] for row in curves(study) if row["term"].startswith("loss_")}


def test_a_state_of_fewer_processes_goes_on_with_its_steps_and_another_model_is_refused(tmp_path: Path) -> None:
    model: Any = torch.nn.Linear(1, 1)
    model.train_step = None  # mmcv asks for one
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    meta = {"iter": 12, "epoch": 3}
    state = {"state_dict": model.state_dict(), "optimizer": optimizer.state_dict(), "meta": meta}
    torch.save(state, tmp_path / LATEST)
    runner = PromptEpochRunner(model, optimizer=optimizer, logger=logging.getLogger(), meta={}, max_epochs=5)
    runner._world_size = 2
    runner.resume(str(tmp_path / LATEST))
    assert (runner.iter, runner.epoch) == (12, 3)
    torch.save(state | {"state_dict": {"weight": torch.ones(1, 1)}}, tmp_path / LATEST)
    with pytest.raises(CheckpointError, match=r"(?s)1 missing.*state of another training; remove it"):
        runner.resume(str(tmp_path / LATEST))


@pytest.fixture(scope="module")
def exported(unstopped: Study, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return export_student(unstopped.folder, tmp_path_factory.mktemp("export") / "student")


class TestExport:
    def test_a_students_checkpoint_is_plain(self, unstopped: Study) -> None:
        state = weights(unstopped)
        assert {name.split(".")[0] for name in state} == {"backbone", "neck", "rpn_head", "roi_head"}
        assert "mutineck" not in (unstopped.folder / "config.py").read_text()

    def test_it_loads_in_stock_mmdet_without_a_gap(self, unstopped: Study, exported: tuple[Path, Path]) -> None:
        from mmcv import Config
        from mmdet.apis import inference_detector, init_detector
        from mmdet.models import build_detector

        checkpoint, config = exported
        state = torch.load(checkpoint, weights_only=True)["state_dict"]
        gaps = build_detector(Config.fromfile(str(config)).model).load_state_dict(state, strict=False)
        assert gaps.missing_keys == [] and gaps.unexpected_keys == []
        model = init_detector(str(config), str(checkpoint), device="cpu")
        assert tuple(model.CLASSES) == unstopped.dataset.categories
        picture = next(unstopped.path("dataset", "source", "JPEGImages").iterdir())
        assert len(inference_detector(model, str(picture))) == len(model.CLASSES)

    def test_a_folder_without_a_student_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"student\.pth is missing: .* holds no finished student"):
            export_student(tmp_path, tmp_path / "out")


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(repository()), "OMP_NUM_THREADS": "1", **more}


@pytest.fixture
def written(tiny: Study, ready: Study, tmp_path: Path) -> Path:
    """The config of a training of two epochs, as the stage leaves it, with a `StoppingHook`."""
    from mutineck.detectors.training import detector_training

    study = study_of(tiny, ready, tmp_path / "s", epochs=2)
    hook = {"type": "StoppingHook", "armed": str(tmp_path / "armed"), "steps": str(tmp_path / "steps")}
    categories = study.dataset.categories
    detector_training(
        study,
        stage.distiller_config(study),
        categories,
        study.experiment.student.schedule,
        seed=0,
        hooks=(*stage.HOOKS, hook),
        modules=stage.MODULES,
    )
    path = study.folder / "training_config.py"
    path.write_text(
        path.read_text().replace(
            "'mutineck.detection.repeatable',", "'mutineck.detection.repeatable', 'tests.detection.stopping',"
        )
    )
    assert "tests.detection.stopping" in path.read_text()
    return path


IN_TWO_PROCESSES = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


def run(*command: str | Path, **settings: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, env=environment(), **settings
    )


@pytest.mark.slow
def test_a_training_killed_outright_ends_bit_for_bit_alike_and_goes_on_in_two_processes(
    written: Path, tmp_path: Path
) -> None:
    train = ["-m", "mutineck.detection.training", written, "--device", "cpu", "--work-dir"]
    whole, killed, kept = (tmp_path / name for name in ("whole", "killed", "kept"))
    assert run(*train, whole).returncode == 0
    (tmp_path / "armed").write_text("1 1 kill")
    assert run(*train, killed).returncode == -9
    assert not (killed / "final.pth").exists()
    steps = len((tmp_path / "steps").read_text())
    assert steps == 2 * STEPS + STEPS + 2
    shutil.copytree(killed, kept)
    finished = run(*train, killed)
    assert finished.returncode == 0, finished.stderr
    expected, found = (torch.load(folder / "final.pth", weights_only=True)["state_dict"] for folder in (whole, killed))
    assert all(torch.equal(value, expected[name]) for name, value in found.items())
    assert len((tmp_path / "steps").read_text()) == steps + STEPS
    shutil.rmtree(killed)
    kept.rename(killed)
    finished = run(*IN_TWO_PROCESSES, *train, killed)
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert len((tmp_path / "steps").read_text()) == steps + STEPS + 2 * STEPS, (
        "the second epoch alone, each process its share"
    )
    with open(killed / "curves.csv", newline="") as file:
        assert max(int(row["iteration"]) for row in csv.DictReader(file)) == 2 * STEPS


@pytest.mark.slow
def test_two_processes_train_together_on_cpus_and_repeat_bit_for_bit(written: Path, tmp_path: Path) -> None:
    written.write_text(re.sub(r"max_epochs=\d+", "max_epochs=1", written.read_text()))
    states = []
    for name in ("once", "again"):
        finished = run(
            *IN_TWO_PROCESSES,
            "-m",
            "mutineck.detection.training",
            written,
            "--work-dir",
            tmp_path / name,
            "--device",
            "cpu",
        )
        assert finished.returncode == 0, finished.stderr[-3000:]
        states.append(torch.load(tmp_path / name / "final.pth", weights_only=True)["state_dict"])
    assert all(value.isfinite().all() and torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert len((tmp_path / "steps").read_text()) == 2 * 2 * STEPS, (
        "two runs of two processes, each with half of every batch"
    )


@pytest.mark.slow
def test_what_two_processes_have_trained_is_the_studys_student(tiny: Study, ready: Study, tmp_path: Path) -> None:
    study = study_of(tiny, ready, tmp_path / "tiny", epochs=1)
    experiment = write_experiment(study.experiment, study.root)
    finished = run(
        *IN_TWO_PROCESSES,
        "-m",
        "mutineck.distillation",
        experiment,
        "mutineck",
        "--outputs",
        tmp_path,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    state = torch.load(study.folder / "training" / LATEST, weights_only=False)["state_dict"]
    trained = {name.removeprefix("student."): value for name, value in state.items() if name.startswith("student.")}
    distil(study)
    student = weights(study)
    assert student.keys() == trained.keys()
    assert all(torch.equal(value, trained[name]) for name, value in student.items()), "nothing is trained again"
    assert max(int(row["iteration"]) for row in curves(study)) == STEPS


@pytest.mark.slow
def test_stock_mmdets_own_tool_trains_a_config_of_ours(written: Path, tmp_path: Path) -> None:
    from mutineck.detection.configs import mmdet_folder

    out = tmp_path / "stock"
    finished = run(mmdet_folder() / "tools" / "train.py", written, "--work-dir", out)
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert (out / LATEST).exists()
    with open(out / "curves.csv", newline="") as file:
        terms = {row["term"] for row in csv.DictReader(file)}
    assert {"loss", "loss_kd_centre", "loss_kd_direction", "val/bbox_mAP"} <= terms
