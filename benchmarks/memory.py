"""Whether memory stays flat: resident memory over the steps of a training, and over evaluations."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from benchmarks.study import random_study
from benchmarks.table import Row, Target, in_child
from mutineck.study.experiment import load_experiment

STEPS = 300
FIRST = 30
"""Steps whose memory does not count: the libraries' own, and buffers that grow to the largest batch."""
EVALUATIONS = 20


class Memory(NamedTuple):
    """Bytes of a process: resident, and of those the anonymous ones, which are not pages of files."""

    resident: int
    anonymous: int


def rows() -> list[Row]:
    """Measure a training of `mutineck` and repeated evaluations, each in a process of its own."""
    training = in_child(train_watched)
    evaluations = in_child(evaluate_watched)
    return [
        _growth(f"memory of {STEPS} steps of `mutineck`", training[FIRST:], f"after step {FIRST}", window=30),
        _growth(f"memory of {EVALUATIONS} evaluations", evaluations, "after the first", window=3),
    ]


def train_watched() -> list[Memory]:
    """Train an arm `mutineck` with its evaluations and checkpoints; return the memory after every step."""
    from mmcv.runner import HOOKS, Hook

    from mutineck.detection.evaluation import device_of
    from mutineck.detection.training import train
    from mutineck.detectors.training import detector_training
    from mutineck.distillation.stage import HOOKS as OURS
    from mutineck.distillation.stage import MODULES, distiller_config

    found: list[Memory] = []

    @HOOKS.register_module()
    class ResidentMemoryHook(Hook):
        """Notes resident memory after every step."""

        def after_train_iter(self, runner: Any) -> None:
            found.append(resident())

    with tempfile.TemporaryDirectory() as folder:
        study = random_study(load_experiment("smoke", [f"dataset.shapes.images={10 * STEPS // 8}"]), Path(folder))
        schedule = study.experiment.student.schedule
        steps = -(-8 * study.experiment.dataset.shapes.images // (10 * schedule.batch))
        schedule = schedule.model_copy(update={"epochs": -(-STEPS // steps)})
        hooks = [*OURS, {"type": "ResidentMemoryHook"}]
        categories = study.dataset.categories
        config = detector_training(
            study, distiller_config(study), categories, schedule, seed=0, hooks=hooks, modules=MODULES
        )
        train(config, device=device_of(study.experiment.resources.device))
    return found


def evaluate_watched() -> list[Memory]:
    """Measure a detector on a split again and again; return the memory after every time but the first."""
    from mutineck.detectors.folders import load_model
    from mutineck.detectors.measuring import measure_split

    found = []
    with tempfile.TemporaryDirectory() as folder:
        study = random_study(load_experiment("smoke", ["dataset.shapes.images=200"]), Path(folder))
        model, _ = load_model(study.path("teachers", study.experiment.teachers[0].name))
        for _ in range(EVALUATIONS + 1):
            measure_split(study, model, study.dataset.categories, split="val")
            found.append(resident())
    return found[1:]


def resident() -> Memory:
    """Return the memory of this process, uncollected garbage with it."""
    found = psutil.Process().memory_info()
    return Memory(found.rss, found.rss - found.shared)


def _growth(name: str, found: Sequence[Memory], since: str, *, window: int) -> Row:
    """Return the row that compares the last window's median with the first one's."""
    parts = found[:window], found[-window:]
    first, last = (statistics.median(memory.resident for memory in part) / 2**20 for part in parts)
    before, after = (statistics.median(memory.anonymous for memory in part) / 2**20 for part in parts)
    note = f"anonymous, which no system takes back: {before:.0f} MiB, then {after:.0f}"
    return Row(name, last, "MiB", since, first, last / first, Target("at most", 1.01), note)
