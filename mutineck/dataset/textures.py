"""Grounds, fillings, clutter and camera effects of the generated scenes, in whole numbers throughout.

Pictures are (H, W, 3) arrays, RGB; in between they are int32, at the end uint8.
"""

from __future__ import annotations

import cv2
import numpy as np


def value_noise(random: np.random.Generator, width: int, height: int, cell: int) -> np.ndarray:
    """Return smooth noise (H, W) int32 in 0..255: random values on a grid of ``cell`` pixels, blended linearly."""
    rows, columns = height // cell + 2, width // cell + 2
    grid = random.integers(0, 256, (rows, columns)).astype(np.int32)
    y, x = np.arange(height), np.arange(width)
    row, column = y // cell, x // cell
    down, right = (y % cell)[:, None], (x % cell)[None, :]
    top = grid[row][:, column] * (cell - right) + grid[row][:, column + 1] * right
    bottom = grid[row + 1][:, column] * (cell - right) + grid[row + 1][:, column + 1] * right
    return ((top * (cell - down) + bottom * down) // (cell * cell)).astype(np.int32)


def octaves(random: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Return noise (H, W) int32 in 0..255 with coarse, middle and fine structure."""
    cells = (int(random.integers(24, 64)), int(random.integers(9, 20)), int(random.integers(3, 6)))
    coarse, middle, fine = (value_noise(random, width, height, cell) for cell in cells)
    return (4 * coarse + 2 * middle + fine) // 7


def stripes(random: np.random.Generator, width: int, height: int, period: tuple[int, int] = (8, 36)) -> np.ndarray:
    """Return stripes (H, W) int32 in 0..255 at any angle, soft or hard."""
    y, x = np.mgrid[0:height, 0:width]
    a, b = int(random.integers(-16, 17)), int(random.integers(1, 17))
    length = int(random.integers(*period)) * 16
    phase = (a * x + b * y + int(random.integers(length))) % length
    wave = np.abs(2 * phase - length) * 255 // length
    return (np.where(wave > 127, 255, 0) if random.integers(2) else wave).astype(np.int32)


def gradient(random: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Return a slope (H, W) int32 in 0..255 in any direction."""
    y, x = np.mgrid[0:height, 0:width]
    slope = int(random.integers(-16, 17)) * x + int(random.integers(-16, 17)) * y
    low, high = int(slope.min()), int(slope.max())
    return ((slope - low) * 255 // max(1, high - low)).astype(np.int32)


def spots(random: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Return a field of spots or checks (H, W) int32, 0 or 255."""
    y, x = np.mgrid[0:height, 0:width]
    cell = int(random.integers(6, 18))
    if random.integers(2):
        return ((x // cell + y // cell) % 2 * 255).astype(np.int32)
    u, v = x % cell - cell // 2, y % cell - cell // 2
    return np.where(u * u + v * v < cell * cell // 10 + 2, 255, 0).astype(np.int32)


PATTERNS = (octaves, octaves, stripes, gradient, spots)


def colour(random: np.random.Generator) -> np.ndarray:
    """Return a colour (3,) int32."""
    return random.integers(20, 236, 3).astype(np.int32)


def _apart(random: np.random.Generator, ground: np.ndarray, distance: int) -> np.ndarray:
    """Return a colour that differs from another by at least ``distance`` over the three channels."""
    for _ in range(20):
        candidate = colour(random)
        if int(np.abs(candidate - ground).sum()) >= distance:
            return candidate
    return (ground + 128) % 256


def _blend(pattern: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return (pattern[..., None] * first + (255 - pattern[..., None]) * second) // 255


def background(random: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Return a textured ground (H, W, 3) int32: a pattern of two colours, roughened by noise."""
    first = colour(random)
    # Two tones that lie close: a ground that is all contrast would be camouflage.
    second = np.clip(first + random.integers(-55, 56, 3), 0, 255)
    pattern = PATTERNS[int(random.integers(len(PATTERNS)))](random, width, height)
    ground = _blend(pattern, first, second)
    rough = value_noise(random, width, height, int(random.integers(2, 7))) - 128
    return ground + (rough * int(random.integers(10, 60)) // 256)[..., None]


def clutter(random: np.random.Generator, pixels: np.ndarray) -> None:
    """Draw what is no object, in place: scratches, bent wires and irregular patches."""
    height, width = pixels.shape[:2]
    for _ in range(int(random.integers(2, 9))):
        kind = int(random.integers(3))
        layer = np.zeros((height, width), np.uint8)
        start = random.integers(0, (width, height))
        if kind == 0:
            end = random.integers(0, (width, height))
            cv2.line(layer, _point(start), _point(end), 255, int(random.integers(1, 4)))
        elif kind == 1:
            steps = random.integers(-28, 29, (5, 2))
            points = (start + np.cumsum(steps, axis=0)).astype(np.int32)
            cv2.polylines(layer, [points], False, 255, int(random.integers(1, 4)))
        else:
            reach = int(random.integers(8, 40))
            corners = start + random.integers(-reach, reach + 1, (int(random.integers(4, 7)), 2))
            cv2.fillPoly(layer, [corners.astype(np.int32)], 255)
        strength = int(random.integers(60, 200))
        alpha = (layer.astype(np.int32) * strength // 255)[..., None]
        pixels[:] = (pixels * (255 - alpha) + colour(random) * alpha) // 255


def _point(pair: np.ndarray) -> tuple[int, int]:
    return int(pair[0]), int(pair[1])


def paint(random: np.random.Generator, pixels: np.ndarray, coverage: np.ndarray, side: int) -> None:
    """Paint one object in place: a shadow now and then, a filling with a pattern, and a rim now and then.

    Args:
        random: source of every choice.
        pixels: (H, W, 3) int32.
        coverage: (H, W) uint8, the object's silhouette.
        side: the object's size in pixels.
    """
    height, width = coverage.shape
    rows, columns = np.flatnonzero(coverage.any(axis=1)), np.flatnonzero(coverage.any(axis=0))
    if not len(rows):
        return
    if random.integers(3) == 0:
        reach = 1 + side // 14
        shadow = np.zeros_like(coverage)
        shadow[reach:, reach:] = coverage[: height - reach, : width - reach]
        alpha = (_soften(shadow.astype(np.int32)) * 110 // 255)[..., None]
        pixels[:] = pixels * (255 - alpha) // 255
    visible = coverage >= 128
    under = pixels[visible].mean(axis=0).astype(np.int32) if visible.any() else colour(random)
    base = _apart(random, under, 120)
    filling = np.broadcast_to(base, pixels.shape)
    if random.integers(2):
        tone = np.clip(base + random.integers(-60, 61, 3), 0, 255)
        filling = _blend(PATTERNS[int(random.integers(len(PATTERNS)))](random, width, height), base, tone)
    alpha = coverage.astype(np.int32)[..., None]
    pixels[:] = (pixels * (255 - alpha) + filling * alpha) // 255
    if side >= 20 and random.integers(3) == 0:
        inner = cv2.erode(coverage, np.ones((3, 3), np.uint8), iterations=1 + side // 40)
        rim = (np.maximum(0, coverage.astype(np.int32) - inner))[..., None]
        pixels[:] = (pixels * (255 - rim) + _apart(random, base, 150) * rim) // 255


def _soften(plane: np.ndarray, times: int = 2) -> np.ndarray:
    """Blur with the kernel 1 2 1 along both axes, borders repeated."""
    for _ in range(times):
        for axis in (0, 1):
            pad = [(1, 1) if index == axis else (0, 0) for index in range(plane.ndim)]
            wide = np.pad(plane, pad, mode="edge")
            size = plane.shape[axis]
            first, middle, last = (wide.take(range(start, start + size), axis=axis) for start in range(3))
            plane = (first + 2 * middle + last) // 4
    return plane


def finish(random: np.random.Generator, pixels: np.ndarray) -> np.ndarray:
    """Return the scene as a camera would see it, uint8: uneven light, brightness, contrast, tint, blur and noise."""
    height, width = pixels.shape[:2]
    pixels = np.clip(pixels, 0, 255)
    light = 256 + (gradient(random, width, height) - 128) * int(random.integers(0, 120)) // 128
    pixels = pixels * light[..., None] // 256
    contrast, brightness = int(random.integers(150, 320)), int(random.integers(-38, 39))
    tint = random.integers(-14, 15, 3)
    pixels = (pixels - 128) * contrast // 256 + 128 + brightness + tint
    pixels = _soften(np.clip(pixels, 0, 255), times=int(random.integers(0, 3)))
    # Five uniform draws add up to something close to a normal distribution, in whole numbers.
    grain = random.integers(-64, 65, (5, *pixels.shape), dtype=np.int32).sum(axis=0)
    pixels = pixels + grain * int(random.integers(4, 40)) // 256
    return np.clip(pixels, 0, 255).astype(np.uint8)
