"""Which category is taken for which: targets against what was detected at their place."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

from mutineck.figures.detections import threshold
from mutineck.figures.matching import ImageMatch, match_split
from mutineck.figures.split import Split, prediction_file, protagonists
from mutineck.figures.style import TWO_COLUMNS, Drawing, new_figure
from mutineck.study.stage import Study

NUMBERED = 12
"""Up to so many categories the cells carry numbers."""
SHOWN = 30
"""So many of the most frequent categories are drawn; the data has all of them."""


def confusion(study: Study) -> Drawing:
    """Draw the confusion matrices of the student alone and of the taught student.

    Raises:
        FileNotFoundError: predictions of the student alone or of a taught arm are not there.
    """
    name = study.experiment.evaluation.report
    split = Split(study, name)
    names = list(split.categories)
    frames, tables = [], {}
    for who in protagonists(study)[:2]:
        cut = threshold(study, who.name)
        predictions = split.predictions(prediction_file(study, who.name, name))
        counts = confusion_counts(match_split(split, predictions, minimum_score=cut, by_category=False), len(names))
        tables[who.label] = counts
        frame = pd.DataFrame(counts, index=[*names, "nothing"], columns=[*names, "missed"])
        long = frame.rename_axis(index="target", columns="detected").stack().rename("count").reset_index()
        frames.append(long.assign(detector=who.label, score_from=cut))
    alone, taught = tables.values()
    occurring = alone[:-1].sum(axis=1)
    drawn = [k for k in np.argsort(-occurring, kind="stable")[:SHOWN] if occurring[k]]
    kept = [*sorted(drawn), len(names)]
    figure = new_figure(TWO_COLUMNS, 3.7)
    axes = figure.subplots(1, 2, sharey=True)
    for axis, (label, counts) in zip(axes, tables.items(), strict=True):
        image = _draw(axis, counts, kept, names)
        axis.set_title(label)
        axis.set_xlabel("detected as")
    axes[0].set_ylabel("target")
    bar = figure.colorbar(image, ax=list(axes), pad=0.01, aspect=30, fraction=0.03)
    bar.set_label("share of a category's targets, %")
    bar.outline.set_visible(False)
    worst = "; ".join(f"{label}: {_worst(counts, names)}" for label, counts in tables.items())
    rest = len(names) - len(drawn)
    left_out = f" {rest} categories that are rarer or absent are in the data only." if rest else ""
    return Drawing(
        figure,
        pd.concat(frames, ignore_index=True)[["detector", "score_from", "target", "detected", "count"]],
        "What is taken for what",
        f"Rows are targets of the {name} split, columns what was detected at their place (IoU 0.5, scores "
        "from the best F1 on), in "
        "percent of the row; the last row counts detections where no target is. Most frequent confusion of "
        "two categories: "
        f"{worst}. Missed: {int(alone[:-1, -1].sum())} targets by the student alone, "
        f"{int(taught[:-1, -1].sum())} by "
        f"{list(tables)[1]}.{left_out}",
        f"Two confusion matrices over {len(drawn)} categories. Most frequent confusion: {worst}.",
    )


def confusion_counts(matches: Iterable[ImageMatch], categories: int) -> np.ndarray:
    """Return counts ``(categories + 1, categories + 1)``: target by detected; the last row is nothing, the
    last column missed.

    ``matches`` must have been made with ``by_category=False``, or no confusion can be seen.
    """
    counts = np.zeros((categories + 1, categories + 1), dtype=int)
    for match in matches:
        right = match.matched
        np.add.at(counts, (match.target_labels[match.found[right]], match.labels[right]), 1)
        np.add.at(counts, (categories, match.labels[match.false]), 1)
        np.add.at(counts, (match.target_labels[match.missed], categories), 1)
    return counts


def _draw(axis: Axes, counts: np.ndarray, kept: list[int], names: list[str]) -> AxesImage:
    share = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    share[-1] = np.nan  # where no target is there is nothing to be a share of: plain counts, no colour
    share, counts = share[np.ix_(kept, kept)], counts[np.ix_(kept, kept)]
    last = len(kept) - 1
    image = axis.imshow(share, cmap="Blues", vmin=0, vmax=100)
    numbered = last <= NUMBERED
    for (row, column), count in np.ndenumerate(counts):
        if count and (numbered or row == last):
            text = f"{count}" if row == last else f"{share[row, column]:.0f}"
            colour = "white" if share[row, column] > 55 else "black"
            axis.text(column, row, text, ha="center", va="center", fontsize=6 if numbered else 3.5, color=colour)
    font = 7 if last <= 10 else 5
    axis.set_xticks(range(last + 1), [*(names[k] for k in kept[:-1]), "missed"], rotation=90, fontsize=font)
    axis.set_yticks(range(last + 1), [*(names[k] for k in kept[:-1]), "nothing (count)"], fontsize=font)
    axis.tick_params(length=0)
    for spine in axis.spines.values():
        spine.set_visible(False)
    axis.axhline(last - 0.5, color="#888888", linewidth=0.6)
    axis.axvline(last - 0.5, color="#888888", linewidth=0.6)
    return image


def _worst(counts: np.ndarray, names: list[str]) -> str:
    wrong = counts[:-1, :-1].copy()
    np.fill_diagonal(wrong, 0)
    if not wrong.any():
        return "none"
    row, column = np.unravel_index(int(wrong.argmax()), wrong.shape)
    return f"{names[row]} as {names[column]} ({wrong[row, column]} times)"
