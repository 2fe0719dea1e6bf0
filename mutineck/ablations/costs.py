"""What each detector costs: weights, multiply-adds and measured time, beside what it achieves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch

from mutineck.ablations.detectors import COSTS, detectors
from mutineck.ablations.pictures import some_pictures
from mutineck.detection.costs import latency, multiply_adds, parameters
from mutineck.detection.evaluation import device_of
from mutineck.experiment import INTERMEDIATE, slug
from mutineck.stage import Study
from mutineck.storage import atomic_path
from mutineck.teachers.frozen import load_model

STUDENT = "student"


def measure_costs(study: Study, *, passes: int = 10) -> pd.DataFrame:
    """Count and time every teacher, the intermediate one and a student (all arms' students are the same network);
    write `ablations/costs.csv`.

    Args:
        study: any stage of it; teachers and a student must be there.
        passes: timed passes over one picture of the reported split; their median counts.

    Returns:
        A row a detector: `detector` (a teacher's name, `intermediate`, `student`), `parameters`, `multiply_adds`,
        `milliseconds`, and how that was measured: `passes`, `threads`, `device`, `width`, `height`.

    Raises:
        FileNotFoundError: a teacher is missing; the message names the command.
    """
    device = device_of(study.experiment.resources.device)
    batch = next(iter(some_pictures(study, study.experiment.evaluation.report, 1)))
    image = batch.image.to(device)
    height, width = (int(side) for side in image.shape[2:])
    shown = detectors(study)
    folders = {name: study.need("teachers", name) for name in shown.teachers}
    if shown.intermediate:
        folders[INTERMEDIATE] = study.need("teachers", INTERMEDIATE)
    for name in shown.students[:1]:
        arm, seed = name.split("/")
        folders[STUDENT] = study.need("distillation", slug(arm), seed)
    beneath: list[Any] = []  # the teachers, which come before the intermediate one
    rows: list[dict[str, Any]] = []
    for name, folder in folders.items():
        model = load_model(folder)[0]
        model = getattr(model, "detector", model).to(device).eval()
        head = getattr(model, "roi_head", None)
        if head is not None and getattr(head, "with_mask", False):
            head.mask_head = None  # a detector is compared, and masks are no part of detecting
        milliseconds = 1000 * latency(model, image, batch.metas, passes=passes)
        weights, counted = _count(model, (height, width), beneath if name == INTERMEDIATE else [])
        if name in shown.teachers:
            beneath.append(model)
        rows.append(
            {"detector": name, "parameters": weights, "multiply_adds": counted, "milliseconds": milliseconds}
            | {"passes": passes, "threads": torch.get_num_threads(), "device": device.type}
            | {"width": width, "height": height}
        )
    table = pd.DataFrame(rows)
    with atomic_path(study.path("ablations", COSTS)) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g")
    return table


def _count(model: Any, size: tuple[int, int], beneath: Sequence[Any]) -> tuple[int, int]:
    """Return weights and multiply-adds of a detector and of the backbones and necks of those whose maps it takes.

    Those are plain detectors: frozen ones have BatchNorm folded and convolve by a shorter way, which counts less.
    """
    weights, counted = parameters(model), multiply_adds(model, size)
    for teacher in beneath:
        needed = (teacher.backbone, getattr(teacher, "neck", None))
        weights += sum(parameters(part) for part in needed if part is not None)
        counted += multiply_adds(teacher, size, maps_only=True)
    return weights, counted
