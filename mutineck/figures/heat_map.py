"""Tables as coloured cells with their numbers in them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable


def numbers(values: pd.DataFrame, form: str) -> np.ndarray:
    """Return a table's numbers as text, by a format such as `.1f`; a dash for NaN."""
    return values.map(lambda value: "–" if np.isnan(value) else format(value, form)).to_numpy(dtype=object)


def heat_map(
    axis: Axes,
    values: pd.DataFrame,
    *,
    colours: str,
    limits: tuple[float, float],
    text: np.ndarray | None = None,
    text_size: float = 7,
    label_size: float = 7,
    **given: Any,
) -> ScalarMappable:
    """Draw a table as coloured cells.

    Args:
        axis: where; its labels are the table's index and columns.
        values: NaN stays without colour.
        colours: name of a colour map.
        limits: values at its ends.
        text: what is written into the cells, as an array of strings of the table's shape; nothing if None.
        text_size: of these, points.
        label_size: of the axis labels, points.
        given: further arguments of `seaborn.heatmap`.

    Returns:
        The cells, for a colour bar.
    """
    seaborn.heatmap(
        values,
        ax=axis,
        cmap=colours,
        vmin=limits[0],
        vmax=limits[1],
        annot=text,
        fmt="",
        annot_kws={"fontsize": text_size},
        cbar=False,
        xticklabels=list(map(str, values.columns)),
        yticklabels=list(map(str, values.index)),
        **given,
    )
    if text is not None:  # seaborn writes nothing where there is no value
        for row, column in np.argwhere(values.isna().to_numpy()):
            axis.text(column + 0.5, row + 0.5, text[row, column], ha="center", va="center", fontsize=text_size)
    axis.tick_params(length=0, labelsize=label_size)
    axis.tick_params(axis="y", rotation=0)
    axis.set(xlabel="", ylabel="")
    cells: ScalarMappable = axis.collections[0]
    return cells


def colour_bar(cells: ScalarMappable, axes: Any, label: str, **given: Any) -> None:
    """Draw the colour bar of heat maps beside them, without an outline."""
    bar = np.atleast_1d(axes).ravel()[0].figure.colorbar(cells, ax=axes, pad=0.01, **given)
    bar.set_label(label)
    bar.outline.set_visible(False)
