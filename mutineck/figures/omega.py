"""Who teaches what: the teachers' mean weights by category, and targets on which the weaker teacher is the better."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from mutineck.ablations.detectors import OMEGA
from mutineck.ablations.results import TEACHER, collect, teacher_strengths
from mutineck.figures.gallery import draw_box, show_pixels
from mutineck.figures.per_category import FEW, by_category, paint_cells
from mutineck.figures.split_data import Split
from mutineck.figures.style import TWO_COLUMNS, Drawing, distinct_colours, hide_axes, in_words, new_figure
from mutineck.study.experiment import CHOOSING, INTERMEDIATE
from mutineck.study.stage import Study
from mutineck.system.tables import read_table

SHOWN = 10
"""Targets on the board of the weaker teacher's."""
CORNERS = ["x1", "y1", "x2", "y2"]
LEAST = 0.02
"""By how much the weaker teacher's quality must be the higher: less is rounding."""


def read_omega(study: Study) -> pd.DataFrame:
    """Return the stored weights; see `mutineck.ablations.omega.measure_omega`.

    Raises:
        FileNotFoundError: they are not there; the message names the command that makes them.
    """
    return read_table(study.need("ablations", OMEGA))


def who_teaches(study: Study) -> Drawing:
    """Draw each teacher's mean omega by category over its AP there, the intermediate teacher's AP below."""
    omega = read_omega(study)
    seen = omega.groupby("annotation_id")["quality"].transform("max") > 0
    # Where no teacher has a proposal, omega is uniform by definition and carries no information.
    mean = omega[seen].groupby(["teacher", "category"])["omega"].mean().unstack("category")
    teachers = [teacher.name for teacher in study.experiment.teachers]
    precision = by_category(study, CHOOSING)
    precision = precision[precision.index.str.startswith(TEACHER)]
    precision.index = precision.index.str.removeprefix(TEACHER)
    order = [name for name in Split(study, CHOOSING).categories if name in set(omega["category"])]
    mean = mean.reindex(index=teachers, columns=order)
    known = [*teachers, *([INTERMEDIATE] if INTERMEDIATE in precision.index else [])]
    precision = 100 * precision.reindex(index=known, columns=order)
    few = len(order) <= FEW
    rows = len(teachers) + len(known)
    figure = new_figure(TWO_COLUMNS, 1.5 + 0.26 * rows if few else 1.1 + 0.13 * len(order))
    if few:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(len(teachers), len(known)))
    else:
        above, below = figure.subplots(1, 2, sharey=True, width_ratios=(len(teachers), len(known)))
    # White is an equal share.
    equal = 1 / len(teachers)
    reach = float(np.nanmax(np.abs(mean.to_numpy() - equal), initial=0.05))
    paint_cells(above, mean, "PuOr_r", (equal - reach, equal + reach), f"omega ({CHOOSING})", digits=2, few=few)
    best = float(np.nanmax(precision.to_numpy(), initial=1.0))
    paint_cells(below, precision, "viridis", (0.0, best), f"AP ({CHOOSING}), %", few=few)
    long = pd.concat([_long(mean, "omega"), _long(precision / 100, "AP")])
    leads = mean.fillna(-1).to_numpy().argmax(axis=0)
    present = mean.notna().any().to_numpy()
    counts = [f"{name} on {int((leads[present] == i).sum())}" for i, name in enumerate(teachers)]
    unseen = int((~seen).sum() / len(teachers))
    blank = f" For {unseen} of {len(seen) // len(teachers)} targets no teacher has a proposal." if unseen else ""
    story = f"The heaviest voice is {in_words(counts)} of {int(present.sum())} categories."
    return Drawing(
        figure,
        long,
        "Who teaches what",
        f"Mean weight omega of each teacher over the {CHOOSING} split's targets by category (a target's weights sum to "
        "1; white is an equal share), and each teacher's average precision, with the intermediate teacher's where "
        f"there is one. {story}{blank} Each target has weights of its own, so a teacher that is weaker over a "
        "category can lead on some of its targets.",
        f"Heat maps by {len(order)} categories: mean omega of {in_words(teachers)}; AP of {in_words(known)}. {story}",
    )


