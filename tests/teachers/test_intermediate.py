"""The intermediate teacher, trained for real on a small scale: two specialists become one that knows both."""

from __future__ import annotations

from pathlib import Path

import pytest

from mutineck.dataset.stage import convert
from mutineck.stage import Study
from mutineck.storage import read_json
from mutineck.teachers import prepare
from tests.detection.tiny import detector, experiment_of

FLOOR = 0.2


def mean_ap(rows: list[dict], categories: list[str]) -> float:
    values = {r["category"]: r["value"] for r in rows if r["metric"] == "AP" and r["split"] == "val"}
    return sum(values.get(c, 0.0) for c in categories) / len(categories)


@pytest.mark.slow
def test_specialists_with_disjoint_labels_merge_into_one_that_knows_both(tmp_path: Path) -> None:
    halves = {"first": ["disc", "star"], "second": ["cross", "ring"]}
    size = {"base_channels": 16, "neck_channels": 32, "head_channels": 64}
    rate = {"epochs": 10, "batch": 4, "learning_rate": 0.02, "warmup": 50, "steps": [0.8]}
    fields = experiment_of().model_dump(exclude_unset=True) | {
        "dataset": {
            "format": "shapes", "split": (10, 2, 1), "categories": [c for half in halves.values() for c in half],
            "shapes": {"images": 130, "size": [128, 96], "max_objects": 5},
        },
        "teachers": [
            {"name": name, "detector": detector("faster_rcnn", **size), "categories": half, "schedule": rate, "seed": k}
            for k, (name, half) in enumerate(halves.items())
        ],
        "intermediate": {"gate": 0.0, "alignment_images": 50, "schedule": rate | {"epochs": 6, "learning_rate": 0.01}},
        "arms": {"student": None},
        "student": {"detector": detector("faster_rcnn", **size)},
    }
    from mutineck.experiment import Experiment

    study = Study(Experiment.model_validate(fields), tmp_path / "study", "dataset")
    convert(study)
    rows = {name: prepare(study.at("teachers", name)) for name in halves}
    merged = prepare(study.at("teachers", "intermediate"))
    for name, half in halves.items():
        assert mean_ap(rows[name], half) >= FLOOR, f"{name} has learnt nothing"
        other = next(c for n, c in halves.items() if n != name)
        assert mean_ap(rows[name], other) == 0.0
        assert mean_ap(merged, half) >= FLOOR, f"what {name} knows got lost"
    alignment = read_json(study.path("teachers", "intermediate", "alignment.json"))
    assert {row["teacher"] for row in alignment} == {"second"} and {row["stride"] for row in alignment} == {4, 8, 16, 32, 64}
    assert all(0 < row["explained"] < 1 for row in alignment)
