"""The data set at a glance: pictures with their boxes and masks, and how often each category occurs."""

from __future__ import annotations

import math
from typing import Any

import matplotlib.patheffects
import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from mutineck.figures.split_data import Split
from mutineck.figures.style import (
    TWO_COLUMNS,
    Drawing,
    category_colours,
    hide_axes,
    new_figure,
)
from mutineck.study.dataset import SOURCES
from mutineck.study.stage import Study

LONGEST = 480
"""Longer side in pixels of a picture inside a figure: enough in print, small in the PDF."""
SIDE_BY_SIDE = 24
"""Up to so many categories the histogram of sizes stands beside their bars, otherwise above them."""
SPLITS = ("train", "val", "test")


def draw_gallery(study: Study, split: str = "train", count: int = 12) -> Figure:
    """Return a board of pictures of one split with boxes and masks in their categories' colours.

    Raises:
        FileNotFoundError: the dataset stage has not run.
    """
    return _gallery(study, split, count).figure


def gallery(study: Study) -> Drawing:
    """Draw twelve training pictures with everything that is annotated in them."""
    return _gallery(study, "train", 12)


def categories(study: Study) -> Drawing:
    """Draw how many boxes of each category every split has, and how large boxes are."""
    names = list(study.dataset.categories)
    splits = {name: Split(study, name) for name in SPLITS if study.path("dataset", f"{name}.json").is_file()}
    rows, sides = [], []
    for name, split in splits.items():
        counts = np.zeros(len(names), dtype=int)
        for items in split.annotations.values():
            for item in items:
                counts[split.label_of[item["category_id"]]] += 1
                if name == "train":
                    sides.append(math.sqrt(max(item["bbox"][2] * item["bbox"][3], 1e-6)))
        rows += [{"split": name, "category": c, "boxes": int(n)} for c, n in zip(names, counts, strict=True)]
    data = pd.DataFrame(rows)
    if len(names) <= SIDE_BY_SIDE:
        figure = new_figure(TWO_COLUMNS, max(2.2, 0.6 + 0.17 * len(names)))
        left, right = figure.subplots(1, 2, width_ratios=(1.5, 1))
    else:
        figure = new_figure(TWO_COLUMNS, 2.2 + 0.11 * len(names))
        right, left = figure.subplots(2, 1, height_ratios=(1.6, 0.11 * len(names)))
        left.tick_params(axis="y", labelsize=5.5)
    offset = np.zeros(len(names))
    shades = dict(zip(SPLITS, ("#0072B2", "#56B4E9", "#B8DDF3"), strict=True))
    for name in splits:
        boxes = data.loc[data["split"] == name, "boxes"].to_numpy()
        left.barh(names, boxes, left=offset, color=shades[name], label=name, height=0.7)
        offset += boxes
    left.invert_yaxis()
    left.set_xlabel("boxes")
    left.tick_params(axis="y", length=0)
    left.margins(y=0.01)
    left.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    seaborn.histplot(x=sides, bins=30, color=shades["train"], alpha=1, linewidth=0, ax=right)
    right.set_xlabel("√(width × height) of training boxes, pixels")
    right.set_ylabel("boxes")
    total = int(data["boxes"].sum())
    most = data.groupby("category")["boxes"].sum().idxmax()
    return Drawing(
        figure,
        data,
        "What there is to learn from",
        f"Boxes of each category in the three splits ({total:,} in all), and the sizes of the training boxes "
        "in the "
        "pictures' own pixels.",
        f"Bars of box counts for {len(names)} categories, the most frequent being {most}; a histogram of box sizes.",
    )


