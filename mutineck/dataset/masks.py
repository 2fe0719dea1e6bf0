"""Instance masks: COCO's run lengths and polygons checked, and VOC's SegmentationObject pictures read."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from mutineck.dataset.images import upright_bbox

VOID = 255
"""Value of VOC's unlabelled border pixels."""
MIN_OVERLAP = 0.25
"""A mask whose own box overlaps the object's by less belongs to another object."""


UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda mask: mask,
    2: np.fliplr,
    3: lambda mask: np.rot90(mask, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda mask: np.rot90(mask, -1),
    7: lambda mask: np.rot90(np.transpose(mask), 2),
    8: np.rot90,
}
"""EXIF orientation -> how a picture (H, W) is turned or mirrored to be shown."""


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


def segmentation_bbox(segmentation: Any) -> list[float] | None:
    """Return the box ``[x, y, w, h]`` around a COCO segmentation, or None if it has no sound outline or no area."""
    if isinstance(segmentation, dict):
        size = segmentation.get("size")
        if not isinstance(size, list) or len(size) != 2 or not all(type(side) is int and side > 0 for side in size):
            return None
        if _rle_problem(segmentation, size[1], size[0]):
            return None
        bbox = [float(value) for value in coco_mask.toBbox(_compressed(segmentation))]
    else:
        polygons = [each for each in segmentation if _is_polygon(each)] if isinstance(segmentation, list) else []
        if not polygons:
            return None
        across = [float(value) for polygon in polygons for value in polygon[0::2]]
        down = [float(value) for polygon in polygons for value in polygon[1::2]]
        bbox = [min(across), min(down), max(across) - min(across), max(down) - min(down)]
    return bbox if bbox[2] > 0 and bbox[3] > 0 else None


def upright_segmentation(segmentation: Any, stored_size: tuple[int, int], orientation: int) -> Any:
    """Turn a COCO segmentation given in stored pixels into displayed ones, as EXIF orientation turns or mirrors it.

    One that is broken comes back as it is.

    Args:
        segmentation: polygons, or a run-length code.
        stored_size: width and height as stored.
        orientation: EXIF orientation, 1 to 8.
    """
    sound, _ = check_segmentation(segmentation, *stored_size)
    if sound is None:
        return segmentation
    if isinstance(sound, dict):
        mask = coco_mask.decode(_compressed(sound)).astype(bool)
        return encode_mask(UPRIGHT[orientation](mask))
    return [
        [
            value
            for x, y in zip(polygon[0::2], polygon[1::2], strict=True)
            for value in upright_bbox([x, y, 0, 0], stored_size, orientation)[:2]
        ]
        for polygon in sound
    ]


def _compressed(code: dict[str, Any]) -> Any:
    """Return a sound run-length code as pycocotools takes it."""
    return code if isinstance(code["counts"], str) else coco_mask.frPyObjects(code, *code["size"])


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
