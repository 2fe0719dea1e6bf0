"""What instance vectors look like: in the plane, by cosine between categories, and as pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from mutineck.clusters.clustering import teaching_teacher
from mutineck.clusters.embedding import ALL
from mutineck.figures.heat_map import colour_bar, heat_map, numbers
from mutineck.figures.split_data import Split
from mutineck.figures.style import (
    MARKERS,
    TWO_COLUMNS,
    Drawing,
    category_colours,
    hide_axes,
    in_words,
    new_figure,
)
from mutineck.study.stage import Study
from mutineck.system.tables import read_table

METHODS = {"pca": "PCA", "tsne": "t-SNE", "umap": "UMAP"}
THUMBNAIL = 96
"""Side of a thumbnail in pixels."""
EACH = 5
"""Thumbnails a centroid."""
MOST_CATEGORIES = 20
"""Most rows of the thumbnail board; of more categories the most frequent are shown."""
SPACES = {"raw": "as they come", "centred": "centred and scaled"}


def embedding(study: Study) -> Drawing:
    """Draw UMAP of every teacher's instances and of all together, colour by category, marker by teacher."""
    table = _embedding(study)
    table = table[table["method"] == "umap"]
    panels = list(dict.fromkeys(table["panel"]))
    teachers = [panel for panel in panels if panel != ALL]
    separation = read_table(study.need("clusters", "separation.csv")).set_index("teacher")["silhouette"]
    titles = {name: f"{name} (silhouette {separation[name]:.2f})" for name in teachers}
    titles[ALL] = f"all teachers, in the space of {teachers[0]}"
    figure, counts = _scatter_grid(study, table, "panel", titles, teachers)
    known = separation[teachers].dropna()
    best = f"; the best is {known.idxmax()}'s" if len(known) > 1 else ""
    joint = (
        f" In the last panel every teacher's vectors are mapped by ridge regression into {teachers[0]}'s "
        f"space, and each teacher shows 1 in {len(teachers)} of the instances."
    )
    return Drawing(
        figure,
        table,
        "Instances and centroids",
        f"UMAP (cosine) of training targets' vectors, standardised. {_sizes(counts)}. Colour is the "
        "category, the marker is the teacher, the large framed marks are centroids. Silhouette: of the "
        f"categories, by cosine distance{best}. Distances between islands mean little."
        + (joint if ALL in panels else ""),
        f"Scatter plots of {in_words([titles[p] for p in panels])}: by category, with centroids.",
    )


def projections(study: Study) -> Drawing:
    """Draw the teaching teacher's instances by PCA, t-SNE and UMAP side by side."""
    table = _embedding(study)
    teachers = [panel for panel in dict.fromkeys(table["panel"]) if panel != ALL]
    name = teaching_teacher(study.experiment, teachers)
    table = table[table["panel"] == name]
    table = pd.concat([table[table["method"] == method] for method in METHODS])
    figure, counts = _scatter_grid(study, table, "method", METHODS, teachers)
    return Drawing(
        figure,
        table,
        f"Three projections of {name}",
        f"The same vectors and centroids of {name} by a linear projection and by two that keep "
        f"neighbourhoods: what shows in all three is not an artefact of one. {_sizes(counts)}.",
        f"Three scatter plots of {name}'s instances, by {in_words(list(METHODS.values()))}, by category.",
    )


def cosines(study: Study) -> Drawing:
    """Draw each teacher's mean cosine between instances of each two categories, raw and standardised."""
    table = read_table(study.need("features", "cosines.csv"))
    teachers = list(dict.fromkeys(table["teacher"]))
    categories = list(dict.fromkeys(table["category_a"]))
    k = len(categories)
    side = TWO_COLUMNS / max(2, len(teachers)) - 0.35
    figure = new_figure(TWO_COLUMNS, 2 * (side + 0.4) + 0.06 * max(map(len, categories)))
    axes = figure.subplots(2, len(teachers), squeeze=False)
    means: dict[tuple[str, str], float] = {}
    for row, space in enumerate(SPACES):
        for column, name in enumerate(teachers):
            part = table[(table["teacher"] == name) & (table["space"] == space)]
            matrix = part["cosine"].to_numpy().reshape(k, k)
            apart = matrix[~np.eye(k, dtype=bool)]
            means[name, space] = float(np.nanmean(apart)) if np.isfinite(apart).any() else math.nan
            axis = axes[row, column]
            size = max(3.5, min(7, 60 * side / k))
            shown = pd.DataFrame(matrix, categories if column == 0 else [""] * k, categories if row else [""] * k)
            cells = heat_map(
                axis,
                shown,
                colours="PuOr_r",
                limits=(-1, 1),
                text=numbers(shown, ".2f") if k <= 6 else None,
                text_size=min(6.0, 72 * side / k / 3),  # five characters fit into a cell
                label_size=size,
                square=True,
            )
            axis.tick_params(axis="x", rotation=90)
            axis.set_facecolor("#D9D9D9")
            between = f"between: {means[name, space]:+.2f}"
            axis.set_title(between if row else f"{name}\n{between}")
            if column == 0:
                axis.set_ylabel(SPACES[space], color="black")
    colour_bar(cells, axes, "mean cosine", shrink=0.6, aspect=30)
    story = in_words([f"{name} from {means[name, 'raw']:+.2f} to {means[name, 'centred']:+.2f}" for name in teachers])
    return Drawing(
        figure,
        table,
        "Cosines between categories",
        "Mean cosine between training targets of each two categories, over all pairs; between: its mean over pairs "
        "of different categories. Raw vectors share a "
        "large common part, so a threshold on their cosine would separate nothing; centring and scaling takes "
        f"the mean between categories of {story}.",
        f"Heat maps of cosines between {k} categories, above of raw vectors, below of centred ones: {story}.",
    )


