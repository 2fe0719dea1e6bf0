"""How a student's clusters tighten: its instance vectors before and after teaching, beside its teachers'."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from mutineck.ablations.detectors import LAYOUT, TIGHTNESS
from mutineck.figures.style import TWO_COLUMNS, Drawing, category_colours, hide_axes, in_words, new_figure
from mutineck.study.stage import Study
from mutineck.system.tables import read_table

COLUMNS, MOST_COLUMNS = 3, 4
"""Panels in a row: four if that is all of them, otherwise three."""


def tightening(study: Study) -> Drawing:
    """Draw every detector's targets in one UMAP, with the centroids, and how tightly they gather."""
    table = read_table(study.need("ablations", TIGHTNESS)).set_index("detector")
    layout = read_table(study.need("ablations", LAYOUT))
    categories = study.dataset.categories
    colours = category_colours(categories)
    names = list(table.index)
    rows = 1 if len(names) <= MOST_COLUMNS else -(-len(names) // COLUMNS)
    columns = -(-len(names) // rows)
    present = [name for name in categories if name in set(layout["category"])]
    across = max(1, int(TWO_COLUMNS / (0.35 + 0.065 * max(map(len, present)))))
    panel = TWO_COLUMNS / columns
    figure = new_figure(TWO_COLUMNS, rows * (panel + 0.42) + 0.15 * -(-len(present) // across) + 0.35)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    hide_axes(axes)
    for axis in axes[len(names) :]:
        axis.set_visible(False)
    centroids = layout[layout["kind"] == "centroid"]
    for axis, name in zip(axes, names, strict=False):
        _panel(axis, layout[layout["detector"] == name], centroids, colours)
        row = table.loc[name]
        axis.set_title(title_of(name, str(row["kind"])), fontsize=8)
        axis.set_xlabel(
            f"distance {row['distance']:.2f}, cosine {row['cosine']:+.2f}\n"
            f"silhouette {row['silhouette']:+.2f}, between {row['between']:+.2f}".replace("-", "−"),
            fontsize=6.5,
        )
    handles = [Line2D([], [], marker="o", ls="", color=colours[name], label=name) for name in present]
    figure.legend(handles=handles, loc="outside lower center", ncols=across, handletextpad=0.2, columnspacing=1.0)
    mark = [Line2D([], [], marker="o", ls="", mfc="white", mec="black", mew=1.2, ms=7, label="centroid")]
    figure.legend(handles=mark, loc="outside upper center", handletextpad=0.2)
    story = _story(table)
    titles = [title_of(name, str(table.loc[name, "kind"])) for name in names]
    return Drawing(
        figure,
        layout.merge(table.reset_index(), on="detector", how="left"),
        "How the student's clusters tighten",
        f"{int(table['instances'].iloc[0])} targets of the {study.experiment.evaluation.report} split as each detector "
        "pools them, all in one UMAP (cosine) with the teaching centroids. Each detector's vectors are standardised "
        "and turned, not stretched, onto the teacher's, by maps fitted on other pictures. Means over targets: distance "
        "to the category's centroid (in standard deviations a channel) and cosine with it; silhouette of the "
        f"categories; cosine between targets of different categories.{story}",
        f"Scatter plots of targets by category for {in_words(titles)}, with centroids.{story}",
    )


def title_of(name: str, kind: str) -> str:
    """Return how a detector is called in a picture: `student alone`, `taught: ARM`, `teacher NAME`, `intermediate`."""
    return {"alone": "student alone", "taught": f"taught: {name.split('/')[0]}", "teacher": f"teacher {name}"}.get(
        kind, name
    )


def _panel(axis: Axes, points: pd.DataFrame, centroids: pd.DataFrame, colours: dict[str, str]) -> None:
    # In a fixed random order: drawn category by category, the last would cover the first.
    points = points.sample(frac=1, random_state=0)
    axis.scatter(points["x"], points["y"], s=7, c=points["category"].map(colours), linewidths=0, alpha=0.8)
    for edge, width in (("white", 2.4), ("black", 1.0)):
        shade = centroids["category"].map(colours)
        axis.scatter(centroids["x"], centroids["y"], s=22, c=shade, edgecolors=edge, linewidths=width)
    axis.set_box_aspect(1)
    axis.margins(0.04)
    for spine in axis.spines.values():
        spine.set(visible=True, color="#BBBBBB")


def _story(table: pd.DataFrame) -> str:
    kinds = table.reset_index().drop_duplicates("kind").set_index("kind")
    if "alone" not in kinds.index or "taught" not in kinds.index:
        return ""
    before, after = kinds.loc["alone"], kinds.loc["taught"]
    changes = [
        f"{label} from {before[field]:+.2f} to {after[field]:+.2f}".replace("-", "−")
        for field, label in (
            ("cosine", "the cosine with the category's centroid goes"),
            ("silhouette", "the silhouette"),
            ("between", "the cosine between categories"),
        )
    ]
    return f" From the student alone to the taught one, {in_words(changes)}."
