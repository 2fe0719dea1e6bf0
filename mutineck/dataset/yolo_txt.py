"""YOLO's label files: one object a line, its class's number and shares of the picture's sides. No file is touched."""

from __future__ import annotations

import math
from typing import Any

from mutineck.dataset.boxes import DECIMALS, clip_bbox, text_number
from mutineck.dataset.records import LEFT_OUT, REPAIRED, CategoryNames, Defect

MALFORMED = "line that is no object"
UNKNOWN_CLASS = "class without a name"
NOT_SHARES = "numbers that are no shares of the side"
REPEATED = "the same line twice"
OVERHANG = 0.01
"""Shares of the side that an object may reach over the border before it is a defect: rounding of the tools."""
BOX = 5
"""Numbers of a line with a box: class, centre (x, y), width, height."""
CONFIDENCE = 6
"""Numbers of a line of predictions."""


def read_yolo(
    content: bytes,
    classes: dict[int, str],
    width: int,
    height: int,
    names: CategoryNames,
    file: str,
    keypoints: int = 0,
) -> tuple[list[dict[str, Any]], list[Defect]]:
    """Read one label file.

    A line of five numbers is a box: class, x and y of the centre, width, height. One of seven or more is an outline:
    class, then x and y of its points, as segmentations and turned boxes are written; its box is the one around it.

    Args:
        content: the file's bytes.
        classes: number of a class -> its name.
        width, height: of the picture in pixels.
        names: which names are categories.
        file: the name that defects are reported under.
        keypoints: numbers of keypoints behind each box; they are not read.

    Returns:
        Objects as `mutineck.dataset.records.Picture` holds them, and defects; the n-th line is ``line[n]``,
        counted from 1.
    """
    objects: list[dict[str, Any]] = []
    defects: list[Defect] = []
    seen: set[tuple[float, ...]] = set()
    for index, line in enumerate(content.decode("utf-8-sig", "replace").splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        where = f"line[{index}]"
        category, numbers, reason, detail = _parse(words, classes, names, keypoints)
        if reason:
            defects.append(Defect(file, where, reason, LEFT_OUT, detail))
        if category is None or reason:
            continue
        if tuple(numbers) in seen:
            defects.append(Defect(file, where, REPEATED, LEFT_OUT, line.strip()))
            continue
        seen.add(tuple(numbers))
        item, reason = _object(category, numbers[1:], width, height)
        if reason:
            action = REPAIRED if item is not None else LEFT_OUT
            defects.append(Defect(file, where, reason, action, line.strip()))
        if item is not None:
            objects.append(item | {"index": index})
    return objects, defects


def _parse(
    words: list[str], classes: dict[int, str], names: CategoryNames, keypoints: int
) -> tuple[str | None, list[float], str, str]:
    """Return a line's category (None if it is dropped), numbers, and the reason and detail of a defect."""
    numbers = [text_number(word) for word in words]
    line = " ".join(words)
    if any(number is None or not math.isfinite(number) for number in numbers):
        return None, [], MALFORMED, f"no number: {line}"
    values = [number for number in numbers if number is not None]
    if keypoints and len(values) == BOX + keypoints:
        values = values[:BOX]
    if len(values) == CONFIDENCE:
        return None, [], MALFORMED, f"six numbers, as predictions with a confidence have: {line}"
    if len(values) < BOX or len(values) % 2 == 0:
        return None, [], MALFORMED, f"{len(values)} numbers instead of a box's 5 or an outline's 7, 9, ...: {line}"
    name = classes.get(int(values[0])) if values[0] == int(values[0]) else None
    if name is None:
        return None, [], UNKNOWN_CLASS, f"{words[0]}, of {len(classes)} classes"
    category, _ = names.resolve(name)
    if category is None:
        # A class that is known and not wanted is the experiment's choice, no defect
        return None, [], "", ""
    shares = values[1:]
    if not all(-OVERHANG <= share <= 1 + OVERHANG for share in shares):
        return None, [], NOT_SHARES, f"expected 0 to 1: {line}"
    return category, values, "", ""


def _object(category: str, shares: list[float], width: int, height: int) -> tuple[dict[str, Any] | None, str]:
    """Return a COCO annotation of the shares of a box or an outline, and what is wrong with it."""
    outline = len(shares) != BOX - 1
    if outline:
        across = [share * width for share in shares[0::2]]
        down = [share * height for share in shares[1::2]]
        bbox = [min(across), min(down), max(across) - min(across), max(down) - min(down)]
    else:
        x, y, w, h = shares
        bbox = [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]
    tolerance = OVERHANG * max(width, height)
    bbox = [round(value, DECIMALS) for value in bbox]
    _, reason = clip_bbox(bbox, width, height, tolerance=tolerance)
    clipped, problem = clip_bbox(bbox, width, height)
    if clipped is None:
        return None, problem or ""
    item: dict[str, Any] = {"category": category, "bbox": clipped, "iscrowd": 0}
    item["area"] = round(clipped[2] * clipped[3], DECIMALS)
    if outline:
        points = [
            round(min(max(value, 0.0), float(side)), DECIMALS)
            for pair in zip(across, down, strict=True)
            for value, side in zip(pair, (width, height), strict=True)
        ]
        area = _area(points)
        item["segmentation"] = [points]
        item["area"] = round(area, DECIMALS) if area > 0 else item["area"]
    return item, reason or ""


def _area(points: list[float]) -> float:
    """Return the area of a polygon ``x, y, x, y, ...`` (the shoelace formula)."""
    x, y = points[0::2], points[1::2]
    return abs(sum(x[i - 1] * y[i] - x[i] * y[i - 1] for i in range(len(x)))) / 2