def exemplars(study: Study, teacher: str | None = None) -> Drawing:
    """Draw the training targets nearest to each centroid: a row a category, a block a centroid.

    Args:
        study: a study whose clusters stage has run.
        teacher: whose centroids; those that teach the student if None.
    """
    near = pd.read_parquet(study.need("clusters", "nearest.parquet"))
    statistics = read_table(study.need("clusters", "statistics.csv"))
    name = teacher or teaching_teacher(study.experiment, list(dict.fromkeys(near["teacher"])))
    near = near[(near["teacher"] == name) & (near["place"] < EACH)]
    statistics = statistics[statistics["teacher"] == name].set_index(["category", "cluster"])
    if near.empty:
        raise FileNotFoundError(
            f"{study.path('clusters', 'nearest.parquet')}: no centroids of {name!r}. "
            f"Make them with: {study.command('clusters')}"
        )
    split = Split(study, "train")
    count = statistics["count"].groupby(level="category").first()
    all_categories = [c for c in split.categories if c in count.index]
    chosen = set(count.sort_values(ascending=False, kind="stable").index[:MOST_CATEGORIES])
    categories = [c for c in all_categories if c in chosen]
    blocks = int(near["cluster"].max()) + 1
    colours = category_colours(split.categories)
    height = (TWO_COLUMNS - 0.9) / blocks / EACH + 0.2
    figure = new_figure(TWO_COLUMNS, 0.35 + max(1.0, len(categories) * height))
    axes = figure.subplots(len(categories), blocks, squeeze=False)
    hide_axes(axes.flat)
    for row, category in enumerate(categories):
        axes[row, 0].set_ylabel(f"{category}\n{count[category]}", rotation=0, ha="right", va="center", color="black")
        for block in range(blocks):
            part = near[(near["category"] == category) & (near["cluster"] == block)].sort_values("place")
            axes[row, block].imshow(_strip(split, part, colours[category]))
            if len(part):
                share = statistics.loc[(category, block), "share"]
                axes[row, block].set_title(
                    f"{share:.0%}, cosine {part['cosine'].max():.2f}", fontsize=6, pad=2, loc="left"
                )
    shown = f" The {len(categories)} most frequent of {len(all_categories)} categories."
    few = shown if len(categories) < len(all_categories) else ""
    return Drawing(
        figure,
        near,
        f"Targets nearest to the centroids of {name}",
        f"The {EACH} training targets nearest to each centroid of {name} by cosine, the largest cluster "
        "first. Above: the cluster's share of its category, and the nearest target's cosine; left: targets "
        f"of the category.{few}",
        f"Thumbnails of targets in {len(categories)} rows (categories), up to {blocks} blocks (centroids).",
    )


def _embedding(study: Study) -> pd.DataFrame:
    return pd.read_parquet(study.need("clusters", "embedding.parquet"))


