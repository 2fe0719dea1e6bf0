"""Extraction beside the bare teacher's passes on the same pictures, and Parquet beside a text file a row."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.clusters import CHANNELS, generate
from benchmarks.study import random_study
from benchmarks.table import Row, side_by_side
from mutineck.detection.evaluation import Batch, device_of, evaluation_loader
from mutineck.detection.frozen import FrozenDetector
from mutineck.experiment import load_experiment
from mutineck.features.extraction import extract_teacher, loader_of
from mutineck.features.shards import load_features
from mutineck.stage import Study
from mutineck.storage import read_json
from mutineck.teachers.frozen import load_frozen

BARE = "the teacher's passes alone"
TEXT_ROWS = 5000
LARGE = {
    "dataset.shapes.images": 20,
    "dataset.shapes.size": [512, 384],
    "input.scale": [512, 384],
    "teachers": [{"name": "r50", "detector": {"family": "faster_rcnn", "depth": 50}}],
    "arms": {"student": None},
}
"""What makes of `shapes` a study with a teacher of published size."""


def rows() -> list[Row]:
    """Measure two sizes of teachers, pictures read from disk and vectors written, and one read of the vectors."""
    small = _extraction("faster of shapes, 192x144", ["dataset.shapes.images=120"], rounds=9)
    large = _extraction("ResNet-50 with FPN, 512x384", [f"{k}={v}" for k, v in LARGE.items()], rounds=3)
    return [small, large, *_files()]


def _extraction(name: str, overrides: list[str], *, rounds: int) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        study = random_study(load_experiment("shapes", overrides), Path(folder))
        teacher = load_frozen(study, study.experiment.teachers[0].name)
        batches = list(evaluation_loader(study, "train", batch=study.experiment.features.batch))
        runs = {"ours": partial(extract_again, study, teacher), BARE: partial(look, study, teacher, batches)}
        measured = side_by_side(runs, rounds=rounds)
        pictures = sum(len(batch.image_ids) for batch in batches)
    return measured.faster(f"features of {pictures} pictures, {name}: read, pooled, written", "ours", BARE, 0.9)


def extract_again(study: Study, teacher: FrozenDetector) -> None:
    """Extract a teacher's vectors into a folder that is not there yet."""
    folder = study.path("features", teacher.name)
    shutil.rmtree(folder, ignore_errors=True)
    extract_teacher(
        lambda: teacher,
        partial(loader_of, study),
        read_json(study.need("dataset", "train.json")),
        folder,
        name=teacher.name,
        key="",
        spec=study.experiment.features,
        device=device_of(study.experiment.resources.device),
    )


def look(study: Study, teacher: FrozenDetector, batches: list[Batch]) -> None:
    """Run the teacher on pictures that are in memory."""
    device = device_of(study.experiment.resources.device)
    with torch.inference_mode():
        for batch in batches:
            teacher.maps(batch.image.to(device))


def _files() -> list[Row]:
    with tempfile.TemporaryDirectory() as name:
        folder, text = Path(name, "parquet"), Path(name, "text")
        generate(folder, TEXT_ROWS)
        text.mkdir()
        for row, vector in enumerate(load_features(folder, ["vector"])["vector"]):
            np.savetxt(text / f"{row}.txt", vector[None], fmt="%.6g")
        label = "a text file a row"
        runs: dict[str, Callable[[], object]]
        runs = {"ours": partial(load_features, folder, ["vector"]), label: partial(read_text, text)}
        measured = side_by_side(runs, rounds=5, wall=True)
        ours, theirs = (sum(file.stat().st_size for file in each.iterdir()) / 2**20 for each in (folder, text))
    size = f"{TEXT_ROWS} vectors of {CHANNELS}"
    return [
        measured.faster(f"reading back {size}", "ours", label),
        Row(f"size of {size}", ours, "MiB", label, theirs, ours / theirs, note="float16 beside six digits"),
    ]


def read_text(folder: Path) -> np.ndarray:
    """Read a folder of text files, in the order of their numbers."""
    return np.stack([np.loadtxt(folder / f"{row}.txt") for row in range(TEXT_ROWS)])
