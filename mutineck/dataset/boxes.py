"""Boxes as annotation files give them: from corners to ``[x, y, w, h]``, and what is wrong with some."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

Corners = tuple[float, float, float, float]

DECIMALS = 6
"""Coordinates are kept to a millionth of a pixel, so that shifting by one and back gives the same number."""

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)

SWAPPED = "swapped corners"
ZERO_AREA = "zero-area box"
OUTSIDE = "box outside the image"
PARTLY_OUTSIDE = "box partly outside the image"
NOT_FINITE = "box with a non-finite number"


def text_number(text: str) -> float | None:
    """Return the number that a text is, NaN where it says so or is too large for a double, or None if it is none."""
    text = text.strip()
    if text.lower().lstrip("+-") in ("nan", "inf", "infinity"):
        return math.nan
    if not NUMBER.fullmatch(text):
        return None
    value = float(text)
    return value if math.isfinite(value) else math.nan  # 1e999


def corners_to_bbox(corners: Sequence[float], offset: int = 1) -> list[float]:
    """Turn VOC corners into a COCO box.

    With ``offset`` 1 the corners are pixels counted from 1, the last one inclusive (Pascal VOC's devkit):
    ``x = xmin - 1``, ``w = xmax - xmin + 1``. With ``offset`` 0 they are pixel edges counted from 0, as many
    drawing tools write: ``x = xmin``, ``w = xmax - xmin``.

    Args:
        corners: ``(xmin, ymin, xmax, ymax)``.
        offset: 1 or 0.

    Returns:
        ``[x, y, w, h]``, 0-based, ``x + w`` exclusive, in pixels.
    """
    x_min, y_min, x_max, y_max = corners
    return [
        round(float(value), DECIMALS)
        for value in (x_min - offset, y_min - offset, x_max - x_min + offset, y_max - y_min + offset)
    ]


def bbox_to_corners(bbox: Sequence[float], offset: int = 1) -> list[float]:
    """Turn a COCO box ``[x, y, w, h]`` into VOC corners: the inverse of `corners_to_bbox`."""
    x, y, w, h = bbox
    return [round(float(value), DECIMALS) for value in (x + offset, y + offset, x + w, y + h)]


def order_corners(corners: Sequence[float]) -> tuple[Corners, bool]:
    """Return the corners with minimum before maximum, and whether they had to be swapped."""
    x_min, y_min, x_max, y_max = corners
    swapped = x_min > x_max or y_min > y_max
    return (min(x_min, x_max), min(y_min, y_max), max(x_min, x_max), max(y_min, y_max)), swapped


def turned_hull(bbox: Sequence[float], degrees: float) -> list[float]:
    """Return the upright box around a box ``[x, y, w, h]`` turned about its centre, as CVAT turns rectangles."""
    x, y, w, h = bbox
    cosine, sine = abs(math.cos(math.radians(degrees))), abs(math.sin(math.radians(degrees)))
    width, height = w * cosine + h * sine, w * sine + h * cosine
    return [round(value, DECIMALS) for value in (x + (w - width) / 2, y + (h - height) / 2, width, height)]


def clip_bbox(
    bbox: Sequence[float], width: int, height: int, tolerance: float = 0.0
) -> tuple[list[float] | None, str | None]:
    """Cut a box at the image's border.

    Args:
        bbox: ``[x, y, w, h]``.
        width, height: the image's size in pixels.
        tolerance: overhang in pixels that is left as it is.

    Returns:
        The box, or None if nothing usable is left, and the defect's reason, or None if there is none.
    """
    x, y, w, h = bbox
    if not all(math.isfinite(value) for value in bbox):
        return None, NOT_FINITE
    if w <= 0 or h <= 0:
        return None, ZERO_AREA
    if x >= width or y >= height or x + w <= 0 or y + h <= 0:
        return None, OUTSIDE
    if x >= -tolerance and y >= -tolerance and x + w <= width + tolerance and y + h <= height + tolerance:
        return [float(value) for value in bbox], None
    left, top = max(x, 0.0), max(y, 0.0)
    right, bottom = min(x + w, float(width)), min(y + h, float(height))
    clipped = [round(float(value), DECIMALS) for value in (left, top, right - left, bottom - top)]
    if clipped[2] <= 0 or clipped[3] <= 0:
        return None, OUTSIDE
    return clipped, PARTLY_OUTSIDE
