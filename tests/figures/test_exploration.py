"""Everything about one picture: found by each way of choosing, drawn with whatever is there."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mutineck.distillation import observation
from mutineck.figures import explain, explore
from mutineck.figures.exploration import Choice, choose
from mutineck.figures.registry import load
from mutineck.figures.responses import draw_responses
from mutineck.study.jobs import Job
from mutineck.study.stage import Study
from mutineck.system.errors import ExperimentError
from mutineck.system.files import read_json, write_json
from tests.figures.tiny import CATEGORIES, invented_look


@pytest.fixture
def seeing(finished: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """The finished study with checkpoints to look through, and networks replaced by invention."""
    root = shutil.copytree(finished.root, tmp_path / "tiny")
    for name in ("faster", "retina"):
        (root / "teachers" / name / "checkpoint.pth").touch()

    def inspected(study: Study, names: list[str], **given: Any) -> dict[str, Any]:
        return invented_look(list(names), [], len(CATEGORIES), np.random.default_rng(given["image"]))

    monkeypatch.setattr(observation, "inspect_image", inspected)
    return Study(finished.experiment, root, Job("figures"))


def titles(figure: Any) -> list[str]:
    return [axis.get_title() for axis in figure.axes if axis.get_visible()]


def test_each_way_of_choosing(finished: Study) -> None:
    images = read_json(finished.path("dataset", "test.json"))["images"]
    ids = sorted(image["id"] for image in images)
    assert choose(finished, Choice(ids[3]))[1] == ids[3]
    assert choose(finished, Choice("test_003.png"))[1] == choose(finished, Choice("test_003"))[1] == ids[3]
    assert choose(finished, Choice(index=-1))[1] == ids[-1]
    assert choose(finished, Choice(index=0, split="val"))[0].name == "val"
    split, train_image = choose(finished, Choice("train_000"))
    assert split.name == "train" and train_image in split.images
    split, image = choose(finished, Choice(category="ring"))
    counts = {i: int((split.targets(i)[1] == 1).sum()) for i in split.images}
    assert counts[image] == max(counts.values()) > 0


def test_by_defect(finished: Study, tmp_path: Path) -> None:
    root = shutil.copytree(finished.root, tmp_path / "tiny")
    defect = {"file": "Annotations/val_002.xml", "field": "size", "reason": "wrong size", "action": "repaired"}
    write_json(root / "dataset" / "defects.json", [defect])
    study = Study(finished.experiment, root, Job("figures"))
    split, image = choose(study, Choice(defect="size"))
    assert (split.name, split.images[image]["file_name"]) == ("val", "val_002.png")
    with pytest.raises(ExperimentError, match="known: wrong size"):
        choose(study, Choice(defect="wrong sign"))


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"image": 1, "index": 2}, "one of image, index, category, defect; got image, index"),
        ({"image": 987654}, "no picture 987654 in the splits test, val, train"),
        ({"index": 99}, "pictures 0 to 9, got index 99"),
        ({"category": "rnig"}, "did you mean 'ring'"),
        ({"split": "vla"}, "did you mean 'val'"),
    ],
    ids=["two ways", "no such id", "index beyond", "category", "split"],
)
def test_what_cannot_be_chosen_is_said(finished: Study, choice: dict[str, Any], message: str) -> None:
    with pytest.raises(ExperimentError, match=message):
        choose(finished, Choice(**choice))


def test_everything_is_in_the_picture(seeing: Study) -> None:
    figure = explain(seeing, index=2)
    shown = titles(figure)
    assert shown[1:4] == ["teacher faster", "teacher retina", "intermediate"]
    assert shown[4] == "student alone" and shown[5].startswith("taught: ")
    assert shown[6:] == [
        "stacked proposals",
        "centre response, stride 8",
        "regions, stride 8",
        "regions, stride 16",
        "omega of each target",
    ]
    assert figure._repr_png_() == explain(seeing, index=2)._repr_png_()


def test_without_weights_the_rest_is_shown(finished: Study) -> None:
    figure = explain(finished, index=0)
    assert len(titles(figure)) == 6
    assert "weights are not there" in figure._suptitle.get_text()


def test_a_picture_nobody_has_predicted_on(seeing: Study) -> None:
    figure = explain(seeing, "train_001")
    assert titles(figure)[1] == "stacked proposals"
    assert "No detections are stored for train" in figure._suptitle.get_text()


def test_a_picture_without_targets(seeing: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    document = read_json(seeing.path("dataset", "test.json"))
    bare = document["images"][0]["id"]
    document["annotations"] = [item for item in document["annotations"] if item["image_id"] != bare]
    write_json(seeing.path("dataset", "test.json"), document)
    empty = invented_look(["faster", "retina"], [], 3, np.random.default_rng(0), targets=0)
    monkeypatch.setattr(observation, "inspect_image", lambda *args, **kwargs: empty)
    assert titles(explain(seeing, bare))[0] == "targets (0)"


def test_no_front_end_means_one_picture(finished: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    assert explore(finished)._repr_png_().startswith(b"\x89PNG")


def test_the_chooser_follows_its_controls(finished: Study) -> None:
    controls, output = explore(finished, widgets=True).children
    split, category, index = controls.children
    assert (split.value, index.max) == ("test", 9)
    split.value = "val"
    assert index.max == 7
    category.value = "ring"
    assert index.max < 7
    assert output is not None


def test_students_of_other_channels_have_no_error() -> None:
    seen = invented_look(["faster", "retina"], ["student/seed0"], 3, np.random.default_rng(0))
    seen = {key: value for key, value in seen.items() if not key.startswith("error/")}
    assert "no error can be shown" in draw_responses(seen).caption


def test_the_weaker_teachers_targets_are_the_weaker_teachers(finished: Study) -> None:
    table = load("weaker_wins")(finished).data
    assert len(table) and (table["quality_weaker"] > table["quality_strongest"]).all()
    assert set(table["weaker"]) == {"retina"}
