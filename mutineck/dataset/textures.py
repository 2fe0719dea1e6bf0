"""Grounds, fillings, clutter and camera effects of the generated scenes, in whole numbers throughout.

Pictures are (H, W, 3) arrays, RGB; in between they are int32, at the end uint8.
"""

from __future__ import annotations

import cv2
import numpy as np


def value_noise(random: np.random.Generator, width: int, height: int, cell: int) -> np.ndarray:
    """Return smooth noise (H, W) int32 in 0..255: random values ``cell`` pixels apart, blended linearly."""
    rows, columns = height // cell + 2, width // cell + 2
    grid = random.integers(0, 256, (rows, columns), dtype=np.int32)
    y, x = np.arange(height, dtype=np.int32), np.arange(width, dtype=np.int32)
    row, column = y // cell, x // cell
    down, right = (y % cell)[:, None], (x % cell)[None, :]
    top = grid[row][:, column] * (cell - right) + grid[row][:, column + 1] * right
    bottom = grid[row + 1][:, column] * (cell - right) + grid[row + 1][:, column + 1] * right
    return (top * (cell - down) + bottom * down) // (cell * cell)


def _grid(width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows (H, 1) and columns (1, W) int32, to be broadcast."""
    return np.arange(height, dtype=np.int32)[:, None], np.arange(width, dtype=np.int32)[None, :]


def octaves(random: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Return noise (H, W) int32 in 0..255 with coarse, middle and fine structure."""
    cells = (int(random.integers(24, 64)), int(random.integers(9, 20)), int(random.integers(3, 6)))
    coarse, middle, fine = (value_noise(random, width, height, cell) for cell in cells)
    return (4 * coarse + 2 * middle + fine) // 7


def stripes(random: np.random.Generator, width: int, height: int, period: tuple[int, int] = (8, 36)) -> np.ndarray:
    """Return stripes (H, W) int32 in 0..255 at any angle, soft or hard."""
    y, x = _grid(width, height)
    a, b = int(random.integers(-16, 17)), int(random.integers(1, 17))
    length = int(random.integers(*period)) * 16
    phase = (a * x + b * y + int(random.integers(length))) % length
    wave = np.abs(2 * phase - length) * 255 // length
    return (wave > 127) * np.int32(255) if random.integers(2) else wave


def gradient(random: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Return a slope (H, W) int32 in 0..255 in any direction."""
    y, x = _grid(width, height)
    slope = int(random.integers(-16, 17)) * x + int(random.integers(-16, 17)) * y
    low, high = int(slope.min()), int(slope.max())
    return (slope - low) * 255 // max(1, high - low)


def spots(random: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Return a field of spots or checks (H, W) int32, 0 or 255."""
    y, x = _grid(width, height)
    cell = int(random.integers(6, 18))
    if random.integers(2):
        return (x // cell + y // cell) % 2 * 255
    u, v = x % cell - cell // 2, y % cell - cell // 2
    return (u * u + v * v < cell * cell // 10 + 2) * np.int32(255)


PATTERNS = (octaves, octaves, stripes, gradient, spots)


def colour(random: np.random.Generator) -> np.ndarray:
    """Return a colour (3,) int32."""
    return random.integers(20, 236, 3, dtype=np.int32)


def _apart(random: np.random.Generator, ground: np.ndarray, distance: int) -> np.ndarray:
    """Return a colour that differs from another by at least ``distance`` over the three channels."""
    for _ in range(20):
        candidate = colour(random)
        if int(np.abs(candidate - ground).sum()) >= distance:
            return candidate
    return (ground + 128) % 256


def _mix(under: np.ndarray, over: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Lay colours over others: ``alpha`` (H, W) in 0..255 says how much of ``over`` is seen."""
    weight = (alpha + (alpha >> 7))[..., None]  # 0..256, so that a shift can divide
    return under + ((over - under) * weight >> 8)


def background(random: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Return a textured ground (H, W, 3) int32: a pattern of two muted colours, roughened by noise."""
    first = colour(random)
    grey = first.sum() // 3
    # Muted: objects are the colourful things of a scene.
    first = grey + (first - grey) * 2 // 5
    # Two tones that lie close: a ground that is all contrast would be camouflage.
    second = np.clip(first + random.integers(-40, 41, 3, dtype=np.int32), 0, 255)
    pattern = PATTERNS[int(random.integers(len(PATTERNS)))](random, width, height)
    ground = _mix(second, first, pattern)
    rough = value_noise(random, width, height, int(random.integers(2, 7))) - 128
    return ground + (rough * int(random.integers(10, 60)) >> 8)[..., None]


def clutter(random: np.random.Generator, pixels: np.ndarray) -> None:
    """Draw what is no object, in place: scratches, bent wires and irregular patches."""
    height, width = pixels.shape[:2]
    for _ in range(int(random.integers(1, 6))):
        kind = int(random.integers(3))
        start = random.integers(0, (width, height))
        if kind == 0:
            points = np.stack([start, random.integers(0, (width, height))])
        elif kind == 1:
            points = start + np.cumsum(random.integers(-28, 29, (5, 2)), axis=0)
        else:
            reach = int(random.integers(8, 40))
            points = start + random.integers(-reach, reach + 1, (int(random.integers(4, 7)), 2))
        layer = np.zeros((height, width), np.uint8)
        if kind == 2:
            cv2.fillPoly(layer, [points.astype(np.int32)], 255)
        else:
            cv2.polylines(layer, [points.astype(np.int32)], False, 255, int(random.integers(1, 4)))
        strength, tone = int(random.integers(60, 200)), colour(random)
        x, y, w, h = cv2.boundingRect(layer)
        window = np.s_[y : y + h, x : x + w]
        pixels[window] = _mix(pixels[window], tone, layer[window].astype(np.int32) * strength // 255)


def paint(
    random: np.random.Generator, pixels: np.ndarray, coverage: np.ndarray, side: int, usual: tuple[int, int, int]
) -> None:
    """Paint one object in place: a shadow now and then, a filling with a pattern, and a rim now and then.

    Args:
        random: source of every choice.
        pixels: (H, W, 3) int32.
        coverage: (H, W) uint8, the object's silhouette.
        side: the object's size in pixels.
        usual: colour that the object has, give or take, seven times of eight; else it has any that stands out.
    """
    x, y, w, h = cv2.boundingRect(coverage)
    if not w or not h:
        return
    reach = 1 + side // 14
    # All that follows happens in a window with room for the shadow.
    window = np.s_[y : y + h + reach + 2, x : x + w + reach + 2]
    pixels, alpha = pixels[window], coverage[window].astype(np.int32)
    height, width = alpha.shape
    if random.integers(3) == 0:
        shadow = np.zeros_like(alpha)
        shadow[reach:, reach:] = alpha[: height - reach, : width - reach]
        dark = _soften(shadow) * 110 >> 8
        pixels[:] = _mix(pixels, np.zeros(3, np.int32), dark)
    seen = alpha >= 128
    under = pixels[seen].sum(axis=0) // np.count_nonzero(seen) if seen.any() else colour(random)
    varied = np.clip(np.asarray(usual, np.int32) + random.integers(-45, 46, 3, dtype=np.int32), 0, 255)
    any_colour = _apart(random, under, 120)
    stands_out = int(np.abs(varied - under).sum()) >= 60
    base = varied if random.integers(8) and stands_out else any_colour
    filling = base
    if random.integers(2):
        tone = np.clip(base + random.integers(-60, 61, 3, dtype=np.int32), 0, 255)
        pattern = PATTERNS[int(random.integers(len(PATTERNS)))](random, width, height)
        filling = _mix(tone, base, pattern)
    pixels[:] = _mix(pixels, filling, alpha)
    if side >= 20 and random.integers(3) == 0:
        inner = cv2.erode(coverage[window], np.ones((3, 3), np.uint8), iterations=1 + side // 40)
        pixels[:] = _mix(pixels, _apart(random, base, 150), np.maximum(0, alpha - inner))


def _soften(plane: np.ndarray, times: int = 2) -> np.ndarray:
    """Blur an integer picture (H, W) or (H, W, C) with the kernel 1 2 1 along both axes, borders repeated."""
    for _ in range(times):
        wide = np.concatenate([plane[:1], plane, plane[-1:]])
        plane = (wide[:-2] + 2 * wide[1:-1] + wide[2:]) >> 2
        wide = np.concatenate([plane[:, :1], plane, plane[:, -1:]], axis=1)
        plane = (wide[:, :-2] + 2 * wide[:, 1:-1] + wide[:, 2:]) >> 2
    return plane


def finish(random: np.random.Generator, pixels: np.ndarray) -> np.ndarray:
    """Return the scene as a camera would see it, uint8: uneven light, contrast, tint, blur and noise."""
    height, width = pixels.shape[:2]
    light = 256 + ((gradient(random, width, height) - 128) * int(random.integers(0, 120)) >> 7)
    contrast, brightness = int(random.integers(190, 310)), int(random.integers(-30, 31))
    tint = random.integers(-14, 15, 3, dtype=np.int32)
    pixels = np.clip(pixels, 0, 255) * light[..., None] >> 8
    pixels = ((pixels - 128) * contrast >> 8) + (128 + brightness + tint)
    pixels = _soften(np.clip(pixels, 0, 255), times=int(random.integers(0, 3)))
    # Four uniform draws add up to something close to a normal distribution, in whole numbers.
    draws = np.frombuffer(random.bytes(4 * pixels.size), np.uint8).reshape(4, *pixels.shape)
    grain = draws.sum(axis=0, dtype=np.int32) - 510
    pixels = pixels + (grain * int(random.integers(2, 18)) >> 8)
    return np.clip(pixels, 0, 255).astype(np.uint8)
