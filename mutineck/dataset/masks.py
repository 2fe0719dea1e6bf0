"""Instance masks: COCO's run lengths and polygons checked, and VOC's SegmentationObject pictures read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

VOID = 255
"""Value of VOC's unlabelled border pixels."""
MIN_OVERLAP = 0.25
"""A mask whose own box overlaps the object's by less belongs to another object."""


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """Return a boolean mask (H, W) as a COCO run-length code ``{"size": [H, W], "counts": str}``."""
    code = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in code["size"]], "counts": code["counts"].decode("ascii")}


def read_object_masks(path: Path, size: tuple[int, int]) -> tuple[np.ndarray | None, str]:
    """Read a SegmentationObject picture.

    Args:
        path: palette or greyscale picture; value k is the k-th object of the XML, 255 is void.
        size: width and height it must have.

    Returns:
        Object numbers (H, W), or None, and the problem if there is one.
    """
    try:
        with Image.open(path) as picture:
            if picture.mode not in ("P", "L", "I", "I;16"):
                return None, f"mode {picture.mode} instead of a palette of object numbers"
            numbers = np.asarray(picture)
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        return None, f"{type(error).__name__}: {error}".replace(str(path), path.name)
    if numbers.shape[::-1] != size:
        return None, f"{numbers.shape[1]}x{numbers.shape[0]} instead of {size[0]}x{size[1]}"
    return numbers, ""


def box_overlap(mask: np.ndarray, bbox: Sequence[float]) -> float:
    """Return the IoU of a box ``[x, y, w, h]`` with the box around a boolean mask (H, W); 0 if empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return 0.0
    x, y, w, h = bbox
    left, right, top, bottom = columns[0], columns[-1] + 1, rows[0], rows[-1] + 1
    across = max(0.0, min(right, x + w) - max(left, x)) * max(0.0, min(bottom, y + h) - max(top, y))
    return float(across / ((right - left) * (bottom - top) + w * h - across))


def check_segmentation(segmentation: Any, width: int, height: int) -> tuple[Any | None, str]:
    """Return a COCO segmentation without its broken polygons, or None, and the problem if there is one."""
    if isinstance(segmentation, dict):
        problem = _rle_problem(segmentation, width, height)
        return (None, problem) if problem else (segmentation, "")
    if not isinstance(segmentation, list) or not segmentation:
        return None, "neither polygons nor run lengths"
    sound = [polygon for polygon in segmentation if _is_polygon(polygon)]
    if len(sound) == len(segmentation):
        return segmentation, ""
    broken = f"{len(segmentation) - len(sound)} of {len(segmentation)} polygons without three finite points"
    return sound or None, broken


def _is_polygon(polygon: Any) -> bool:
    return (
        isinstance(polygon, list)
        and len(polygon) >= 6
        and len(polygon) % 2 == 0
        and all(type(value) in (int, float) and math.isfinite(value) and abs(value) < 1e6 for value in polygon)
    )


def _rle_problem(code: dict[str, Any], width: int, height: int) -> str:
    """Say what is wrong with a run-length code; pycocotools trusts its input and may read past it."""
    size, counts = code.get("size"), code.get("counts")
    if size != [height, width]:
        return f"run lengths for size {str(size)[:40]} (height, width) on an image of {[height, width]}"
    runs = _decode_counts(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(type(run) is int and run >= 0 for run in runs):
        return "run lengths that are not non-negative whole numbers"
    if sum(runs) != width * height:
        return f"run lengths add up to {sum(runs)} pixels instead of {width * height}"
    return ""


def _decode_counts(text: str) -> list[int] | None:
    """Return the runs of COCO's compressed string: five bits a character, from the third run differences."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 30:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return None if shift else runs
