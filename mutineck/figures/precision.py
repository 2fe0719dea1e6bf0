"""Precision against recall, by category and overlap, as COCO's evaluation computes it."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mutineck.detection.evaluation import coco_evaluation
from mutineck.figures.split_data import Protagonist, Split, prediction_file, protagonists
from mutineck.figures.style import TWO_COLUMNS, Drawing, in_words, new_figure
from mutineck.study.stage import Study
from mutineck.system.files import read_json

OVERLAPS: dict[float, Any] = {0.5: "-", 0.75: ":"}
PANELS = 11


def precision_recall(study: Study) -> Drawing:
    """Draw precision against recall at IoU 0.5 and 0.75: all categories together, then the most frequent
    ones.

    Raises:
        FileNotFoundError: predictions of the student alone, a taught arm or a teacher are not there.
    """
    name = study.experiment.evaluation.report
    split = Split(study, name)
    shown = protagonists(study)
    data = pd.concat(
        [precision_rows(split, prediction_file(study, who.name, name)).assign(detector=who.label) for who in shown],
        ignore_index=True,
    )
    counts = np.bincount(
        [split.label_of[a["category_id"]] for items in split.annotations.values() for a in items],
        minlength=len(split.categories),
    )
    frequent = set(np.argsort(-counts, kind="stable")[:PANELS].tolist())
    panels = [""] + [name for label, name in enumerate(split.categories) if label in frequent and counts[label]]
    columns = min(4, len(panels))
    lines = math.ceil(len(panels) / columns)
    figure = new_figure(TWO_COLUMNS, 1.5 * lines + 0.55)
    axes = np.atleast_1d(figure.subplots(lines, columns, sharex=True, sharey=True)).ravel()
    for axis, category in zip(axes, panels, strict=False):
        for who in shown:
            for overlap, dashes in OVERLAPS.items():
                rows = data[(data["detector"] == who.label) & (data["category"] == category) & (data["iou"] == overlap)]
                # COCO says 0 beyond the last recall that was reached: there is no curve there.
                reached = rows["precision"].where(rows["precision"] > 0)
                axis.plot(rows["recall"], reached, color=who.colour, linestyle=dashes, linewidth=1)
        axis.set_title(
            f"{category} ({counts[split.categories.index(category)]})" if category else f"all ({counts.sum()})"
        )
        axis.set_xlim(0, 1)
        axis.set_ylim(0, 1.02)
        axis.grid()
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    figure.supxlabel("recall", fontsize=8)
    figure.supylabel("precision", fontsize=8)
    handles = _handles(shown)
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    area = data[(data["category"] == "") & (data["iou"] == 0.5)].groupby("detector", sort=False)["precision"].mean()
    story = in_words([f"{label} {100 * value:.1f}" for label, value in area.items()])
    left_out = len(split.categories) - (len(panels) - 1)
    rest = f" {left_out} rarer categories are in the data only." if left_out else ""
    rest += f" {said}" if (said := study.dataset.measured_on(name)) else ""
    return Drawing(
        figure,
        data[["detector", "category", "iou", "recall", "precision"]],
        "Precision against recall",
        f"Precision at each recall on the {name} split, for an IoU of 0.5 and of 0.75; in brackets the "
        f"number of boxes. Area at IoU 0.5: {story}.{rest}",
        f"Precision-recall curves in {len(panels)} panels for {in_words([who.label for who in shown])}. Area "
        f"at IoU 0.5: {story}.",
    )


def precision_rows(split: Split, predictions: Path) -> pd.DataFrame:
    """Return COCO's precision at 101 recalls: columns category ("" for the mean over categories), iou,
    recall, precision.
    """
    evaluation = evaluate(split, read_json(predictions))
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # (overlaps, recalls, categories)
    recalls = evaluation.params.recThrs
    ids = {item["id"]: item["name"] for item in split.document["categories"]}
    frames = []
    for overlap in OVERLAPS:
        at = int(np.argmin(np.abs(evaluation.params.iouThrs - overlap)))
        # COCO says -1 where a category does not occur.
        table = np.where(precision[at] < 0, np.nan, precision[at])
        known = np.asarray(~np.isnan(table).all(axis=0))
        mean = table[:, known].mean(axis=1) if known.any() else np.full(len(recalls), np.nan)
        named = [("", mean)] + [(ids[i], table[:, k]) for k, i in enumerate(evaluation.params.catIds) if known[k]]
        frames += [
            pd.DataFrame({"category": c, "iou": overlap, "recall": recalls, "precision": values}) for c, values in named
        ]
    return pd.concat(frames, ignore_index=True)


def evaluate(split: Split, results: list[dict[str, Any]]) -> COCOeval:
    """Return COCO's accumulated evaluation of boxes for results in COCO's format; none is fine too."""
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools talks
        truth = COCO()
        truth.dataset = split.document
        truth.createIndex()
        evaluation = coco_evaluation(truth, results, truth.getCatIds(), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def _handles(shown: Iterable[Protagonist]) -> list[Line2D]:
    detectors = [Line2D([], [], color=who.colour, label=who.label) for who in shown]
    return detectors + [
        Line2D([], [], color="black", linestyle=dashes, label=f"IoU {overlap:g}")
        for overlap, dashes in OVERLAPS.items()
    ]
