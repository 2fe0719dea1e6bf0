"""Who knows what: average precision by category, of teachers and of arms."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from mutineck.ablations.results import TEACHER, collect
from mutineck.figures.heat_map import colour_bar, heat_map, numbers
from mutineck.figures.split_data import Split
from mutineck.figures.style import TWO_COLUMNS, Drawing, StudyFigure, in_words, new_figure
from mutineck.study.arms import ALONE
from mutineck.study.experiment import INTERMEDIATE
from mutineck.study.stage import Study

FEW = 24
"""Up to so many categories stand side by side as columns; more stand below each other as rows."""


def by_category(study: Study, split: str) -> pd.DataFrame:
    """Return AP by category on a split, seeds averaged: one row a teacher and arm, one column a category,
    0..1.

    Raises:
        FileNotFoundError: no run has results, or none was measured by category.
    """
    frame = collect(study)
    rows = frame[(frame["split"] == split) & (frame["metric"] == "AP") & (frame["category"] != "")]
    if rows.empty:
        raise FileNotFoundError(
            f"{study.root}: no results by category on the split {split!r}. "
            f"Make them with: {study.command('distillation')}"
        )
    wide = rows.groupby(["arm", "category"], sort=False)["value"].mean().unstack("category")
    order = [name for name in Split(study, split).categories if name in wide.columns]
    return wide.loc[list(dict.fromkeys(rows["arm"])), order]


def knowledge(study: Study) -> Drawing:
    """Draw AP by category of every teacher, the intermediate one too, with the best single teacher marked."""
    split = study.experiment.evaluation.report
    table = by_category(study, split)
    table = table[table.index.str.startswith(TEACHER)]
    if table.empty:
        raise FileNotFoundError(
            f"{study.path('teachers')}: no teacher was measured by category on {split!r}. "
            f"Make it with: {study.command('teachers')}"
        )
    table.index = table.index.str.removeprefix(TEACHER)
    drawn = table.dropna(axis=1, how="all")  # a category without a target in this split has no AP
    single = drawn.drop(index=INTERMEDIATE, errors="ignore")
    known = single.notna().any().to_numpy()  # by any single one
    best = np.where(known, single.fillna(-1).to_numpy().argmax(axis=0), -1)
    figure = _heat_map(
        100 * drawn,
        "viridis",
        (0, max(1.0, float(np.nanmax(100 * drawn.to_numpy())))),
        f"AP on {split}, %",
        mark=best,
    )
    counts = {name: int((best == i).sum()) for i, name in enumerate(single.index)}
    story = in_words([f"{name} on {n}" for name, n in counts.items()])
    merged = ""
    if INTERMEDIATE in drawn.index and len(single):
        above = int((drawn.loc[INTERMEDIATE] > single.max()).sum())
        merged = f" The intermediate teacher is above all of them on {above} of {drawn.shape[1]}."
    return Drawing(
        figure,
        _long(table, "teacher"),
        "Who knows what",
        f"Average precision of each teacher by category. The best single teacher (framed) is {story} of the "
        f"{int(known.sum())} categories that any knows.{merged}{_absent(table, drawn)}"
        f"{_measured_on(study)}",
        f"Heat map of {len(drawn)} teachers by {drawn.shape[1]} categories; best: {story}.{merged}",
    )


def gains(study: Study) -> Drawing:
    """Draw how much AP every arm gains or loses by category, against the student alone."""
    split = study.experiment.evaluation.report
    table = by_category(study, split)
    table = table[~table.index.str.startswith(TEACHER)]
    if ALONE not in table.index or len(table) < 2:
        raise FileNotFoundError(
            f"{study.path('distillation')}: needs results of the arm 'student' and of a taught one. "
            f"Make them with: {study.command('distillation')}"
        )
    gain = 100 * (table.drop(index=ALONE) - table.loc[ALONE])
    drawn = gain.dropna(axis=1, how="all")
    bound = max(1.0, float(np.nanmax(np.abs(drawn.to_numpy()))))
    figure = _heat_map(drawn, "PuOr_r", (-bound, bound), f"AP gained on {split}, points", signed=True)
    values = drawn.stack()
    top, low = values.idxmax(), values.idxmin()
    story = (
        f"The largest gain is {values.max():+.1f} ({top[0]}, {top[1]}), the smallest {values.min():+.1f} "
        f"({low[0]}, {low[1]})."
    )
    return Drawing(
        figure,
        _long(gain, "arm").rename(columns={"AP": "gain_points"}),
        "What is gained where",
        "AP of every taught arm minus the student alone's, by category, means over seeds. "
        f"{story}{_absent(gain, drawn)}{_measured_on(study)}",
        f"Heat map of AP differences of {len(gain)} arms by {gain.shape[1]} categories. {story}",
    )


def _heat_map(
    table: pd.DataFrame,
    colours: str,
    limits: tuple[float, float],
    label: str,
    *,
    mark: np.ndarray | None = None,
    signed: bool = False,
) -> StudyFigure:
    """Paint a table of detectors by categories; `mark` is the row to frame in each column, below 0 for none."""
    few = table.shape[1] <= FEW
    rows = len(table) if few else table.shape[1]
    figure = new_figure(TWO_COLUMNS, 0.95 + 0.3 * rows if few else 0.9 + 0.13 * rows)
    axis: Axes = figure.subplots()
    paint_cells(axis, table, colours, limits, label, few=few, signed=signed)
    for i, best in enumerate(mark if mark is not None else ()):
        if best < 0:
            continue
        x, y = (i, best) if few else (best, i)
        axis.add_patch(
            Rectangle(
                (x + 0.03, y + 0.05),
                0.94,
                0.9,
                fill=False,
                edgecolor="#D55E00",
                linewidth=1.6 if few else 0.9,
            )
        )
    return figure


def paint_cells(
    axis: Axes,
    table: pd.DataFrame,
    colours: str,
    limits: tuple[float, float],
    label: str,
    *,
    few: bool,
    signed: bool = False,
    digits: int = 1,
) -> None:
    """Draw a table as coloured cells with their numbers and a colour bar.

    Args:
        axis: where.
        table: columns are categories; NaN is shown as a dash.
        colours: name of a colour map.
        limits: values at its ends.
        label: of the colour bar.
        few: categories stand side by side; otherwise below each other.
        signed: write a sign before every number.
        digits: behind the point, where there is room.
    """
    drawn = table if few else table.T
    roomy = drawn.shape[1] <= 14
    form = f"{'+' if signed else ''}.{digits}f" if signed or roomy or digits > 1 else ".0f"
    cells = heat_map(
        axis,
        drawn,
        colours=colours,
        limits=limits,
        text=numbers(drawn, form),
        text_size=7 if few and roomy else 5.5,
        label_size=7 if few else 5.5,
    )
    along = list(map(str, drawn.columns))
    if few and (len(along) > 10 or max(map(len, along)) * len(along) > 80):
        for tick in axis.get_xticklabels():
            tick.set(rotation=40, ha="right", rotation_mode="anchor")
    else:
        axis.tick_params(axis="x", rotation=0)
    if not few:
        axis.xaxis.tick_top()
        axis.tick_params(length=0)
    colour_bar(cells, axis, label, aspect=12 if few else 40, fraction=0.05)


def _absent(table: pd.DataFrame, drawn: pd.DataFrame) -> str:
    rest = table.shape[1] - drawn.shape[1]
    return f" {rest} categories do not occur in this split." if rest else ""


def _measured_on(study: Study) -> str:
    said = study.dataset.measured_on(study.experiment.evaluation.report)
    return f" {said}" if said else ""


def _long(table: pd.DataFrame, name: str) -> pd.DataFrame:
    return table.rename_axis(index=name, columns="category").stack(future_stack=True).rename("AP").reset_index()