def weaker_wins(study: Study) -> Drawing:
    """Draw the targets on which a teacher other than the strongest has the better proposal, by how much.

    Raises:
        FileNotFoundError: the weights are not there, or there is a single teacher.
    """
    omega = read_omega(study)
    strengths = teacher_strengths(collect(study), CHOOSING)
    teachers = [teacher.name for teacher in study.experiment.teachers]
    if len(teachers) < 2:
        raise FileNotFoundError(f"{study.experiment.name} has a single teacher: none is the weaker one")
    strength = {name: float(strengths.get(name, 0.0)) for name in teachers}
    strongest = max(teachers, key=lambda name: strength[name])
    quality = omega.pivot(index="annotation_id", columns="teacher", values="quality")[teachers]
    rest = quality.drop(columns=strongest)
    wins = pd.DataFrame(
        {"weaker": rest.idxmax(axis=1), "quality_weaker": rest.max(axis=1), "quality_strongest": quality[strongest]}
    )
    wins["margin"] = wins["quality_weaker"] - wins["quality_strongest"]
    first = omega.drop_duplicates("annotation_id").set_index("annotation_id")[["image_id", "category"]]
    wins = wins.join(first)[wins["margin"] > LEAST].sort_values("margin", ascending=False, kind="stable").reset_index()
    shown = _varied(wins)
    split = Split(study, CHOOSING)
    columns = 5
    rows = max(1, -(-len(shown) // columns))
    figure = new_figure(TWO_COLUMNS, rows * 1.72 + 0.35)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    hide_axes(axes)
    colours = dict(zip(teachers, distinct_colours(len(teachers)), strict=True))
    boxes = omega.set_index(["annotation_id", "teacher"])
    truth = {item["id"]: item for item in split.document["annotations"]}
    for axis, row in zip(axes, shown.itertuples(), strict=False):
        target = tuple(float(v) for v in truth[row.annotation_id]["bbox"])
        pixels, _ = split.pixels(int(row.image_id))
        show_pixels(axis, pixels)
        draw_box(axis, target, "#000000", dashes=":", width=1.4)
        for name in (strongest, str(row.weaker)):
            x1, y1, x2, y2 = (float(boxes.loc[(row.annotation_id, name), corner]) for corner in CORNERS)
            if not np.isnan(x1):
                draw_box(axis, (x1, y1, x2 - x1, y2 - y1), colours[name], width=1.4)
        _look_at(axis, target, pixels.shape)
        axis.set_title(str(row.category), pad=3)
        axis.set_xlabel(f"{row.weaker} {row.quality_weaker:.2f}\n{strongest} {row.quality_strongest:.2f}", fontsize=6.5)
    for axis in axes[len(shown) :]:
        axis.set_visible(False)
    handles = [Line2D([], [], color="#000000", ls=":", label="target")]
    handles += [Line2D([], [], color=colour, label=f"{name}: AP {100 * strength[name]:.1f}") for name, colour in
                colours.items()]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    share = f"{len(wins)} of {len(quality)} targets ({100 * len(wins) / max(1, len(quality)):.0f} %)"
    return Drawing(
        figure,
        wins[["annotation_id", "image_id", "category", "weaker", "quality_weaker", "quality_strongest", "margin"]],
        "Where the weaker teacher is the better one",
        f"On {share} of the {CHOOSING} split a teacher other than {strongest}, the strongest by AP over all "
        "categories, has the better proposal. Shown are those with the largest difference, at most two of a category, "
        "with each teacher's best proposal; below, its quality (score^0.2 IoU^0.8; 0 where it has no proposal).",
        f"{len(shown)} cut-out targets with the proposals of {in_words(teachers)}: on {share} {strongest}, the "
        "strongest teacher, is beaten.",
    )


def _long(table: pd.DataFrame, quantity: str) -> pd.DataFrame:
    rows = table.rename_axis(index="teacher", columns="category").stack(future_stack=True).rename("value")
    return rows.reset_index().assign(quantity=quantity)[["quantity", "teacher", "category", "value"]]


def _varied(wins: pd.DataFrame) -> pd.DataFrame:
    """Return the first rows with at most two of a category."""
    return wins[wins.groupby("category").cumcount() < 2].head(SHOWN)


def _look_at(axis: Axes, box: tuple[float, ...], shape: tuple[int, ...]) -> None:
    """Show a square around a box, twice its longer side, moved inside the picture where it can be."""
    x, y, w, h = box
    side = max(2 * max(w, h), 24.0)
    limits = []
    for start, length, whole in ((x, w, shape[1]), (y, h, shape[0])):
        low = start + length / 2 - side / 2
        low = min(max(low, 0.0), whole - side) if side <= whole else (whole - side) / 2
        limits.append((low, low + side))
    axis.set_xlim(*limits[0])
    axis.set_ylim(limits[1][1], limits[1][0])
