"""What a teacher of a part of the conditions is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from mutineck.detection.configs import read_config
from mutineck.detectors.training import TRAINING_CONFIG
from mutineck.study.experiment import Experiment
from mutineck.study.jobs import Job
from mutineck.study.settings import settings_of
from mutineck.study.stage import Study
from mutineck.system.errors import ExperimentError
from mutineck.system.files import read_json, write_json
from mutineck.teachers import prepare
from mutineck.teachers.training_subset import brightness, shown_part, training_annotations
from tests.detection.tiny import SCHEDULE, detector, experiment_of

GREYS = (40, 200, 80, 160, 120, 240)
AREAS = (100.0, 400.0, 900.0, 1600.0, 2500.0, 3600.0)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Six pictures with an object each, brighter and larger in different orders; in the last, a crowd besides."""
    images, annotations = [], []
    (tmp_path / "pictures").mkdir()
    for n, (grey, area) in enumerate(zip(GREYS, AREAS, strict=True), start=1):
        cv2.imwrite(str(tmp_path / "pictures" / f"{n}.png"), np.full((64, 96, 3), grey, np.uint8))
        images.append({"id": n, "file_name": f"{n}.png", "width": 96, "height": 64})
        box = [1, 2, area**0.5, area**0.5]
        annotations.append({"id": n, "image_id": n, "category_id": 1, "iscrowd": 0, "bbox": box, "area": area})
    annotations.append({"id": 7, "image_id": 6, "category_id": 1, "iscrowd": 1, "bbox": [0, 0, 5, 5], "area": 25.0})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "disc"}]}
    for split in ("train", "val"):
        write_json(tmp_path / "dataset" / f"{split}.json", content)
    write_json(
        tmp_path / "dataset" / "dataset.json", {"categories": ["disc"], "image_root": "pictures", "masks": "none"}
    )
    return tmp_path


def experiment_with(**teacher: Any) -> Experiment:
    teachers = [{"name": "one", "detector": detector("faster_rcnn"), "schedule": SCHEDULE, **teacher}]
    fields = experiment_of().model_dump(exclude_unset=True)
    if "source" in teacher:
        fields["dataset"] |= {"hide": {"parts": [{"name": "ours"}, {"name": "theirs"}]}}
    return Experiment.model_validate(fields | {"teachers": teachers})


def teacher(root: Path, **sees: str) -> Study:
    return Study(experiment_with(sees=sees or None), root, Job("teachers", "one"))


@pytest.mark.parametrize(
    ("sees", "pictures", "boxes", "threshold"),
    [
        ({"brightness": "dark"}, [1, 3, 5], [1, 3, 5], 140),
        ({"brightness": "bright"}, [2, 4, 6], [2, 4, 6, 7], 140),
        ({"area": "small"}, [1, 2, 3], [1, 2, 3], 1250),
        ({"area": "large"}, [4, 5, 6], [4, 5, 6, 7], 1250),
    ],
    ids=["dark", "bright", "small", "large"],
)
def test_a_part_and_the_threshold_that_bounds_it(root, sees, pictures, boxes, threshold):
    study = teacher(root, **sees)
    content = read_json(training_annotations(study))
    assert [image["id"] for image in content["images"]] == pictures
    assert [annotation["id"] for annotation in content["annotations"]] == boxes
    ((condition, side),) = sees.items()
    expected = {condition: {"side": side, "threshold": threshold}, "pictures": 3, "boxes": 3}
    assert shown_part(study) == {"sees": expected}


def test_a_source_teaches_what_its_pictures_are_labelled_for(root):
    path = root / "dataset" / "train.json"
    content = read_json(path)
    # Of six pictures the first two are of another source, and the third is not labelled for the only category.
    for image in content["images"]:
        image["sources"] = ["theirs"] if image["id"] < 3 else ["ours", "theirs"]
    content["images"][2]["labelled_category_ids"] = []
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != 3]
    names = [category["name"] for category in content["categories"]]
    write_json(path, content)
    described = root / "dataset" / "dataset.json"
    write_json(described, read_json(described) | {"source": {"sources": {"ours": names, "theirs": names}}})
    study = Study(experiment_with(source="ours"), root, Job("teachers", "one"))
    found = read_json(training_annotations(study))
    assert [image["id"] for image in found["images"]] == [4, 5, 6]
    assert {annotation["image_id"] for annotation in found["annotations"]} == {4, 5, 6}
    assert shown_part(study) == {"sees": {"source": "ours", "pictures": 3, "boxes": 3}}
    both = Study(experiment_with(source="ours", sees={"brightness": "dark"}), root, Job("teachers", "one"))
    assert [image["id"] for image in read_json(training_annotations(both))["images"]] == [5]


def test_two_conditions_hold_together(root):
    content = read_json(training_annotations(teacher(root, brightness="dark", area="large")))
    assert [image["id"] for image in content["images"]] == [5]


def test_the_median_belongs_to_the_brighter_and_the_larger(root):
    path = root / "dataset" / "train.json"
    content = read_json(path)
    for annotation in content["annotations"]:
        annotation["area"] = 400.0
    write_json(path, content)
    assert len(read_json(training_annotations(teacher(root, area="large")))["images"]) == 6
    with pytest.raises(ExperimentError, match=r"teachers\.one\.sees: area: small: no training picture is left"):
        training_annotations(teacher(root, area="small"))


def test_whoever_sees_all_reads_the_split_itself(root):
    study = teacher(root)
    assert training_annotations(study) == root / "dataset" / "train.json"
    assert shown_part(study) == {} == shown_part(study.at("teachers", "intermediate"))
    assert not (study.folder / "train.json").exists()


def test_brightness_is_the_mean_grey(tmp_path):
    picture = np.zeros((10, 10, 3), np.uint8)
    picture[:5] = 200
    cv2.imwrite(str(tmp_path / "half.png"), picture)
    assert brightness(tmp_path / "half.png") == pytest.approx(100)


def test_it_trains_on_its_part_and_is_measured_on_all(root):
    study = teacher(root, area="small")
    rows = prepare(study).found
    data = read_config(study.folder / TRAINING_CONFIG).data
    assert (data.train.ann_file, data.val.ann_file) == (
        str(study.folder / "train.json"),
        str(root / "dataset" / "val.json"),
    )
    assert {row["split"] for row in rows} == {"val"}


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ({"sees": {"brightness": "drak"}}, "'dark' or 'bright'"),
        ({"sees": {"brigtness": "dark"}}, "brigtness"),
        ({"sees": {}}, "say a part"),
        ({"source": "our"}, r"teachers\.one\.source: unknown source 'our'; did you mean 'ours'"),
        ({"source": "ours", "detector": None, "zoo": "faster_rcnn_r101_fpn_2x_coco"}, "`source` needs a `detector`"),
        ({"sees": {"area": "small"}, "detector": None, "zoo": "faster_rcnn_r101_fpn_2x_coco"}, "needs a `detector`"),
    ],
    ids=["side", "condition", "nothing", "unknown source", "source of another's", "not trained here"],
)
def test_what_no_teacher_sees(teacher, message):
    with pytest.raises(ValueError, match=message):
        experiment_with(**teacher)


def test_a_teacher_that_sees_all_is_not_stale_by_the_field():
    assert "sees" not in settings_of(experiment_with(), Job("teachers", "one"))["teacher"]
    assert (
        settings_of(experiment_with(sees={"area": "small"}), Job("teachers", "one"))["teacher"]["sees"]["area"]
        == "small"
    )
