"""Measuring a detector: in one process, or by several that `torchrun` started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mutineck import cli
from mutineck.detection.configs import config_categories, pipelines, read_config, write_config
from mutineck.detection.loading import write_checkpoint
from mutineck.detectors.folders import load_model
from mutineck.detectors.measuring import evaluate, measure_split
from mutineck.study.experiment_file import repository
from mutineck.study.jobs import Job
from mutineck.study.stage import Study, write_experiment
from mutineck.system.errors import ExperimentError
from mutineck.system.files import read_json
from tests.detection.tiny import random_detector

RECORDING = """
import os, sys
from mutineck.cli import main
from mutineck.system.files import write_json
from mutineck.detectors import measuring

def recording(annotations, predictions, names, measure=measuring.measure):
    write_json(f"{os.environ['RANK']}.json", predictions)
    return measure(annotations, predictions, names)

measuring.measure = recording
sys.exit(main())
"""


@pytest.mark.slow
def test_two_processes_measure_as_one_does(tiny: Study, tmp_path: Path) -> None:
    (tmp_path / tiny.experiment.name).symlink_to(tiny.root)
    experiment = write_experiment(tiny.experiment, tmp_path)
    (tmp_path / "recording.py").write_text(RECORDING)
    detector = "teachers/faster_rcnn"
    model, _ = load_model(tiny.path(detector))
    expected, rows = measure_split(tiny, model, tiny.dataset.categories, split="train")
    command = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2", "recording.py", "evaluate"]
    command += [str(experiment), detector, "--split", "train", "--outputs", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(repository()), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *command], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(done.stdout.splitlines()) == len(rows), "one process prints"
    first, second = read_json(tmp_path / "0.json"), read_json(tmp_path / "1.json")
    assert first == second and len(first) == len(expected) > 100
    for ours, one in zip(first, expected, strict=True):
        assert (ours["image_id"], ours["category_id"]) == (one["image_id"], one["category_id"])
        assert [*ours["bbox"], ours["score"]] == pytest.approx([*one["bbox"], one["score"]], abs=0.02)


def shown(study: Study) -> list[str]:
    """Return the categories that the validation split has boxes of."""
    counts = read_json(study.path("dataset", "dataset.json"))["splits"]["val"]["per_category"]
    return [name for name, count in counts.items() if count]


@pytest.fixture(scope="module")
def foreign(tiny: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector of COCO's 80 categories as stock mmdet keeps one: `of.py` says them by its data set's class alone."""
    folder = tmp_path_factory.mktemp("foreign")
    model, config = random_detector("retinanet", 80)
    data = {"type": "CocoDataset", "ann_file": "nowhere.json", "pipeline": pipelines(tiny.experiment.input)[1]}
    write_config(folder / "of.py", {"model": config, "data": {"train": dict(data), "test": data}})
    nameless = {key: value for key, value in data.items() if key != "type"}
    write_config(folder / "nameless.py", {"model": config, "data": {"test": nameless}})
    write_config(folder / "three.py", {"model": config, "data": {"test": nameless}, "classes": ["a", "b", "c"]})
    write_checkpoint(folder / "coco.pth", {"state_dict": model.state_dict()})
    ours = [*shown(tiny)[:1], *(f"thing {number}" for number in range(79))]
    write_checkpoint(folder / "ours.pth", {"state_dict": model.state_dict(), "meta": {"CLASSES": tuple(ours)}})
    return folder


def measured(rows: list[dict[str, object]]) -> set[object]:
    """Return the categories that rows are about."""
    return {row["category"] for row in rows if row["metric"] == "AP"}


