"""A finished study, small and invented, for every test of this folder."""

from __future__ import annotations

import numpy as np
import pytest

from mutineck.study.jobs import Job
from mutineck.study.stage import Study
from tests.figures.tiny import CATEGORIES, draw_pictures, make_experiment, write_study


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A finished study; tests read it and write figures into it, and change nothing else."""
    root = tmp_path_factory.mktemp("outputs") / "tiny"
    study = Study(make_experiment(), root, Job("figures"))
    rng = np.random.default_rng(0)
    counts = {"train": 14, "val": 8, "test": 10}
    documents = {
        split: draw_pictures(root / "dataset" / "images", split, count, rng) for split, count in counts.items()
    }
    return write_study(study, documents, "dataset/images", CATEGORIES)
