"""The teachers' ensemble: fused boxes by hand, scores of what one teacher alone knows, and its row in the tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mutineck.ablations.ensemble import fuse, measure_ensemble
from mutineck.ablations.results import best_teacher, collect, scores
from mutineck.ablations.studies import StudyResults, teachers_of
from mutineck.ablations.table import readable, summarise
from mutineck.detection.evaluation import measure
from mutineck.study.experiment import Experiment
from mutineck.study.jobs import Job
from mutineck.study.stage import Study
from mutineck.system.files import write_json
from tests.ablations.tiny import write_manifest

DETECTOR = {"family": "faster_rcnn"}
SIZES = {1: (100, 50), 2: (80, 80)}


def box(x: float, y: float, w: float, h: float, score: float, *, image: int = 1, category: int = 1) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": [x, y, w, h], "score": score}


def test_boxes_of_one_object_are_their_mean_by_score() -> None:
    fused = fuse([[box(10, 10, 20, 20, 0.9)], [box(12, 10, 20, 20, 0.3)]], [{1}, {1}], SIZES)
    assert fused == [box(10.5, 10, 20, 20, 0.6)]


def test_what_one_alone_finds_counts_less_and_what_one_alone_knows_does_not() -> None:
    found = [[box(10, 10, 20, 20, 0.8)], [box(50, 10, 20, 20, 0.6, category=2)]]
    assert [row["score"] for row in fuse(found, [{1, 2}, {1, 2}], SIZES)] == [0.4, 0.3]
    assert [row["score"] for row in fuse(found, [{1}, {2}], SIZES)] == [0.8, 0.6]
    assert fuse(found, [{1}, {2}], SIZES) == [found[0][0], found[1][0]]


def test_pictures_and_categories_stay_apart() -> None:
    rows = [box(10, 10, 20, 20, 0.5), box(10, 10, 20, 20, 0.5, image=2), box(10, 10, 20, 20, 0.5, category=2)]
    assert fuse([rows], [{1, 2}], SIZES) == [rows[0], rows[2], rows[1]]
    assert fuse([[], []], [{1}, {1}], SIZES) == []


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Two specialists without a fault, each of one category."""
    teachers = [{"name": name, "detector": DETECTOR, "categories": [name]} for name in ("cat", "dog")]
    experiment = Experiment.model_validate(
        {"name": "tiny", "dataset": {"format": "shapes"}, "teachers": teachers}
        | {"student": {"detector": DETECTOR}, "arms": {"student": None}}
    )
    found = Study(experiment, tmp_path / "tiny", Job("ablations"))
    images = [{"id": n, "file_name": f"{n}.png", "width": w, "height": h} for n, (w, h) in SIZES.items()]
    truth = [box(10 * n, 5, 20, 20, 1, image=1 + n % 2, category=1 + n // 2) for n in range(4)]
    annotations = [row | {"id": n + 1, "area": 400, "iscrowd": 0} for n, row in enumerate(truth)]
    content = {"images": images, "annotations": annotations}
    content |= {"categories": [{"id": n + 1, "name": name} for n, name in enumerate(("cat", "dog"))]}
    for n, name in enumerate(("cat", "dog")):
        rows = []
        for split in ("val", "test"):
            file = write_json(found.path("dataset", f"{split}.json"), content)
            own = [row for row in truth if row["category_id"] == n + 1]
            write_json(found.path("teachers", name, f"predictions_{split}.json"), own)
            rows += [{"split": split, **row} for row in measure(file, own, [name])]
        write_json(found.path("teachers", name, "metrics.json"), rows)
        write_manifest(found, found.path("teachers", name), finished="2000-01-01T00:00:00Z")
    return found


def test_the_ensemble_is_a_row_of_teachers_and_no_teacher(study: Study) -> None:
    assert (collect(study)["arm"] != "teacher:ensemble").all()
    rows = measure_ensemble(study).found
    assert {row["value"] for row in rows if row["metric"] == "bbox_mAP"} == {1.0}
    frame = collect(study)
    assert scores(frame, "test")["arm"].tolist() == ["teacher:cat", "teacher:dog", "teacher:ensemble"]
    shown = readable(summarise(frame, study.experiment, "test"))
    assert shown["arm"].tolist()[:3] == [
        "cat (teacher, 1 of 2 categories)",
        "dog (teacher, 1 of 2 categories)",
        "ensemble (teacher)",
    ]
    assert best_teacher(frame) == "cat" and [*teachers_of(StudyResults("tiny", frame, "test", {}))] == ["cat", "dog"]


def test_an_ensemble_of_teachers_that_are_others_now_does_not_count(study: Study) -> None:
    measure_ensemble(study)
    write_manifest(study, study.path("teachers", "dog"), finished="2000-01-02T00:00:00Z")
    assert (collect(study)["arm"] != "teacher:ensemble").all()


def test_one_teacher_has_no_ensemble(study: Study) -> None:
    experiment = study.experiment.model_copy(update={"teachers": study.experiment.teachers[:1]})
    alone = Study(experiment, study.root, Job("ablations"))
    assert measure_ensemble(alone).found == [] and not alone.path("ablations", "ensemble.json").exists()
