"""Detecting on new pictures: the boxes are those that the study measures, and stock mmdet finds."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from mutineck import cli
from mutineck.detection.configs import pipelines, write_config
from mutineck.detection.loading import write_checkpoint
from mutineck.detection.specs import InputSpec
from mutineck.detectors.folders import load_model
from mutineck.detectors.measuring import measure_split
from mutineck.detectors.prediction import DETECTIONS, DRAWN, list_pictures, predict_pictures
from mutineck.figures.boxed import boxed_pictures, font_of, readable_on
from mutineck.study.jobs import Job
from mutineck.study.stage import Study, write_experiment
from mutineck.system.errors import ExperimentError
from mutineck.system.files import read_json
from tests.detection.tiny import experiment_of, random_detector


@pytest.fixture(scope="module")
def study(tiny: Study, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study as it lies in `outputs/`, one picture a step where it is measured."""
    experiment = experiment_of(evaluation={"splits": ["val"], "report": "val", "batch": 1})
    root = tmp_path_factory.mktemp("outputs") / "tiny"
    write_experiment(experiment, root)
    (root / "dataset").symlink_to(tiny.path("dataset"))
    (root / "teachers").symlink_to(tiny.path("teachers"))
    return Study(experiment, root, Job("figures"))


@pytest.fixture
def pictures(study: Study, tmp_path: Path) -> Path:
    """The pictures of the validation split, in a folder of another's."""
    folder = tmp_path / "new"
    for image in read_json(study.path("dataset", "val.json"))["images"]:
        (folder / "sub").mkdir(parents=True, exist_ok=True)
        shutil.copy(study.dataset.pictures / image["file_name"], folder / "sub")
    return folder


def by_picture(rows: list[dict[str, Any]], names: dict[int, str]) -> dict[str, list[list[float]]]:
    found: dict[str, list[list[float]]] = {}
    for row in rows:
        found.setdefault(Path(names[row["image_id"]]).name, []).append([row["category_id"], row["score"], *row["bbox"]])
    return {name: sorted(each) for name, each in found.items()}


