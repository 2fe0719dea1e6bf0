"""An epoch of `mutineck` read from the teacher cache, against an epoch of the student alone; what rounding changes."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import mutineck.detection.repeatable  # noqa: F401  (registers the data set with mmdet)
from benchmarks.step import ARM, PARTS, Stepper
from benchmarks.stopwatch import shares, tell
from benchmarks.study import random_study, take_step
from benchmarks.table import Row, side_by_side
from mutineck.detectors.training import split_config
from mutineck.study.experiment import load_experiment
from mutineck.study.jobs import Job
from mutineck.study.stage import Study
from mutineck.system.seeding import seed_everything

IMAGES = 60
ROUNDS = 5
ALONE, RUNNING = "an epoch of the student alone", "teachers running"


def rows() -> list[Row]:
    """Measure epochs over the training split of `shapes`, loading included; the cache is full after the first."""
    given = f"dataset.shapes.images={IMAGES}"
    with tempfile.TemporaryDirectory() as folder:
        study = random_study(load_experiment("shapes", [given]), Path(folder))
        uncached = Study(load_experiment("shapes", [given, "resources.cache=off"]), study.root, Job("distillation"))
        cached, running, alone = Epochs(study, ARM), Epochs(uncached, ARM), Epochs(study, "student")
        start = cached.weights()
        measured = side_by_side({"cached": cached, ALONE: alone, RUNNING: running}, rounds=ROUNDS)
        moved, apart = distance(start, running.weights()), distance(cached.weights(), running.weights())
        found = shares(cached, PARTS, runs=1)
        size = sum(file.stat().st_size for file in study.path("cache").rglob("*.safetensors")) / 2**20
    note = tell(f"where an epoch of `{ARM}` from the cache goes", found)
    name = f"an epoch of `{ARM}` from the cache, {cached.pictures} pictures of 192x144"
    return [
        measured.longer(name, "cached", ALONE, 1.25, note),
        measured.faster(name, "cached", RUNNING, note=f"the cache holds {size / cached.pictures:.2f} MiB a picture"),
        Row(
            f"distance of weights after {ROUNDS + 1} epochs, maps kept as float16",
            apart,
            "",
            "how far training took them",
            moved,
            apart / moved,
        ),
    ]


def distance(a: Tensor, b: Tensor) -> float:
    """Return the Euclidean distance of two vectors."""
    return float(torch.linalg.vector_norm(a - b))


class Epochs(Stepper):
    """Takes epochs of an arm over the training split as a training does, always with the augmentation of its first."""

    def __init__(self, study: Study, arm: str) -> None:
        super().__init__(study, arm)
        from mmdet.datasets import build_dataloader, build_dataset
        from mmdet.utils import build_dp

        categories = study.dataset.categories
        dataset = build_dataset(split_config(study, "train", categories, masks=False, test=False))
        batch = study.experiment.student.schedule.batch
        self.pictures = len(dataset)
        self.loader = build_dataloader(dataset, batch, 0, dist=False, shuffle=True, seed=0)
        self.model: Any = build_dp(self.distiller, self.device.type, device_ids=[0])

    def weights(self) -> Tensor:
        """Return a copy of all the student's trainable weights as one vector."""
        return torch.cat([p.detach().flatten().double() for p in self.distiller.student.parameters()])

    def __call__(self) -> None:
        """Take an epoch."""
        seed_everything(0)
        for batch in self.loader:
            take_step(self.model, batch, self.optimiser)