def _scatter_grid(study: Study, table: pd.DataFrame, by: str, titles: dict[str, str], teachers: Sequence[str]):
    """Return a scatter plot for each value of a column, and the instances of each category in one of them."""
    categories = study.dataset.categories
    colours = category_colours(categories)
    panels = list(dict.fromkeys(table[by]))
    columns = len(panels) if len(panels) <= 3 else math.ceil(len(panels) / math.ceil(len(panels) / 3))
    rows = math.ceil(len(panels) / columns)
    first = table[(table[by] == panels[0]) & (table["kind"] == "instance")]
    counts = first.groupby("category")["x"].size().reindex(categories).dropna().astype(int)
    across = max(1, int(TWO_COLUMNS / (0.35 + 0.065 * max(len(f"{c} (000)") for c in counts.index))))
    legends = 0.15 * math.ceil(len(counts) / across) + 0.35
    figure = new_figure(TWO_COLUMNS, rows * (TWO_COLUMNS / columns + 0.18) + legends)
    axes = figure.subplots(rows, columns, squeeze=False)
    hide_axes(axes.flat)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, panel in zip(axes.flat, panels, strict=False):
        _scatter(axis, table[table[by] == panel], colours, teachers)
        axis.set_title(titles[panel])
        for spine in axis.spines.values():
            spine.set(visible=True, color="#BBBBBB")
    shown = [name for name in teachers if name in set(table["teacher"])]
    handles = [Line2D([], [], marker="o", ls="", color=colours[c], label=f"{c} ({n})") for c, n in counts.items()]
    marks = [Line2D([], [], marker=MARKERS[teachers.index(n)], ls="", color="#555555", label=n) for n in shown]
    marks.append(Line2D([], [], marker="o", ls="", mfc="white", mec="black", mew=1.2, ms=7, label="centroid"))
    style = {"handletextpad": 0.2, "columnspacing": 1.0}
    figure.legend(handles=handles, loc="outside lower center", ncols=across, **style)
    figure.legend(handles=marks, loc="outside upper center", ncols=len(marks), **style)
    return figure, counts


def _scatter(axis: Axes, points: pd.DataFrame, colours: dict[str, str], teachers: Sequence[str]) -> None:
    instances, centroids = (points[points["kind"] == kind] for kind in ("instance", "centroid"))
    size = float(np.clip(4000 / max(1, len(instances)), 2.5, 16))
    large = float(np.clip(1300 / max(1, len(centroids)), 18, 42))
    for name, part in instances.groupby("teacher", sort=False):
        # In a fixed random order: drawn category by category, the last would cover the first.
        part = part.sample(frac=1, random_state=0)
        axis.scatter(part["x"], part["y"], s=size, c=part["category"].map(colours),
        marker=MARKERS[teachers.index(name)],
                     linewidths=0, alpha=0.65)  # fmt: skip
    for name, part in centroids.groupby("teacher", sort=False):
        for edge, width in (("white", 2.6), ("black", 1.1)):
            axis.scatter(part["x"], part["y"], s=large, c=part["category"].map(colours),
            marker=MARKERS[teachers.index(name)],
                         edgecolors=edge, linewidths=width)  # fmt: skip
    axis.set_box_aspect(1)
    axis.margins(0.04)


def _sizes(counts: pd.Series) -> str:
    """Say how many instances of a category are drawn."""
    least, most = int(counts.min()), int(counts.max())
    each = f"{most} instances of each category" if least == most else f"{least} to {most} instances a category"
    return f"{each}, as the legend says"


def _strip(split: Split, targets: pd.DataFrame, colour: str) -> np.ndarray:
    """Return up to `EACH` thumbnails side by side, `(H, W, 3)` uint8 RGB, white where there are fewer."""
    gap = 4
    strip = np.full((THUMBNAIL, EACH * (THUMBNAIL + gap) - gap, 3), 255, np.uint8)
    frame = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    for place, target in enumerate(targets.itertuples()):
        pixels, _ = split.pixels(int(target.image_id))
        tile = _crop(pixels, (target.x1, target.y1, target.x2, target.y2))
        cv2.rectangle(tile, (0, 0), (THUMBNAIL - 1, THUMBNAIL - 1), frame, 3)
        start = place * (THUMBNAIL + gap)
        strip[:, start : start + THUMBNAIL] = tile
    return strip


def _crop(pixels: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
    """Return a square around a box with a tenth of context on each side; grey beyond the picture's edge."""
    x1, y1, x2, y2 = box
    side = max(8, round(1.2 * max(x2 - x1, y2 - y1)))
    left, top = round((x1 + x2 - side) / 2), round((y1 + y2 - side) / 2)
    square = np.full((side, side, 3), 200, np.uint8)
    height, width = pixels.shape[:2]
    inside_x = slice(max(0, left), min(width, left + side))
    inside_y = slice(max(0, top), min(height, top + side))
    square[inside_y.start - top : inside_y.stop - top, inside_x.start - left : inside_x.stop - left] = pixels[
        inside_y, inside_x
    ]
    shrinks = side > THUMBNAIL
    return cv2.resize(square, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