def test_a_stock_coco_checkpoint_is_measured_by_aliases(
    tiny: Study, foreign: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tiny.dataset.categories
    known = shown(tiny)[:2]
    lacking = [name for name in own if name not in known]
    aliases = dict(zip(("person", "toothbrush"), known, strict=True))
    config = str(foreign / "of.py")
    rows = evaluate(tiny, str(foreign / "coco.pth"), split="val", config=config, aliases=aliases)
    assert measured(rows) == set(known)
    said = f"measured on 2 of {len(own)} categories; the detector does not know {', '.join(lacking)} (--alias"
    assert said in capsys.readouterr().out


def test_what_a_checkpoint_says_of_its_categories_goes_before_its_config(tiny: Study, foreign: Path) -> None:
    for config in ("of.py", "nameless.py"):
        rows = evaluate(tiny, str(foreign / "ours.pth"), split="val", config=str(foreign / config))
        assert measured(rows) == set(shown(tiny)[:1])


@pytest.mark.parametrize(
    ("config", "aliases", "message"),
    [
        (
            "of.py",
            {},
            r"shares no category .* it knows person, bicycle, .* and 75 more; the data set has .*{first}.*--alias THEIRS=OURS",
        ),
        ("of.py", {"persn": "{first}"}, "unknown category 'persn'; did you mean 'person'"),
        ("of.py", {"person": "nothing"}, "--alias person=nothing: unknown category of the data set 'nothing'"),
        (
            "nameless.py",
            {},
            r"nameless\.py: neither its config nor its checkpoint .* says its categories; add `classes",
        ),
        ("three.py", {}, r"3 categories are named \(a, b, c\), but it tells 80 apart"),
    ],
    ids=["nothing in common", "misspelt", "no such category", "nameless", "another number"],
)
def test_categories_that_cannot_be_matched(
    config: str, aliases: dict[str, str], message: str, tiny: Study, foreign: Path
) -> None:
    first = tiny.dataset.categories[0]
    aliases = {theirs: ours.format(first=first) for theirs, ours in aliases.items()}
    with pytest.raises(ExperimentError, match=message.format(first=first)):
        evaluate(tiny, str(foreign / "coco.pth"), split="val", config=str(foreign / config), aliases=aliases)


def test_a_detector_that_is_not_there_is_told_beside_those_that_are(tiny: Study) -> None:
    with pytest.raises(
        FileNotFoundError,
        match=r"nor a checkpoint; the study's detectors: .*teachers/faster_rcnn, .*teachers/retinanet",
    ):
        evaluate(tiny, "teachers/fast_rcnn", split="val")


def test_a_teacher_is_measured_by_the_aliases_that_the_experiment_gives_it(tiny: Study, tmp_path: Path) -> None:
    own = tiny.dataset.categories
    content = torch.load(tiny.path("teachers", "retinanet", "checkpoint.pth"), weights_only=True)
    fields = read_config(tiny.path("teachers", "retinanet", "config.py"))
    folder = tmp_path / "teachers" / "theirs"
    folder.mkdir(parents=True)
    (tmp_path / "dataset").symlink_to(tiny.path("dataset"))
    write_checkpoint(folder / "checkpoint.pth", content)
    names = [f"their {name}" for name in own]
    write_config(folder / "config.py", {**fields, "categories": names})
    teacher = {"name": "theirs", "config": "a.py", "checkpoint": "a.pth", "aliases": dict(zip(names, own, strict=True))}
    changed = tiny.experiment.model_dump(by_alias=True) | {"teachers": [teacher]}
    study = Study(type(tiny.experiment).model_validate(changed), tmp_path, Job("distillation"))
    assert measured(evaluate(study, "teachers/theirs", split="val")) == measured(
        evaluate(tiny, "teachers/retinanet", split="val")
    )


def test_the_command_line_hands_aliases_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    given = {}
    monkeypatch.setattr("mutineck.detectors.measuring.evaluate", lambda *_, **more: given.update(more) or [])
    words = [
        "evaluate",
        "smoke",
        "a.pth",
        "--config",
        "a.py",
        "--alias",
        "airplane=aeroplane",
        "--alias",
        "tv = tvmonitor",
    ]
    assert cli.main(words) == 0
    assert given["aliases"] == {"airplane": "aeroplane", "tv": "tvmonitor"}
    with pytest.raises(SystemExit):
        cli.main([*words[:3], "--alias", "airplane"])
    assert "expected THEIRS=OURS, e.g. airplane=aeroplane, got 'airplane'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("config", "count", "first"),
    [
        ("faster_rcnn/faster_rcnn_r50_fpn_1x_coco.py", 80, "person"),
        ("pascal_voc/faster_rcnn_r50_fpn_1x_voc0712.py", 20, "aeroplane"),
        ("lvis/mask_rcnn_r50_fpn_sample1e-3_mstrain_1x_lvis_v1.py", 1203, "aerosol_can"),
    ],
)
def test_stock_configs_say_their_categories_by_their_data_set(config: str, count: int, first: str) -> None:
    found = config_categories(read_config(config))
    assert (len(found), found[0]) == (count, first)
