"""Outlines of the generated shapes as polygons in whole numbers, and their silhouettes on a picture."""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np

CATEGORIES = ("disc", "ring", "square", "diamond", "triangle", "star", "cross", "crescent", "pill", "hexagon")
"""Look-alikes: disc, ring and crescent; square and diamond; hexagon and disc; star, cross and triangle."""
UNIT = 1 << 12
"""Half of an outline's side, in the whole numbers that outlines are drawn in."""
TURN = 720
"""Steps of a full turn."""
# Rounded tables: the last bit of a platform's sine must not decide about a pixel.
SINE = tuple(round(math.sin(2 * math.pi * step / TURN) * UNIT) for step in range(TURN))
COSINE = tuple(round(math.cos(2 * math.pi * step / TURN) * UNIT) for step in range(TURN))
SUPERSAMPLING = 4

Points = list[tuple[int, int]]


def _on_circle(step: int, radius: int = UNIT, centre: tuple[int, int] = (0, 0)) -> tuple[int, int]:
    step %= TURN
    return centre[0] + COSINE[step] * radius // UNIT, centre[1] + SINE[step] * radius // UNIT


def _regular(corners: int, start: int = 0) -> Points:
    return [_on_circle(start + TURN * corner // corners) for corner in range(corners)]


def _arc(start: int, stop: int, radius: int = UNIT, centre: tuple[int, int] = (0, 0)) -> Points:
    return [
        _on_circle(step, radius, centre)
        for step in range(start, stop + (1 if stop > start else -1), 8 if stop > start else -8)
    ]


def _disc(random: np.random.Generator) -> list[Points]:
    return [_arc(0, TURN)]


def _ring(random: np.random.Generator) -> list[Points]:
    return [_arc(0, TURN), _arc(0, TURN, UNIT * int(random.integers(40, 68)) // 100)]


def _square(random: np.random.Generator) -> list[Points]:
    side = UNIT * 17 // 20
    return [[(-side, -side), (side, -side), (side, side), (-side, side)]]


def _diamond(random: np.random.Generator) -> list[Points]:
    across = UNIT * int(random.integers(65, 101)) // 100
    return [[(0, -UNIT), (across, 0), (0, UNIT), (-across, 0)]]


def _triangle(random: np.random.Generator) -> list[Points]:
    return [_regular(3, TURN * 3 // 4)]


def _star(random: np.random.Generator) -> list[Points]:
    inner = UNIT * int(random.integers(38, 52)) // 100
    return [[_on_circle(TURN * 3 // 4 + TURN * tip // 10, inner if tip % 2 else UNIT) for tip in range(10)]]


def _cross(random: np.random.Generator) -> list[Points]:
    a, b = UNIT * 19 // 20, UNIT * int(random.integers(22, 38)) // 100
    return [
        [
            (-b, -a),
            (b, -a),
            (b, -b),
            (a, -b),
            (a, b),
            (b, b),
            (b, a),
            (-b, a),
            (-b, b),
            (-a, b),
            (-a, -b),
            (-b, -b),
        ]
    ]


def _crescent(random: np.random.Generator) -> list[Points]:
    # The inner arc goes through the tips of the outer one; `bite` sets how deep.
    bite = int(random.integers(30, 55))
    tip = TURN // 6
    x, y = _on_circle(tip)
    centre_x = x + UNIT * bite // 100
    radius = math.isqrt((centre_x - x) ** 2 + y**2)
    tip_step = min(range(TURN // 2), key=lambda step: abs(COSINE[step] * radius // UNIT - (x - centre_x)))
    outer = _arc(tip, TURN - tip)
    inner = _arc(TURN - tip_step, tip_step, radius, (centre_x, 0))
    return [outer + inner]


def _pill(random: np.random.Generator) -> list[Points]:
    radius = UNIT * int(random.integers(32, 50)) // 100
    reach = UNIT - radius
    return [
        _arc(TURN // 4, TURN * 3 // 4, radius, (-reach, 0)) + _arc(TURN * 3 // 4, TURN * 5 // 4, radius, (reach, 0))
    ]


def _hexagon(random: np.random.Generator) -> list[Points]:
    return [_regular(6)]


OUTLINES: dict[str, Callable[[np.random.Generator], list[Points]]] = {
    "disc": _disc, "ring": _ring, "square": _square, "diamond": _diamond, "triangle": _triangle,
    "star": _star, "cross": _cross, "crescent": _crescent, "pill": _pill, "hexagon": _hexagon,
}  # fmt: skip
TILTS = {"square": 24, "diamond": 20, "cross": 50}
"""Largest tilt to either side in steps of half a degree; the others turn freely. A square tilted by 45
degrees would be a diamond."""


def outline(name: str, side: int, random: np.random.Generator) -> list[np.ndarray]:
    """Return a shape's polygons (M, 2) int64 as ``(x, y)`` around 0, in 1/16 pixel; a second one is a hole.

    The proportions, the tilt and a squeeze of up to a quarter along one side are drawn from ``random``.
    """
    tilt = TILTS.get(name)
    step = int(random.integers(-tilt, tilt + 1)) if tilt is not None else int(random.integers(TURN))
    squeeze = int(random.integers(76, 101))
    across, down = (squeeze, 100) if random.integers(2) else (100, squeeze)
    sine, cosine = SINE[step % TURN], COSINE[step % TURN]
    polygons = []
    for points in OUTLINES[name](random):
        x, y = np.array(points, dtype=np.int64).T
        x, y = x * across // 100, y * down // 100
        turned = np.stack([x * cosine - y * sine, x * sine + y * cosine], axis=1)
        polygons.append(turned // UNIT * (side * 8) // UNIT)
    return polygons


def silhouette(polygons: list[np.ndarray], centre: tuple[int, int], width: int, height: int) -> tuple[np.ndarray, int]:
    """Draw a shape's coverage (H, W) uint8, 0 to 255, and return it with its area in pixels before any cut.

    Args:
        polygons: in 1/16 pixel around 0.
        centre: ``(x, y)`` in 1/16 pixel.
        width, height: of the picture.
    """
    reach = 1 + int(max(np.abs(polygon).max() for polygon in polygons)) // 16
    left, top = centre[0] // 16 - reach, centre[1] // 16 - reach
    side = 2 * reach + 2
    canvas = np.zeros((side * SUPERSAMPLING, side * SUPERSAMPLING), np.uint8)
    shift = np.array([centre[0] - left * 16, centre[1] - top * 16])
    local = [((polygon + shift) * SUPERSAMPLING // 16).astype(np.int32) for polygon in polygons]
    cv2.fillPoly(canvas, local, 1)
    sums = canvas.reshape(side, SUPERSAMPLING, side, SUPERSAMPLING).sum(axis=(1, 3), dtype=np.int64)
    tile = (sums * 255 // SUPERSAMPLING**2).astype(np.uint8)
    coverage = np.zeros((height, width), np.uint8)
    y0, y1, x0, x1 = max(0, top), min(height, top + side), max(0, left), min(width, left + side)
    if y0 < y1 and x0 < x1:
        coverage[y0:y1, x0:x1] = tile[y0 - top : y1 - top, x0 - left : x1 - left]
    return coverage, int(np.count_nonzero(tile >= 128))
