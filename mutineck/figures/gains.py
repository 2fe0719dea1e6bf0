"""Several studies at a glance: what the method's students gain over every other way, with intervals over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from mutineck.ablations.overview import BEST_SINGLE, COLUMNS, UNTAUGHT, rows_by_arm, shown_arms
from mutineck.ablations.studies import StudyResults, contrasts
from mutineck.figures.style import DPI, GREY, OKABE_ITO, TWO_COLUMNS, StudyFigure, new_figure
from mutineck.study.arms import ALONE, METHOD
from mutineck.system.files import atomic_path

TITLES = {
    UNTAUGHT: "same start,\nuntaught",
    ALONE: "student alone",
    "student_long": "student alone,\nfor longer",
    BEST_SINGLE: "best single\nteacher's",
}


def gains(studies: Sequence[StudyResults]) -> StudyFigure:
    """Draw the method's mAP less another's, a panel for each of the columns of the overview, a line a study.

    Points are mean paired differences, whiskers their 95 % intervals; grey where that holds 0.
    """
    table = contrasts(studies)
    rows = {study.name: rows_by_arm(table, study) for study in studies}
    arms = {study.name: shown_arms(study, rows[study.name]) for study in studies}
    columns = [column for column in COLUMNS if column != METHOD and any(column in own for own in arms.values())]
    figure = new_figure(TWO_COLUMNS, 0.75 + 0.17 * len(studies))
    axes = figure.subplots(1, len(columns), sharex=True, sharey=True, squeeze=False)[0]
    for axis, column in zip(axes, columns, strict=True):
        axis.axvline(0, color="black", linewidth=0.6)
        axis.set_title(TITLES.get(column, column))
        for position, study in enumerate(studies):
            row = rows[study.name].get(arms[study.name].get(column, ""))
            if row is None or pd.isna(row["difference"]):
                continue
            middle, low, high = (100 * row[name] for name in ("difference", "low", "high"))
            colour = GREY if not (low > 0 or high < 0) else OKABE_ITO[0] if low > 0 else OKABE_ITO[4]
            axis.errorbar(middle, position, xerr=[[middle - low], [high - middle]], color=colour, fmt="o", capsize=2)
        axis.tick_params(axis="y", length=0)
        axis.grid(axis="x")
    axes[0].set_yticks(range(len(studies)), [study.name for study in studies])
    axes[0].set_ylim(len(studies) - 0.5, -0.5)
    figure.supxlabel("mAP of the method's student less theirs: mean over seeds and 95 % interval", fontsize=8)
    return figure


def save_gains(studies: Sequence[StudyResults], path: Path) -> Path:
    """Write the figure as a PNG and return its path; the same results give the same bytes."""
    figure = gains(studies)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})
    return path
