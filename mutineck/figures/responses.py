"""Where detectors' maps respond on one picture: the centre response, attention level by level, and what is missing."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from mutineck.ablations.detectors import RESPONSES
from mutineck.figures.gallery import draw_box, show_pixels
from mutineck.figures.style import TWO_COLUMNS, Drawing, hide_axes, in_words, new_figure
from mutineck.figures.teaching import visible
from mutineck.study.arms import ALONE
from mutineck.study.jobs import arm_and_seed
from mutineck.study.stage import Study

MOST_LEVELS = 5
_MAPS = {"attention": "inferno", "error": "magma_r"}
_SCALES = {"attention": "attention: from 0 to the row's strongest", "error": "error: 0 to the row's largest"}
BRIGHTEST = 99
"""Percentile at which a shared colour scale ends: a single hot cell would leave all others black."""


def responses(study: Study) -> Drawing:
    """Draw the stored responses of `mutineck.ablations.responses.measure_responses`."""
    with np.load(study.need("ablations", RESPONSES), allow_pickle=False) as stored:
        return draw_responses(dict(stored))


def draw_responses(maps: Mapping[str, np.ndarray]) -> Drawing:
    """Draw centre response, attention of every detector, and errors before and after, a row a level.

    Args:
        maps: what `mutineck.distillation.observation.inspect_image` returned.
    """
    strides = [int(s) for s in maps["strides"]][:MOST_LEVELS]
    teachers, students = ([str(name) for name in maps[key]] for key in ("teachers", "students"))
    merged = ["merged"] if f"attention/merged/{strides[0]}" in maps else []
    detectors = [*teachers, *merged, *students]
    erring = [name for name in students if any(f"error/{name}/{s}" in maps for s in strides)]
    columns = [("response", ""), *(("attention", name) for name in detectors), *(("error", name) for name in erring)]
    height, width = maps["picture"].shape[:2]
    side = (TWO_COLUMNS - 0.75) / len(columns)
    figure = new_figure(TWO_COLUMNS, len(strides) * (side * height / width + 0.04) + 0.95)
    axes = figure.subplots(len(strides), len(columns), squeeze=False)
    hide_axes(axes.ravel())
    rows = []
    for line, stride in zip(axes, strides, strict=True):
        shared = {
            kind: _brightest([maps[key] for k, name in columns if k == kind and (key := _key(k, name, stride)) in maps])
            for kind in ("attention", "error")
        }
        for axis, (kind, name) in zip(line, columns, strict=True):
            key = _key(kind, name, stride)
            _draw_map(axis, maps, key, stride, kind, shared.get(kind, 1.0))
            if key not in maps:
                continue
            values = maps[key]
            rows.append({"stride": stride, "quantity": kind, "detector": name, "mean": float(values.mean()),
                         "maximum": float(values.max())})  # fmt: skip
        line[0].set_ylabel(f"stride {stride}", fontsize=7)
    data = pd.DataFrame(rows)
    for axis, (kind, name) in zip(axes[0], columns, strict=True):
        what = {"response": "centre\nresponse", "attention": "attention", "error": "error"}[kind]
        axis.set_title(what if kind == "response" else f"{what}\n{_short(name)}", fontsize=6.5, pad=3)
    first_error = 1 + len(detectors)
    _colour_bar(figure, axes[:, 1:first_error], "attention")
    if erring:
        _colour_bar(figure, axes[:, first_error:], "error")
    story = _story(data, erring)
    reference = "the intermediate teacher's" if merged else f"{teachers[0]}'s"
    without = (
        "" if erring or not students else " Students have other channels than the reference: no error can be shown."
    )
    return Drawing(
        figure,
        data,
        "Where the maps respond",
        "One picture, level by level: the centre response of the teachers' stacked proposals over the picture; "
        f"attention (FGD's: a softmax over places, mean 1) of {in_words([_short(n) for n in detectors])}; and the mean "
        f"absolute difference of the students' maps from {reference}. A row's maps of one kind share their colours."
        f"{story}{without}",
        f"Heat maps in {len(strides)} rows, strides {in_words([str(s) for s in strides])}, of the centre response, of "
        f"the attention of {in_words([_short(n) for n in detectors])}, and of errors.{story}",
    )


def _draw_map(axis: Axes, maps: Mapping[str, np.ndarray], key: str, stride: int, kind: str, brightest: float) -> None:
    """Draw one map of a level: the centre response over the picture, attention or error as a heat map."""
    if key not in maps:
        axis.text(0.5, 0.5, "no such\nlevel", ha="center", va="center", fontsize=6, transform=axis.transAxes)
    elif kind == "response":
        draw_response(axis, maps, stride)
        axis.set_aspect("auto")
    else:
        cells = visible(maps[key], maps, stride)
        axis.imshow(cells, cmap=_MAPS[kind], vmin=0, vmax=brightest, interpolation="nearest", aspect="auto")


def _colour_bar(figure: Figure, axes: np.ndarray, kind: str) -> None:
    """Add the bar of a kind of map below its axes: no numbers, since each row has its own scale."""
    bar = figure.colorbar(
        ScalarMappable(Normalize(0, 1), _MAPS[kind]),
        ax=axes.ravel().tolist(),
        location="bottom",
        aspect=30,
        shrink=0.7,
        pad=0.02,
    )
    bar.set_ticks([])
    bar.set_label(_SCALES[kind], fontsize=6.5)
    bar.outline.set_visible(False)  # type: ignore[operator]


def _key(kind: str, name: str, stride: int) -> str:
    return f"{kind}/{name}/{stride}" if name else f"{kind}/{stride}"


def _short(name: str) -> str:
    """Return a teacher's name or a student's arm; its seed is in the data."""
    arm = arm_and_seed(name)[0] if "/" in name else name
    return "alone" if arm == ALONE else arm


def _brightest(maps: list[np.ndarray]) -> float:
    values = np.concatenate([m.ravel() for m in maps]) if maps else np.zeros(1)
    return max(float(np.percentile(values, BRIGHTEST)), 1e-9)


def draw_response(axis: Axes, maps: Mapping[str, np.ndarray], stride: int) -> None:
    """Show the picture in grey, a level's centre response over it, and the targets' boxes."""
    height, width = maps["picture"].shape[:2]
    grey = maps["picture"].mean(axis=2, keepdims=True).repeat(3, axis=2)
    show_pixels(axis, (0.5 * grey + 110).clip(0, 255).astype(np.uint8))
    cells = maps[f"response/{stride}"]
    high, wide = cells.shape
    axis.imshow(
        cells,
        extent=(0, wide * stride, high * stride, 0),
        cmap="inferno",
        vmin=0,
        vmax=1,
        alpha=np.clip(1.5 * cells, 0, 0.9),
        interpolation="nearest",
    )
    axis.set_xlim(0, width)
    axis.set_ylim(height, 0)
    for x1, y1, x2, y2 in maps["boxes"]:
        draw_box(axis, (float(x1), float(y1), float(x2 - x1), float(y2 - y1)), "#0072B2", width=0.5)


def _story(data: pd.DataFrame, erring: list[str]) -> str:
    if len(erring) < 2:
        return ""
    errors = data[data["quantity"] == "error"].groupby("detector")["mean"].mean()
    before, after = (float(errors[name]) for name in erring[:2])
    change = 100 * (after / before - 1) if before else 0.0
    return f" Teaching changes the mean error from {before:.2f} to {after:.2f} ({change:+.0f} %)."
