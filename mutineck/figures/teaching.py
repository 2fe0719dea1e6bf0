"""What the student is taught about one picture, drawn from a stored observation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.patches import Rectangle

from mutineck.figures.style import TWO_COLUMNS, Drawing, distinct_colours, new_figure
from mutineck.study.arms import METHOD, method_in
from mutineck.study.jobs import Job
from mutineck.study.stage import Study

BACKGROUND, BOUNDARY, CENTRE = (0.93, 0.93, 0.93), (0.337, 0.706, 0.914), (0.835, 0.369, 0.0)
SHOWN_LEVELS = 3
OBSERVATION = "teaching.npz"


def draw_teaching(study: Study, observed: Mapping[str, np.ndarray]) -> Drawing:
    """Draw stacked proposals, weights, regions and map energies of one picture.

    Args:
        study: any stage of it (for the categories' names).
        observed: what `mutineck.distillation.observation.observe` returned.
    """
    categories = study.dataset.categories
    teachers = [str(name) for name in observed["teachers"]]
    strides = [int(s) for s in observed["strides"]][:SHOWN_LEVELS]
    sources = [*teachers, *(["merged"] if f"energy/merged/{strides[0]}" in observed else [])]
    columns = max(1 + len(strides), 1 + len(sources))
    figure = new_figure(TWO_COLUMNS, 3.9)
    grid = figure.subplots(2, columns, squeeze=False)
    colours = dict(zip(teachers, distinct_colours(len(teachers)), strict=True))
    draw_proposals(grid[0][0], observed, teachers, colours)
    for axis, stride in zip(grid[0][1:], strides, strict=False):
        axis.imshow(visible(region_picture(observed, stride), observed, stride), interpolation="nearest")
        axis.set_title(f"regions, stride {stride}")
    _draw_weights(grid[1][0], observed, teachers, colours, categories)
    # The finest level that everybody has, so that the maps can be compared.
    stride = min(s for s in strides if all(f"energy/{name}/{s}" in observed for name in sources))
    for axis, name in zip(grid[1][1:], sources, strict=False):
        axis.imshow(
            visible(observed[f"energy/{name}/{stride}"], observed, stride), cmap="viridis", interpolation="nearest"
        )
        axis.set_title(f"{name}, |F| at stride {stride}")
    for axis in grid.ravel():
        if axis is not grid[1][0]:
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_visible(False)
    for axis in [*grid[0][1 + len(strides) :], *grid[1][1 + len(sources) :]]:
        axis.remove()
    handles = [Rectangle((0, 0), 1, 1, color=c) for c in (CENTRE, BOUNDARY, BACKGROUND)]
    figure.legend(handles, ["centre", "boundary", "background"], ncols=3, loc="outside lower center")
    return Drawing(
        figure,
        weights_table(observed, categories),
        "What the student is taught",
        f"Stacked proposals of {', '.join(teachers)} on one picture; the centre, boundary and background that they "
        "divide it into, level by level; each teacher's weight omega for each target; mean absolute activation of the "
        "maps.",
        "A picture with the teachers' proposals, maps of centre and boundary cells at three strides, a bar of teacher "
        "weights for each target, and heat maps of the teachers' feature maps.",
    )


def weights_table(observed: Mapping[str, np.ndarray], categories: Sequence[str]) -> pd.DataFrame:
    """Return one row a target and teacher: `target`, `category`, `teacher`, `omega`, `quality`, `proposals`."""
    rows = []
    for target, label in enumerate(observed["labels"]):
        for n, name in enumerate(observed["teachers"]):
            goodness = observed["goodness"][target, n]
            rows.append(
                {
                    "target": target,
                    "category": categories[int(label)],
                    "teacher": str(name),
                    "omega": float(observed["omega"][target, n]),
                    "quality": float(goodness.max(initial=0.0)),
                    "proposals": int((goodness > 0).sum()),
                }
            )
    return pd.DataFrame(rows, columns=["target", "category", "teacher", "omega", "quality", "proposals"])


def draw_teaching_of(study: Study, arm: str | None = None, seed: int | None = None) -> Drawing:
    """Draw the stored observation of an arm (the first seed's, if none is named).

    Args:
        study: any stage of it.
        arm: whose; `mutineck` if None, or in an experiment without it the last arm that stored one.
        seed: which of its seeds.

    Raises:
        FileNotFoundError: it stored none; the message names the command that makes it.
    """
    chosen = study.experiment.seeds[0] if seed is None else seed
    if arm is None:
        arms = study.experiment.arms
        there = [a for a in arms if study.path(Job.student(a, chosen).folder, OBSERVATION).is_file()]
        arm = method_in(arms) or (there[-1] if there else METHOD)
    path = study.need(Job.student(arm, chosen).folder, OBSERVATION)
    with np.load(path, allow_pickle=False) as observed:
        return draw_teaching(study, dict(observed))


def draw_proposals(
    axis: Any, observed: Mapping[str, np.ndarray], teachers: list[str], colours: Mapping[str, str]
) -> None:
    axis.imshow(observed["picture"])
    for boxes, goodness in zip(observed["proposals"], observed["goodness"], strict=True):
        for n, name in enumerate(teachers):
            for (x1, y1, x2, y2), good in zip(boxes[n], goodness[n], strict=True):
                if good > 0:
                    axis.add_patch(
                        Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, lw=0.4, alpha=0.6, ec=colours[name])
                    )
    for x1, y1, x2, y2 in observed["boxes"]:
        axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, lw=0.9, ec="white", ls="--"))
    axis.set_title("stacked proposals")


def visible(cells: np.ndarray, observed: Mapping[str, np.ndarray], stride: int) -> np.ndarray:
    """Return the cells `(h, w, ...)` of a map that lie in the picture: maps cover the padding of a batch too."""
    height, width = observed["picture"].shape[:2]
    return cells[: -(-height // stride), : -(-width // stride)]


def region_picture(observed: Mapping[str, np.ndarray], stride: int) -> np.ndarray:
    """Return an RGB picture `(h, w, 3)` in [0, 1]: colour says the region, strength the cell's weight."""
    centre, boundary = observed[f"centre/{stride}"], observed[f"boundary/{stride}"]
    picture = np.empty((*centre.shape, 3))
    picture[:] = BACKGROUND
    for weights, colour in ((boundary, BOUNDARY), (centre, CENTRE)):
        cells = weights > 0
        if cells.any():
            # Weights are of unit mass a target, so small targets weigh most: the root keeps large ones visible.
            strength = 0.35 + 0.65 * np.sqrt(weights / weights.max())
            picture[cells] = (strength[..., None] * np.array(colour) + (1 - strength[..., None]))[cells]
    return picture


def _draw_weights(
    axis: Any,
    observed: Mapping[str, np.ndarray],
    teachers: list[str],
    colours: Mapping[str, str],
    categories: Sequence[str],
) -> None:
    omega = observed["omega"]
    left = np.zeros(len(omega))
    rows = np.arange(len(omega))
    for n, name in enumerate(teachers):
        axis.barh(rows, omega[:, n], left=left, color=colours[name], label=name, height=0.8)
        left += omega[:, n]
    names = [categories[int(label)] for label in observed["labels"]]
    shown = rows if len(rows) <= 12 else rows[:: -(-len(rows) // 12)]
    axis.set_yticks(shown, [names[row] for row in shown], fontsize=6)
    axis.invert_yaxis()
    axis.set_xlim(0, 1)
    axis.set_xlabel("omega of each target")
    axis.legend(fontsize=6, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, handlelength=1)
