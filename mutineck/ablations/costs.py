"""What each detector costs: weights, multiply-adds and measured time."""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch

from mutineck.ablations.detectors import COSTS, detectors
from mutineck.detection.complexity import latency, multiply_adds, parameters
from mutineck.detection.evaluation import Batch, device_of
from mutineck.detection.frozen import freeze
from mutineck.detection.graph import UntraceableError, graph_latency
from mutineck.detection.protocols import Detector, drop_masks, neck_of, stock_detector
from mutineck.detectors.folders import load_model
from mutineck.detectors.loaders import some_pictures
from mutineck.study.arms import ALONE
from mutineck.study.experiment import INTERMEDIATE
from mutineck.study.jobs import Job
from mutineck.study.stage import Outcome, Study
from mutineck.system.tables import write_table


def measure_costs(study: Study, *, passes: int = 10) -> Outcome[pd.DataFrame]:
    """Count and time every teacher, the intermediate one and a student (all arms' students are the same network);
    write `ablations/costs.csv`.

    Counted are plain detectors. Timed are frozen ones, with BatchNorm folded into convolutions, as teachers run; a
    plain mmdet detector takes longer. On a CPU the student is timed in onnxruntime, too.

    Args:
        study: any stage of it; teachers and a student must be there.
        passes: timed passes over one picture of the reported split; their median counts.

    Returns:
        Found: a row a detector: `detector` (a teacher's name, `intermediate`, `student`), `parameters`,
        `multiply_adds`, `milliseconds`, `onnx_milliseconds` (of a student that can be exported, on a CPU), and how that
        was measured: `passes`, `threads`, `device`, `width`, `height`.

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
        folders[ALONE] = study.need(Job.of_detector(name).folder)
    below = [0, 0]  # weights and multiply-adds of the teachers' maps: they come before the intermediate one
    rows: list[dict[str, Any]] = []
    for name, folder in folders.items():
        model = stock_detector(load_model(folder)[0]).to(device).eval()
        drop_masks(model)  # detectors are compared, and masks are no part of detecting
        weights, counted = parameters(model), multiply_adds(model, (height, width))
        if name == INTERMEDIATE:
            weights, counted = weights + below[0], counted + below[1]
        elif name in shown.teachers:
            below[0] += sum(parameters(part) for part in (model.backbone, neck_of(model)) if part is not None)
            below[1] += multiply_adds(model, (height, width), maps_only=True)
        exported = _in_onnxruntime(model, batch, passes) if name == ALONE and device.type == "cpu" else None
        freeze(model)  # last: its weights are others
        milliseconds = 1000 * latency(model, image, batch.metas, passes=passes)
        rows.append(
            {"detector": name, "parameters": weights, "multiply_adds": counted, "milliseconds": milliseconds}
            | {"onnx_milliseconds": exported}
            | {"passes": passes, "threads": torch.get_num_threads(), "device": device.type}
            | {"width": width, "height": height}
        )
    table = pd.DataFrame(rows)
    return Outcome(table, writes=[write_table(table, study.path("ablations", COSTS))])


def _in_onnxruntime(model: Detector, batch: Batch, passes: int) -> float | None:
    """Return the milliseconds of a detector in onnxruntime; None where it cannot be exported."""
    height, width = batch.metas[0]["img_shape"][:2]
    try:
        seconds = graph_latency(model, batch.image, (height, width), passes=passes, threads=torch.get_num_threads())
    except UntraceableError as error:
        print(f"not timed in onnxruntime: {error}")
        return None
    return 1000 * seconds
