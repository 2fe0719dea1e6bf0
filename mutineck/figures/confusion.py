"""Which category is taken for which: targets against what was detected at their place."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from mutineck.figures.detections import threshold
from mutineck.figures.matching import ImageMatch, match_split
from mutineck.figures.pictures import Split, prediction_file, protagonists
from mutineck.figures.style import TWO_COLUMNS, Drawing, new_figure
from mutineck.stage import Study

NUMBERED = 12
"""Up to so many categories the cells carry numbers."""


def confusion(study: Study) -> Drawing:
    """Draw the confusion matrices of the student alone and of the best taught student.

    Raises:
        FileNotFoundError: predictions of the student alone or of a taught arm are not there.
    """
    name = study.experiment.evaluation.report
    split = Split(study, name)
    shown = dict(list(protagonists(study).items())[:2])
    names = list(split.categories)
    frames, tables = [], {}
    for label, detector in shown.items():
        cut = threshold(study, detector)
        predictions = split.predictions(prediction_file(study, detector, name))
        counts = confusion_counts(match_split(split, predictions, minimum_score=cut, by_category=False), len(names))
        tables[label] = counts
        frame = pd.DataFrame(counts, index=[*names, "nothing"], columns=[*names, "missed"])
        long = frame.rename_axis(index="target", columns="detected").stack().rename("count").reset_index()
        frames.append(long.assign(detector=label, score_from=cut))
    size = len(names)
    side = min(TWO_COLUMNS / 2, 3.4)
    figure = new_figure(TWO_COLUMNS, side + (0.35 if size <= 30 else 0))
    axes = figure.subplots(1, 2, sharey=True)
    font = 7 if size <= 10 else 5.5 if size <= 25 else 3
    for axis, (label, counts) in zip(axes, tables.items(), strict=True):
        share = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        image = axis.imshow(share, cmap="Blues", vmin=0, vmax=100)
        if size <= NUMBERED:
            for (row, column), value in np.ndenumerate(share):
                if counts[row, column]:
                    colour = "white" if value > 55 else "black"
                    axis.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=6, color=colour)
        axis.set_xticks(range(size + 1), [*names, "missed"], rotation=90, fontsize=font)
        axis.set_yticks(range(size + 1), [*names, "nothing"], fontsize=font)
        axis.tick_params(length=0)
        axis.axhline(size - 0.5, color="#888888", linewidth=0.6)
        axis.axvline(size - 0.5, color="#888888", linewidth=0.6)
        axis.set_title(label)
        axis.set_xlabel("detected as")
    axes[0].set_ylabel("target")
    bar = figure.colorbar(image, ax=list(axes), pad=0.01, aspect=30, fraction=0.03)
    bar.set_label("share of the row, %")
    bar.outline.set_visible(False)
    alone, taught = tables.values()
    worst = "; ".join(f"{label}: {_worst(counts, names)}" for label, counts in tables.items())
    return Drawing(
        figure,
        pd.concat(frames, ignore_index=True)[["detector", "score_from", "target", "detected", "count"]],
        "What is taken for what",
        f"Rows are targets of the {name} split, columns what was detected at their place (IoU 0.5, scores from the best F1 on); the row "
        f"'nothing' holds detections where no target is. Most frequent confusion of two categories: {worst}. "
        f"Missed: {int(alone[:-1, -1].sum())} targets by the student alone, {int(taught[:-1, -1].sum())} by {list(tables)[1]}.",
        f"Two confusion matrices over {size} categories. Most frequent confusion: {worst}.",
    )


def confusion_counts(matches: Iterable[ImageMatch], categories: int) -> np.ndarray:
    """Return counts ``(categories + 1, categories + 1)``: target by detected; the last row is nothing, the last column missed.

    ``matches`` must have been made with ``by_category=False``, or no confusion can be seen.
    """
    counts = np.zeros((categories + 1, categories + 1), dtype=int)
    for match in matches:
        right = match.matched
        np.add.at(counts, (match.target_labels[match.found[right]], match.labels[right]), 1)
        np.add.at(counts, (categories, match.labels[match.false]), 1)
        np.add.at(counts, (match.target_labels[match.missed], categories), 1)
    return counts


def _worst(counts: np.ndarray, names: list[str]) -> str:
    wrong = counts[:-1, :-1].copy()
    np.fill_diagonal(wrong, 0)
    if not wrong.any():
        return "none"
    row, column = np.unravel_index(int(wrong.argmax()), wrong.shape)
    return f"{names[row]} as {names[column]} ({wrong[row, column]} times)"
