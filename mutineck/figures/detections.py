"""Detections side by side: targets, student alone, taught student, best teacher, from most improved to
most harmed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from mutineck.figures.gallery import LONGEST, cased, draw_box, show_pixels
from mutineck.figures.matching import ImageMatch, best_threshold, match_split
from mutineck.figures.split_data import Split, prediction_file, protagonists
from mutineck.figures.style import FALSE, MATCHED, MISSED, TWO_COLUMNS, Drawing, hide_axes, new_figure
from mutineck.study.experiment import CHOOSING
from mutineck.study.stage import Study

ROWS = 6
LINES: dict[str, tuple[str, Any]] = {"matched": (MATCHED, "-"), "false": (FALSE, "--"), "missed": (MISSED, ":")}


def detections(study: Study) -> Drawing:
    """Draw the pictures that the taught student improves most, leaves as they are, and worsens most.

    Raises:
        FileNotFoundError: predictions of the student alone, a taught arm or a teacher are not there.
    """
    name = study.experiment.evaluation.report
    split = Split(study, name)
    shown = protagonists(study)
    cuts = {who.label: threshold(study, who.name) for who in shown}
    matches = {}
    for who in shown:
        predictions = split.predictions(prediction_file(study, who.name, name))
        matches[who.label] = list(match_split(split, predictions, minimum_score=cuts[who.label]))
    alone, taught, _ = matches
    data = pd.DataFrame(
        {"image_id": list(split.images), "file_name": [image["file_name"] for image in split.images.values()]}
        | {f"F1 {label}": [m.f1() for m in found] for label, found in matches.items()}
    )
    data["change"] = data[f"F1 {taught}"] - data[f"F1 {alone}"]
    data = data.sort_values("change", ascending=False, kind="stable").reset_index(drop=True)
    rows = chosen_rows(len(data))
    by_image = {label: {m.image_id: m for m in found} for label, found in matches.items()}
    images = [int(data["image_id"][row]) for row in rows]
    aspect = [split.images[image]["height"] / split.images[image]["width"] for image in images]
    heights = [min(ratio, 1.2) for ratio in aspect]
    figure = new_figure(TWO_COLUMNS, sum(heights) * (TWO_COLUMNS - 0.5) / 4 + 0.19 * len(rows) + 0.5)
    axes = np.atleast_2d(figure.subplots(len(rows), 4, height_ratios=heights))
    hide_axes(axes.ravel())
    for line, (row, image) in enumerate(zip(rows, images, strict=True)):
        pixels, factor = split.pixels(image, LONGEST)
        show_pixels(axes[line, 0], pixels)
        for box in split.targets(image)[0]:
            draw_box(axes[line, 0], tuple(box * factor), "#000000")
        for axis, label in zip(axes[line, 1:], matches, strict=True):
            show_pixels(axis, pixels)
            draw_match(axis, by_image[label][image], factor)
            axis.set_xlabel(f"F1 {by_image[label][image].f1():.2f}", fontsize=6.5, labelpad=1.5)
        change = f"{data['change'][row]:+.2f}".replace("-", "−")
        axes[line, 0].set_ylabel(change, rotation=0, ha="right", va="center", fontsize=8)
    for axis, title in zip(axes[0], ("targets", *matches), strict=True):
        axis.set_title(title)
    handles = []
    for label, (colour, dashes) in LINES.items():
        handles.append(Line2D([], [], color=colour, linestyle=dashes, label=label, path_effects=cased(colour, 1.2)))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, handlelength=2.5)
    better, worse = int((data["change"] > 1e-9).sum()), int((data["change"] < -1e-9).sum())
    cut = ", ".join(f"{label} {value:.2f}" for label, value in cuts.items())
    return Drawing(
        figure,
        data,
        "Where teaching helps, and where it harms",
        f"Pictures of the {name} split from the most improved to the most harmed by {taught}, in equal steps of rank; "
        f"at the left the change of F1 (IoU 0.5). {taught} is better than the student alone on {better} of {len(data)} "
        f"pictures and worse on {worse}. Shown are detections above the score with the best F1 on the validation split "
        f"({cut}).",
        f"{len(rows)} pictures in rows; columns show targets, student alone, {taught} and the best teacher, with "
        f"matched, false and missed boxes. Better on {better}, worse on {worse} of {len(data)} pictures.",
    )


def chosen_rows(count: int, rows: int = ROWS) -> list[int]:
    """Return ranks to show: the two best, the two worst, and the rest evenly between them."""
    if count <= rows:
        return list(range(count))
    between = np.linspace(1, count - 2, rows - 2).round().astype(int).tolist()
    return sorted({0, *between, count - 1})


def threshold(study: Study, detector: str) -> float:
    """Return the score at which a detector's F1 is highest on the validation split."""
    split = Split(study, CHOOSING)
    return best_threshold(match_split(split, split.predictions(prediction_file(study, detector, CHOOSING))))


def draw_match(axis: Axes, found: ImageMatch, factor: float = 1.0) -> None:
    """Draw missed, false and matched boxes of one picture, in three colours and three dash styles."""
    for kind, boxes in (
        ("missed", found.target_boxes[found.missed]),
        ("false", found.boxes[found.false]),
        ("matched", found.boxes[found.matched]),
    ):
        colour, dashes = LINES[kind]
        for box in boxes:
            draw_box(axis, tuple(box * factor), colour, dashes=dashes, width=1.2)