def test_boxes_are_those_that_the_study_measures(
    study: Study, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = study.path("teachers", "faster_rcnn")
    to = tmp_path / "out"
    assert cli.main(["predict", str(teacher), str(pictures), "--to", str(to), "--score", "0.2"]) == 0
    document = read_json(to / DETECTIONS)
    assert [c["name"] for c in document["categories"]] == list(study.dataset.categories)
    expected, _ = measure_split(study, load_model(teacher)[0], study.dataset.categories, split="val")
    images = {image["id"]: image["file_name"] for image in read_json(study.path("dataset", "val.json"))["images"]}
    ours = by_picture(document["annotations"], {image["id"]: image["file_name"] for image in document["images"]})
    theirs = by_picture(expected, images)
    assert theirs and ours.keys() == theirs.keys()
    for name, rows in ours.items():
        assert np.array(rows) == pytest.approx(np.array(theirs[name]), abs=0.02)
    assert len({row["id"] for row in document["annotations"]}) == len(document["annotations"])
    count, sure = len(images), sum(row["score"] >= 0.2 for row in document["annotations"])
    said = capsys.readouterr().out
    assert f"{count} of {count} pictures, 0 skipped, " in said
    assert said.endswith(f"{len(expected)} boxes on {count} pictures, {sure} of 0.2 or more; 0 pictures skipped\n")
    drawn = sorted(path.relative_to(to / DRAWN).as_posix() for path in (to / DRAWN).rglob("*.*"))
    assert drawn == sorted(image["file_name"] for image in document["images"])


def test_a_checkpoint_detects_as_stock_mmdet_has_it_detect(study: Study, pictures: Path, tmp_path: Path) -> None:
    from mmdet.apis import inference_detector, init_detector

    model, config = random_detector("retinanet", 2)
    test = pipelines(InputSpec(scale=(96, 96)))[1]
    for step in test[1]["transforms"]:
        step |= {"keep_ratio": False} if step["type"] == "Resize" else {}
        step |= {"type": "ImageToTensor", "keys": ["img"]} if step["type"] == "DefaultFormatBundle" else {}
    write_config(tmp_path / "mine.py", {"model": config, "data": {"test": {"pipeline": test}}, "classes": ["a", "b"]})
    write_checkpoint(tmp_path / "mine.pth", {"state_dict": model.state_dict(), "meta": {"CLASSES": ("a", "b")}})
    document = predict_pictures(tmp_path / "mine.pth", pictures, tmp_path / "out", config=str(tmp_path / "mine.py"))
    assert not (tmp_path / "out" / DRAWN).exists()
    stock = init_detector(str(tmp_path / "mine.py"), str(tmp_path / "mine.pth"), device="cpu")
    for image in document["images"]:
        rows = [row for row in document["annotations"] if row["image_id"] == image["id"]]
        expected = inference_detector(stock, str(pictures / image["file_name"]))
        assert [sum(row["category_id"] == n + 1 for row in rows) for n in range(2)] == [len(each) for each in expected]
        x, y, right, bottom, score = expected[0][0].tolist()
        assert [*rows[0]["bbox"], rows[0]["score"]] == pytest.approx([x, y, right - x, bottom - y, score], abs=0.02)
    with pytest.raises(ExperimentError, match=r"mine\.pth is a checkpoint: name its mmdet config with --config PATH"):
        predict_pictures(tmp_path / "mine.pth", pictures, tmp_path / "out")


def test_bad_pictures_are_said_skipped_and_counted(
    study: Study, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = next((pictures / "sub").iterdir())
    content = good.read_bytes()
    (pictures / "cut.png").write_bytes(cv2.imencode(".png", cv2.imread(str(good)))[1].tobytes()[:500])
    (pictures / "empty.JPG").touch()
    (pictures / ".hidden.jpg").write_bytes(content)
    (pictures / "notes.txt").write_text("no picture")
    Image.fromarray(np.full((20, 40, 3), 90, np.uint8)).save(pictures / "turned.jpg", exif=exif(6))
    count = sum(1 for _ in (pictures / "sub").iterdir()) + 1
    document = predict_pictures(
        study.path("teachers", "fcos"), pictures, pictures, drawing=lambda names: boxed_pictures(names, 0)
    )
    reasons = {row["file_name"]: row["reason"] for row in document["skipped"]}
    assert reasons.keys() == {"cut.png", "empty.JPG"} and "empty" in reasons["empty.JPG"]
    said = capsys.readouterr().out
    assert (
        f"empty.JPG: skipped: {reasons['empty.JPG']}\n" in said
        and f"{count + 2} of {count + 2} pictures, 2 skipped" in said
    )
    (turned,) = [image for image in document["images"] if image["file_name"] == "turned.jpg"]
    assert (turned["width"], turned["height"]) == (20, 40)
    assert cv2.imread(str(pictures / DRAWN / "turned.jpg")).shape == (40, 20, 3)
    assert len(list_pictures(pictures, pictures / DRAWN)) == count + 2, "what was drawn is no picture to detect on"


def exif(orientation: int) -> bytes:
    found = Image.Exif()
    found[0x0112] = orientation
    return found.tobytes()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("teachers/none", "{0}"), "neither a detector's folder nor a checkpoint"),
        (("teachers/fcos", "{0}/nowhere"), r"nowhere: there is no such folder \(endings that are read: \.jpg "),
        (("teachers/fcos", "{0}/bad"), r"bad: none of the 1 pictures can be read; the lines above say why"),
        (("alone", "{0}"), "neither its config nor a study around it gives .* --scale WIDTHxHEIGHT"),
    ],
)
def test_what_cannot_be_done_is_refused(
    given: tuple[str, str], message: str, study: Study, pictures: Path, tmp_path: Path
) -> None:
    (pictures / "bad").mkdir()
    (pictures / "bad" / "a.jpg").touch()
    shutil.copytree(study.path("teachers", "fcos"), study.path("alone"), dirs_exist_ok=True)
    shutil.move(study.path("alone"), tmp_path / "alone")
    detector = tmp_path / given[0] if given[0] == "alone" else study.path(given[0])
    with pytest.raises((ExperimentError, OSError, RuntimeError), match=message):
        predict_pictures(detector, Path(given[1].format(pictures)), tmp_path / "out")
    assert not (tmp_path / "out" / DETECTIONS).exists()


def test_a_box_is_drawn_where_it_is_and_only_if_it_is_sure_enough(tmp_path: Path) -> None:
    grey = np.full((120, 160, 3), 128, np.uint8)
    Image.fromarray(grey).save(tmp_path / "a.png")
    Image.fromarray(grey).save(tmp_path / "a.webp", lossless=True)
    rows = [
        {"category_id": 2, "bbox": [20.0, 40.0, 60.0, 50.0], "score": 0.9},
        {"category_id": 1, "bbox": [100.0, 5.0, 20.0, 20.0], "score": 0.1},
    ]
    draw = boxed_pictures(["cat", "Hündchen"], 0.5)
    to = draw(tmp_path / "a.png", rows, tmp_path / "out" / "b" / "a.png")
    changed = (np.asarray(Image.open(to)) != grey).any(-1)
    assert changed[40, 20:81].all() and changed[90, 20:81].all() and changed[40:91, 80].all()
    assert not changed[70:89, 30:75].any() and not changed[:36].any(), "the other box is not sure enough"
    assert draw(tmp_path / "a.webp", [], tmp_path / "out" / "a.webp").name == "a.webp.jpg"


def test_labels_are_written_in_a_font_that_has_their_letters_and_a_colour_that_is_read() -> None:
    assert Path(font_of("cat")).name == "DejaVuSans.ttf" and Path(font_of("\U0010fffd")).name == "DejaVuSans.ttf"
    assert readable_on("#F0E442") == "black" and readable_on("#0072B2") == "white"


@pytest.mark.parametrize("option", [("--score", "2"), ("--score", "x"), ("--scale", "640"), ("--scale", "0x3")])
def test_options_that_make_no_sense_are_refused(option: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["predict", "a", "b", "--to", "c", *option])
    assert f"got {option[1]!r}" in capsys.readouterr().err
