"""Teachers compared on resamples: one that is worse on most pictures is weak, one that is worse by a picture is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mutineck.detection.evaluation import measure
from mutineck.study.checks import TooWeak
from mutineck.study.jobs import Job
from mutineck.study.stage import Study
from mutineck.system.files import read_json, write_json
from mutineck.teachers import results
from mutineck.teachers.checks import ap_on_all_categories, check_intermediate, check_teacher
from tests.detection.tiny import experiment_of

NAMES = ("cat", "dog")
PICTURES = 30


def write_split(study: Study) -> None:
    """Write a split of one cat and one dog a picture."""
    random = np.random.default_rng(0)
    boxes = [[*map(float, random.uniform(0, 60, 2)), 30.0, 30.0] for _ in range(2 * PICTURES)]
    annotations = [
        {"id": n + 1, "image_id": n // 2 + 1, "category_id": n % 2 + 1, "bbox": box, "area": 900.0, "iscrowd": 0}
        for n, box in enumerate(boxes)
    ]
    images = [{"id": n + 1, "file_name": f"{n}.png", "width": 96, "height": 96} for n in range(PICTURES)]
    categories = [{"id": n + 1, "name": name} for n, name in enumerate(NAMES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    write_json(study.path("dataset", "val.json"), content)
    write_json(study.path("dataset", "dataset.json"), {"categories": list(NAMES), "image_root": "pictures"})


def write_teacher(study: Study, name: str, found: int, known: tuple[str, ...] = NAMES) -> list[dict[str, Any]]:
    """Write a teacher that finds all objects of its categories on the first pictures and nothing on the others."""
    labels = {n + 1 for n, category in enumerate(NAMES) if category in known}
    truth = read_json(study.path("dataset", "val.json"))["annotations"]
    predictions = [
        {key: row[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.9}
        for row in truth
        if row["image_id"] <= found and row["category_id"] in labels
    ]
    rows = [
        {"name": name, "split": "val", **row} for row in measure(study.path("dataset", "val.json"), predictions, known)
    ]
    write_json(study.path("teachers", name, "predictions_val.json"), predictions)
    write_json(study.path("teachers", name, "metrics.json"), rows)
    return rows


@pytest.fixture
def study(tmp_path: Path) -> Study:
    experiment = experiment_of(
        arms=["mutineck"],
        intermediate={"gate": 0.002},
        checks={"on_weak": "stop"},
        evaluation={"splits": ["val"], "report": "val"},
    )
    made = Study(experiment, tmp_path, Job("teachers", "intermediate"))
    write_split(made)
    return made


def set_floor(study: Study, floor: float) -> Study:
    teachers = tuple(teacher.model_copy(update={"floor": floor}) for teacher in study.experiment.teachers)
    experiment = study.experiment.model_copy(update={"teachers": teachers})
    return Study(experiment, study.root, Job("teachers", "faster_rcnn"))


def test_what_a_few_pictures_cannot_tell_stops_nothing(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    write_teacher(study, "faster_rcnn", 21)
    write_teacher(study, "retinanet", 15)
    rows = write_teacher(study, "intermediate", 20)
    check = check_intermediate(study)
    assert check.against == "faster_rcnn" and check.pictures == PICTURES and check.resamples == 1000
    # One picture of thirty more: a difference that some resamples do not have at all.
    assert -0.06 < check.difference < -0.02 and check.low < check.difference < check.high
    assert check.high >= 0 and check.reached == pytest.approx(2 / 3, abs=0.02)
    assert "gate -0.002: good enough" in capsys.readouterr().out
    assert results(study, rows) == {"val": rows[0]["value"], "check": json.loads(json.dumps(check._asdict()))}


def test_what_all_pictures_say_stops_a_study_that_asks_for_it_and_is_said_in_one_that_does_not(study: Study) -> None:
    write_teacher(study, "faster_rcnn", 28)
    write_teacher(study, "retinanet", 15)
    write_teacher(study, "intermediate", 12)
    with pytest.raises(TooWeak, match=r"below the best teacher, faster_rcnn, on val .*: more than chance and the gate"):
        check_intermediate(study)
    said = study.experiment.model_copy(update={"checks": study.experiment.checks.model_copy(update={"on_weak": "say"})})
    assert check_intermediate(Study(said, study.root, Job("teachers", "intermediate"))).high < -0.2


def test_equal_teachers_differ_by_nothing_for_sure(study: Study) -> None:
    for name in ("faster_rcnn", "retinanet", "intermediate"):
        write_teacher(study, name, 20)
    assert check_intermediate(study)[2:5] == (0, 0, 0), "the same pictures are drawn for both"


def test_a_teacher_counts_with_the_categories_that_it_lacks(study: Study) -> None:
    write_teacher(study, "faster_rcnn", 30, ("cat",))
    write_teacher(study, "retinanet", 20)
    write_teacher(study, "intermediate", 20)
    assert ap_on_all_categories(study, "faster_rcnn") == pytest.approx(0.5)
    assert check_intermediate(study).against == "retinanet", "a specialist's 1.0 is half of what there is"


@pytest.mark.parametrize(("floor", "weak"), [(0.0, False), (0.7, False), (0.95, True)])
def test_a_floor_is_compared_with_what_the_split_can_tell(study: Study, floor: float, weak: bool) -> None:
    rows = write_teacher(study, "faster_rcnn", 20, ("cat",))
    of_floor = set_floor(study, floor)
    if weak:
        with pytest.raises(TooWeak, match=r"lower teachers.faster_rcnn.floor, or let the study say so and go on"):
            check_teacher(of_floor, rows)
    else:
        check = check_teacher(of_floor, rows)
        assert check is not None and check.reached == check.difference == pytest.approx(2 / 3, abs=0.02)
        assert 0.4 < check.low < check.reached < check.high < 0.9
    assert (of_floor.folder / "check.json").is_file(), "the numbers stand there in any case"


def test_a_split_without_its_categories_says_nothing_of_a_teacher(study: Study) -> None:
    assert (
        check_teacher(set_floor(study, 0.5), [{"metric": "bbox_mAP", "split": "val", "category": "", "value": 0.0}])
        is None
    )