def _gallery(study: Study, name: str, count: int) -> Drawing:
    split = Split(study, name)
    chosen = split.choose(count)
    colours = category_colours(split.categories)
    columns = min(4, len(chosen)) or 1
    rows = math.ceil(len(chosen) / columns) or 1
    records = [split.images[image] for image in chosen]
    # The tallest picture decides its row's height; portrait pictures of a mixed set are kept from filling a
    # page.
    aspect = [min(r["height"] / r["width"], 1.1) for r in records] or [0.75]
    heights = [max(aspect[row * columns : (row + 1) * columns]) for row in range(rows)]
    present = _present(split, chosen)
    partly = not study.dataset.complete(name)
    figure = new_figure(TWO_COLUMNS, sum(heights) * TWO_COLUMNS / columns + 0.3 + 0.14 * math.ceil(len(present) / 6))
    axes = np.atleast_1d(figure.subplots(rows, columns, height_ratios=heights)).ravel()
    hide_axes(axes)
    shown: list[dict[str, Any]] = []
    for axis, image in zip(axes, chosen, strict=False):
        shown += draw_targets(axis, split, image, colours)
        if sources := split.images[image].get(SOURCES):
            axis.set_title(", ".join(sources), fontsize=6, pad=2)
    figure.legend(
        handles=[Patch(color=colours[c], label=c) for c in present],
        loc="outside lower center", ncols=min(max(len(present), 1), 6), handlelength=1, columnspacing=1.2,
    )  # fmt: skip
    return Drawing(
        figure,
        pd.DataFrame(shown, columns=["image_id", "file_name", "category", "x", "y", "w", "h", "crowd", "mask"]),
        f"Pictures of the {name} split",
        f"{len(chosen)} of {len(split.images):,} pictures of the {name} split with their boxes, and masks "
        "where there are "
        "any; chosen so that every category appears, the rarest first. A crowd's box is dashed."
        f"{' Above a picture stands its source: in what that is not labelled for, no box is drawn.' * partly}",
        f"A board of {len(chosen)} pictures with {len(shown)} boxes of the categories {', '.join(present)}.",
    )


def _present(split: Split, images: list[int]) -> list[str]:
    labels = {split.label_of[item["category_id"]] for image in images for item in split.annotations.get(image, [])}
    return [name for label, name in enumerate(split.categories) if label in labels]


def draw_targets(axis: Axes, split: Split, image: int, colours: dict[str, str]) -> list[dict[str, Any]]:
    """Draw one picture with its annotated boxes and masks into ``axis``; return a row for each box."""
    pixels, factor = split.pixels(image, LONGEST)
    canvas = pixels.astype(float)
    rows = []
    for item in split.annotations.get(image, []):
        category = split.categories[split.label_of[item["category_id"]]]
        mask = split.mask(image, item)
        if mask is not None:
            shade = _shrink(mask, canvas.shape[:2])
            canvas[shade] = 0.55 * canvas[shade] + 0.45 * 255 * np.array(to_rgb(colours[category]))
        x, y, w, h = (float(v) for v in item["bbox"])
        crowd = bool(item.get("iscrowd"))
        draw_box(
            axis,
            (x * factor, y * factor, w * factor, h * factor),
            colours[category],
            dashes="--" if crowd else "-",
        )
        rows.append(
            {"image_id": image, "file_name": split.images[image]["file_name"], "category": category,
             "x": x, "y": y, "w": w, "h": h, "crowd": crowd, "mask": mask is not None}
        )  # fmt: skip
    show_pixels(axis, canvas.astype(np.uint8))
    return rows


def show_pixels(axis: Axes, pixels: np.ndarray) -> None:
    """Show ``(H, W, 3)`` pixels with pixel edges at whole coordinates, as boxes count them."""
    height, width = pixels.shape[:2]
    axis.imshow(pixels, extent=(0, width, height, 0))


def draw_box(axis: Axes, box: tuple[float, ...], colour: str, *, dashes: Any = "-", width: float = 1.0) -> None:
    """Draw a box (x, y, w, h) with a casing that keeps it visible on any background."""
    x, y, w, h = box
    patch = Rectangle((x, y), w, h, fill=False, edgecolor=colour, linewidth=width, linestyle=dashes)
    patch.set_path_effects(cased(colour, width))
    axis.add_patch(patch)


def cased(colour: str, width: float) -> list[Any]:
    """Return path effects that put a casing around a line: dark around light colours, white around all
    others.
    """
    casing = "black" if np.dot(to_rgb(colour), (0.3, 0.59, 0.11)) > 0.75 else "white"
    stroke = matplotlib.patheffects.Stroke(linewidth=width + 0.9, foreground=casing, alpha=0.8)
    return [stroke, matplotlib.patheffects.Normal()]


def _shrink(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return a mask sampled at another size."""
    rows = (np.arange(shape[0]) + 0.5) * mask.shape[0] / shape[0]
    columns = (np.arange(shape[1]) + 0.5) * mask.shape[1] / shape[1]
    return mask[np.ix_(rows.astype(int), columns.astype(int))]
