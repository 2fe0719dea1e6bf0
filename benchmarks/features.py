"""Extraction beside the bare teacher's passes on the same pictures, and Parquet beside a text file a row."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.clusters import CHANNELS, generate
from benchmarks.study import random_study
from benchmarks.table import Row, side_by_side
from mutineck.detection.distributed import Processes
from mutineck.detection.evaluation import Batch, device_of
from mutineck.detection.frozen import FrozenDetector
from mutineck.detectors.folders import load_frozen
from mutineck.detectors.loaders import evaluation_loader
from mutineck.features.extraction import extract_teacher, loader_of
from mutineck.features.shards import load_features
from mutineck.study.experiment import load_experiment
from mutineck.study.stage import Study
from mutineck.system.files import read_json

BARE = "the teacher's passes alone"
READING = "reading alone"
TEXT_ROWS = 5000
SMALL = {"dataset.shapes.images": 240}
LARGE = {
    "dataset.shapes.images": 10,
    "dataset.shapes.size": [512, 384],
    "input.scale": [512, 384],
    "teachers": [{"name": "r50", "detector": {"family": "faster_rcnn", "depth": 50}}],
    "arms": {"student": None},
}
"""What makes of `shapes` a study with a teacher of published size."""


def rows() -> list[Row]:
    """Measure two sizes of teachers, pictures read from disk and vectors written, and one read of the vectors."""
    return [
        _extraction("faster of shapes, 192x144", SMALL, rounds=5),
        _extraction("ResNet-50 with FPN, 512x384", LARGE, rounds=3),
        *_files(),
    ]


def _extraction(name: str, overrides: Mapping[str, object], *, rounds: int) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        given = [f"{field}={json.dumps(value)}" for field, value in overrides.items()]
        study = random_study(load_experiment("shapes", given), Path(folder))
        teacher = load_frozen(study, study.experiment.teachers[0].name)
        loader = evaluation_loader(study, "train", batch=study.experiment.features.batch)
        batches = list(loader)
        runs: dict[str, Callable[[], object]] = {
            "ours": partial(extract_again, study, teacher),
            BARE: partial(look, study, teacher, batches),
            READING: partial(deque, loader, maxlen=0),
        }
        measured = side_by_side(runs, rounds=rounds)
        pictures = sum(len(batch.image_ids) for batch in batches)
    note = f"reading alone takes {100 * measured.ratio(READING, BARE):.0f} % of the passes' time"
    return measured.faster(f"features of {pictures} pictures, {name}", "ours", BARE, 0.9, note)


def extract_again(study: Study, teacher: FrozenDetector, group: Processes | None = None, **more: Any) -> None:
    """Extract a teacher's vectors into a folder that is not there yet, each process its shards; `more` as there."""
    group = group or Processes()
    folder = study.path("features", teacher.name)
    if group.rank == 0:
        shutil.rmtree(folder, ignore_errors=True)
    group.wait()
    extract_teacher(
        lambda: teacher,
        partial(loader_of, study),
        read_json(study.need("dataset", "train.json")),
        folder,
        name=teacher.name,
        key="",
        spec=study.experiment.features,
        group=group,
        device=device_of(study.experiment.resources.device),
        **more,
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
