"""Generated scenes in Pascal VOC's layout: ten shapes, some look-alikes, on textured and cluttered grounds.

All arithmetic that reaches a pixel is in whole numbers, so a seed gives the same pixels on every platform.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from mutineck.dataset.outlines import CATEGORIES, outline, silhouette
from mutineck.dataset.textures import background, clutter, finish, paint
from mutineck.dataset.voc_xml import VocImage, VocObject, write_voc_xml

FREQUENCIES = (5, 4, 4, 3, 4, 3, 3, 2, 3, 3)
"""How often each category is drawn, relative to the others: uneven, as in photographs."""
USUAL = {
    "disc": (205, 60, 50),
    "ring": (205, 60, 50),
    "square": (50, 90, 210),
    "diamond": (50, 90, 210),
    "triangle": (60, 170, 80),
    "star": (230, 195, 50),
    "cross": (235, 130, 40),
    "crescent": (150, 70, 185),
    "pill": (60, 185, 195),
    "hexagon": (215, 95, 160),
}
"""Usual colour (RGB) of each category: a clue. Two pairs share theirs, so that shape has to tell them apart."""
SMALLEST, LARGEST = 20, 96
"""Side of an object in pixels before it is cut or covered."""
HIDDEN, DIFFICULT, COVERED = 15, 35, 95
"""Percent of an object that is visible: under the first it is not annotated, under the second it is
`difficult`, under the third it is `occluded`."""
SIDES = tuple(round(SMALLEST * (LARGEST / SMALLEST) ** (step / 63)) for step in range(64))
"""Sizes to draw from, evenly on a logarithmic scale."""


@dataclass(frozen=True, slots=True)
class Scene:
    """A generated picture: pixels (H, W, 3) uint8 RGB, object numbers (H, W) uint8 from 1, its annotation."""

    pixels: np.ndarray
    numbers: np.ndarray
    record: VocImage


def generate_scene(index: int, *, seed: int, size: tuple[int, int] = (256, 192), max_objects: int = 8) -> Scene:
    """Draw one scene; it depends on seed and index alone, not on how many others are drawn.

    Args:
        index: the scene's number.
        seed: the data set's seed.
        size: width and height in pixels.
        max_objects: most objects in a scene; two at least are drawn, unless this is 1.
    """
    random = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, index])))
    width, height = size
    pixels = background(random, width, height)
    clutter(random, pixels)
    numbers = np.zeros((height, width), np.uint8)
    whole: list[int] = []
    drawn: list[tuple[str, bool]] = []
    for number in range(1, 1 + int(random.integers(min(2, max_objects), max_objects + 1))):
        name = CATEGORIES[_weighted(random, FREQUENCIES)]
        side = SIDES[int(random.integers(len(SIDES)))]
        points = outline(name, side, random)
        centre, overhang = _place(random, width, height, side, numbers)
        coverage, area = silhouette(points, centre, width, height)
        paint(random, pixels, coverage, side, USUAL[name])
        numbers[coverage >= 128] = number
        whole.append(area)
        drawn.append((name, overhang))
    pixels = finish(random, pixels)
    return _annotated(index, pixels, numbers, drawn, whole)


def _weighted(random: np.random.Generator, weights: tuple[int, ...]) -> int:
    return int(np.searchsorted(np.cumsum(weights), random.integers(sum(weights)), side="right"))


def _place(
    random: np.random.Generator, width: int, height: int, side: int, numbers: np.ndarray
) -> tuple[tuple[int, int], bool]:
    """Return a centre in sixteenths of a pixel and whether the object may hang over the border.

    One object in seven is cut by the border. Of three places, the others take the least covered one half of
    the time, the first a quarter, and the most covered a quarter: objects hide parts of each other, but
    seldom all.
    """
    if random.integers(7) == 0:
        x, y = int(random.integers(width * 16)), int(random.integers(height * 16))
        edge = int(random.integers(4))
        slack = side * int(random.integers(-3, 4))  # up to a fifth of the side on either hand of the border
        x = (slack, width * 16 - slack, x, x)[edge]
        y = (y, y, slack, height * 16 - slack)[edge]
        return (x, y), True
    half = side // 2 + 1
    places = []
    for _ in range(3):
        x = int(random.integers(min(half, width // 2), max(width - half, width // 2) + 1))
        y = int(random.integers(min(half, height // 2), max(height - half, height // 2) + 1))
        covered = int(np.count_nonzero(numbers[max(0, y - half) : y + half, max(0, x - half) : x + half]))
        places.append((covered, x * 16 + int(random.integers(16)), y * 16 + int(random.integers(16))))
    place = (min(places), min(places), places[0], max(places))[int(random.integers(4))]
    return place[1:], False


def _annotated(
    index: int, pixels: np.ndarray, numbers: np.ndarray, drawn: list[tuple[str, bool]], whole: list[int]
) -> Scene:
    """Box what is visible of each object, VOC's way: corners counted from 1, both inclusive."""
    objects: list[VocObject] = []
    final = np.zeros_like(numbers)
    for number, ((name, overhang), area) in enumerate(zip(drawn, whole, strict=True), start=1):
        mask = numbers == number
        visible = 100 * int(mask.sum()) // max(area, 1)
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if visible < HIDDEN or len(rows) < 4 or len(columns) < 4:
            continue
        corners = (columns[0] + 1, rows[0] + 1, columns[-1] + 1, rows[-1] + 1)
        at_border = 0 in (rows[0], columns[0]) or rows[-1] == len(mask) - 1 or columns[-1] == mask.shape[1] - 1
        objects.append(
            VocObject(
                name=name,
                corners=(float(corners[0]), float(corners[1]), float(corners[2]), float(corners[3])),
                difficult=visible < DIFFICULT,
                truncated=bool(overhang and at_border),
                occluded=visible < COVERED and not (overhang and at_border),
                index=len(objects) + 1,
            )
        )
        final[mask] = len(objects)
    height, width = numbers.shape
    record = VocImage(f"{index:06d}.png", width, height, 3, tuple(objects), segmented=True)
    return Scene(pixels, final, record)


def write_shapes(folder: Path, *, images: int, seed: int, size: tuple[int, int], max_objects: int) -> None:
    """Write scenes as Annotations/, JPEGImages/ (PNG: no loss, no encoder's choice), SegmentationObject/."""
    for name in ("Annotations", "JPEGImages", "SegmentationObject"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    palette = cv2.applyColorMap(np.arange(256, dtype=np.uint8).reshape(-1, 1) * 37, cv2.COLORMAP_HSV)[:, 0, ::-1].copy()
    palette[0] = 0
    for index in tqdm(range(images), desc="drawing scenes", unit="image", disable=None):
        scene = generate_scene(index, seed=seed, size=size, max_objects=max_objects)
        stem = f"{index:06d}"
        (folder / "Annotations" / f"{stem}.xml").write_bytes(write_voc_xml(scene.record))
        Image.fromarray(scene.pixels).save(folder / "JPEGImages" / f"{stem}.png", compress_level=3)
        mask = Image.fromarray(scene.numbers)
        mask.putpalette(palette.tobytes())
        mask.save(folder / "SegmentationObject" / f"{stem}.png")
