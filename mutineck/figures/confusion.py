"""Which category is taken for which: targets against what was detected at their place."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable

from mutineck.figures.detections import threshold
from mutineck.figures.heat_map import colour_bar, heat_map
from mutineck.figures.matching import ImageMatch, match_split
from mutineck.figures.split_data import Split, prediction_file, protagonists
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
        cells = _draw(axis, counts, kept, names)
        axis.set_title(label)
        axis.set_xlabel("detected as")
    axes[0].set_ylabel("target")
    colour_bar(cells, axes, "share of a category's targets, %", aspect=30, fraction=0.03)
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


def _draw(axis: Axes, counts: np.ndarray, kept: list[int], names: list[str]) -> ScalarMappable:
    share = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    share[-1] = np.nan  # where no target is there is nothing to be a share of: plain counts, no colour
    share, counts = share[np.ix_(kept, kept)], counts[np.ix_(kept, kept)]
    last = len(kept) - 1
    numbered = last <= NUMBERED
    text = np.where(counts > 0, np.round(np.nan_to_num(share)).astype(int).astype(str), "").astype(object)
    text[:-1] = text[:-1] if numbered else ""
    text[-1] = [str(count) if count else "" for count in counts[-1]]
    labels = [names[k] for k in kept[:-1]]
    cells = heat_map(
        axis,
        pd.DataFrame(share, [*labels, "nothing (count)"], [*labels, "missed"]),
        colours="Blues",
        limits=(0, 100),
        text=text,
        text_size=6 if numbered else 3.5,
        label_size=7 if last <= 10 else 5,
        square=True,
    )
    axis.tick_params(axis="x", rotation=90)
    axis.axhline(last, color="#888888", linewidth=0.6)
    axis.axvline(last, color="#888888", linewidth=0.6)
    return cells


def _worst(counts: np.ndarray, names: list[str]) -> str:
    wrong = counts[:-1, :-1].copy()
    np.fill_diagonal(wrong, 0)
    if not wrong.any():
        return "none"
    row, column = np.unravel_index(int(wrong.argmax()), wrong.shape)
    return f"{names[row]} as {names[column]} ({wrong[row, column]} times)"
