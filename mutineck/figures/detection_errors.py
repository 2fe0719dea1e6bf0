"""What kind of mistakes cost the most: AP that each kind of error takes away, in the manner of TIDE.

Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors", ECCV 2020, arXiv:2008.08115.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mutineck.figures.matching import ImageMatch, average_precision, match_split
from mutineck.figures.split_data import Split, prediction_file, protagonists
from mutineck.figures.style import TWO_COLUMNS, Drawing, in_words, new_figure
from mutineck.study.stage import Study

FOREGROUND, BACKGROUND = 0.5, 0.1
KINDS = {
    "classification": "right place, wrong category",
    "localisation": f"right category, IoU {BACKGROUND} to {FOREGROUND}",
    "both": "neither is right",
    "duplicate": "found a second time",
    "background": f"nothing is there (IoU below {BACKGROUND})",
    "missed": "no detection near",
}


@dataclass(frozen=True)
class Mistakes:
    """One picture's mistakes.

    Attributes:
        kind: ``(m,)`` name of the mistake of each detection, empty if it is right or ignored.
        target: ``(m,)`` index of the target that a localisation or classification error meant, else -1.
        missed: ``(n,)`` targets that no detection found, nor meant.
    """

    kind: np.ndarray
    target: np.ndarray
    missed: np.ndarray


def error_breakdown(study: Study) -> Drawing:
    """Draw how much AP50 would be gained if each kind of error were mended.

    Raises:
        FileNotFoundError: predictions of the student alone, a taught arm or a teacher are not there.
    """
    name = study.experiment.evaluation.report
    split = Split(study, name)
    shown = protagonists(study)
    frames = []
    for who in shown:
        matches = list(match_split(split, split.predictions(prediction_file(study, who.name, name))))
        frames.append(breakdown(matches, len(split.categories)).assign(detector=who.label))
    data = pd.concat(frames, ignore_index=True)[["detector", "error", "count", "AP50", "AP50_mended", "cost"]]
    figure = new_figure(TWO_COLUMNS, 2.7)
    axis = figure.subplots()
    height = 0.8 / len(shown)
    for i, who in enumerate(shown):
        cost = 100 * data.loc[data["detector"] == who.label, "cost"].to_numpy()
        position = np.arange(len(KINDS)) + (i - 1) * height
        axis.barh(position, cost, height * 0.92, color=who.colour, label=who.label)
        for y, value in zip(position, cost, strict=True):
            axis.annotate(
                f"{value:.1f}",
                (max(value, 0), y),
                xytext=(2, 0),
                textcoords="offset points",
                va="center",
                fontsize=6,
            )
    axis.set_yticks(range(len(KINDS)), [f"{kind}: {meaning}" for kind, meaning in KINDS.items()])
    axis.invert_yaxis()
    axis.tick_params(axis="y", length=0)
    axis.set_xlabel(f"AP50 lost to this kind of error on the {name} split, points")
    axis.margins(x=0.08)
    figure.legend(loc="outside upper center", ncols=3)
    worst = [
        f"{label} {data.loc[rows['cost'].idxmax(), 'error']}" for label, rows in data.groupby("detector", sort=False)
    ]
    return Drawing(
        figure,
        data,
        "What the mistakes cost",
        "AP50 that would be gained if one kind of error were mended and all else stayed (after TIDE, "
        f"arXiv:2008.08115). Costliest: {in_words(worst)}.",
        f"Bars of AP50 lost to six kinds of error for {in_words([who.label for who in shown])}. Costliest: "
        f"{in_words(worst)}.",
    )


def breakdown(matches: Sequence[ImageMatch], categories: int) -> pd.DataFrame:
    """Return one row a kind of error: error, count, AP50, AP50_mended and cost (their difference), 0..1.

    Mending is TIDE's: a classification or localisation error becomes right if its target was found by nothing
    better, and vanishes otherwise; ``both``, duplicates and background detections vanish; missed targets are
    not counted.
    """
    mistakes = [classify(match) for match in matches]
    base = _mean_ap(matches, mistakes, categories, None)
    rows = []
    for kind in KINDS:
        mended = _mean_ap(matches, mistakes, categories, kind)
        count = sum(int(m.missed.sum()) if kind == "missed" else int((m.kind == kind).sum()) for m in mistakes)
        rows.append({"error": kind, "count": count, "AP50": base, "AP50_mended": mended, "cost": mended - base})
    return pd.DataFrame(rows)


def classify(match: ImageMatch) -> Mistakes:
    """Return what is wrong with each false detection of a picture, and which targets were missed."""
    kind = np.full(len(match.scores), "", dtype="<U14")
    target = np.full(len(match.scores), -1)
    overlap = np.where(match.crowd[None, :], 0.0, match.iou)
    same = match.labels[:, None] == match.target_labels[None, :]
    used = np.zeros(len(match.crowd), dtype=bool)
    used[match.found[match.matched]] = True
    for i in np.flatnonzero(match.false):
        own, other = np.where(same[i], overlap[i], 0.0), np.where(same[i], 0.0, overlap[i])
        if not len(own):
            kind[i] = "background"
        elif BACKGROUND <= own.max() < FOREGROUND:
            kind[i], target[i] = "localisation", int(own.argmax())
        elif other.max() >= FOREGROUND:
            kind[i], target[i] = "classification", int(other.argmax())
        elif np.where(used, own, 0.0).max() >= FOREGROUND:
            kind[i] = "duplicate"
        else:
            kind[i] = "background" if overlap[i].max() < BACKGROUND else "both"
    missed = match.missed.copy()
    missed[target[target >= 0]] = False
    return Mistakes(kind, target, missed)


def _mean_ap(matches: Sequence[ImageMatch], mistakes: Sequence[Mistakes], categories: int, mended: str | None) -> float:
    """Return mean AP at IoU 0.5 with one kind of error mended (None: as it is), over the categories that
    occur.
    """
    labels, scores, right = [], [], []
    occurring, targets = np.zeros(categories, dtype=int), np.zeros(categories, dtype=int)
    for match, mistake in zip(matches, mistakes, strict=True):
        keep, good, named = ~match.ignored, match.matched.copy(), match.labels.copy()
        if mended == "missed":
            counted = ~match.crowd & ~mistake.missed
        else:
            counted = ~match.crowd
        if mended is not None and mended != "missed":
            wrong = mistake.kind == mended
            keep &= ~wrong
            taken = ~match.missed
            for i in np.flatnonzero(wrong & (mistake.target >= 0)):  # in falling score: the best one is mended
                aim = mistake.target[i]
                if not taken[aim]:
                    taken[aim] = keep[i] = good[i] = True
                    named[i] = match.target_labels[aim]
        labels.append(named[keep])
        scores.append(match.scores[keep])
        right.append(good[keep])
        occurring += np.bincount(match.target_labels[~match.crowd], minlength=categories)
        targets += np.bincount(match.target_labels[counted], minlength=categories)
    label, score, good = np.concatenate(labels), np.concatenate(scores), np.concatenate(right)
    # A category whose targets were all missed has nothing left once they are not counted: it stays at 0, as
    # in TIDE.
    found = [
        average_precision(score[label == c], good[label == c], int(targets[c])) if targets[c] else 0.0
        for c in range(categories)
        if occurring[c]
    ]
    return float(np.mean(found)) if found else float("nan")
