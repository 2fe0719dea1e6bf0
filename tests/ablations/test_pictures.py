"""Students on resamples of the pictures: the split's own value first, and nothing of results that are others now."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mutineck.ablations.pictures import measure_pictures, read_resampled
from mutineck.ablations.results import collect
from mutineck.detection.evaluation import measure
from mutineck.study.experiment import Experiment
from mutineck.study.jobs import Job
from mutineck.study.stage import Study
from mutineck.system.files import write_json
from tests.ablations.tiny import write_manifest
from tests.detection.test_resampling import NAMES, split

DETECTOR = {"family": "faster_rcnn"}


@pytest.fixture
def study(tmp_path: Path) -> Study:
    experiment = Experiment.model_validate(
        {
            "name": "tiny",
            "dataset": {"format": "shapes"},
            "teachers": [{"name": "big", "detector": DETECTOR}],
            "student": {"detector": DETECTOR},
            "arms": {"student": None, "fgd:big": None},
            "seeds": [0, 3],
        }
    )
    found = Study(experiment, tmp_path / "tiny", Job("ablations"))
    write_json(found.path("dataset", "dataset.json"), {"categories": NAMES, "splits": {}, "image_root": "."})
    for number, (arm, seed) in enumerate((arm, seed) for arm in ("student", "fgd-big") for seed in (0, 3)):
        file, predictions = split(found.path("dataset", "test.json"), 15)
        folder = found.path("distillation", arm, f"seed{seed}")
        better = [row for row in predictions if row["score"] > 0.1 * number]
        write_json(folder / "predictions_test.json", better)
        write_json(folder / "metrics.json", [{"split": "test", **row} for row in measure(file, better)])
        write_manifest(found, folder)
    return found


def test_each_student_is_measured_on_the_same_resamples(study: Study) -> None:
    table = measure_pictures(study).found
    assert table[["arm", "seed"]].values.tolist() == [["student", 0], ["student", 3], ["fgd:big", 0], ["fgd:big", 3]]
    assert list(table.columns[2:]) == [str(n) for n in range(201)]
    path = study.path("ablations", "resampled.csv")
    found = read_resampled(path, collect(study), "test")
    assert found is not None and found.shape == (4, 200)
    values = table.set_index(["arm", "seed"])
    assert np.corrcoef(values.to_numpy(dtype=float)[:, 1:]).min() > 0.5, "pictures that are hard are so to all"
    before = path.read_bytes()
    measure_pictures(study)
    assert path.read_bytes() == before


def test_resamples_of_other_results_do_not_count(study: Study) -> None:
    measure_pictures(study)
    frame = collect(study)
    changed = (frame["arm"] == "student") & (frame["seed"] == 3) & (frame["metric"] == "bbox_mAP")
    frame.loc[changed, "value"] += 0.001
    found = read_resampled(study.path("ablations", "resampled.csv"), frame, "test")
    assert found is not None and list(found.index) == [("student", 0), ("fgd:big", 0), ("fgd:big", 3)]
    assert read_resampled(study.path("ablations", "none.csv"), frame, "test") is None
    assert isinstance(found, pd.DataFrame)
