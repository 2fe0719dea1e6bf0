"""COCO annotations held against the sizes of their pictures: boxes in the picture and in pixels, masks that decode."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from mutineck.dataset.boxes import DECIMALS, clip_bbox
from mutineck.dataset.coco import MALFORMED
from mutineck.dataset.masks import check_segmentation
from mutineck.dataset.records import LEFT_OUT, REPAIRED, DatasetError, Defect

SHARES = "boxes in shares of the side"
BAD_MASK = "unusable mask"
OVERHANG = 1.0
"""Pixels that a box may reach over the border: COCO's own do by fractions, and are kept as they are."""
MIN_CORNERS = 5
"""So many boxes that reach out of their picture are no accident, where all of the file fit as corners."""
SLACK = 1e-3
"""By how much rounding may take shares of the side out of 0 to 1."""


def fit_to_images(document: dict[str, Any], file: str) -> list[Defect]:
    """Check boxes, areas and masks against the images' sizes, which must be known by now, in place.

    Boxes in shares of the side become pixels. Boxes are cut at the border where they reach more than a pixel over it;
    broken masks are taken off.

    Raises:
        DatasetError: boxes are corners, it seems, instead of a corner and sides.
    """
    sizes = {image["id"]: (image["width"], image["height"]) for image in document["images"]}
    defects = [*_shares_to_pixels(document["annotations"], sizes, file)]
    _refuse_corners(document["annotations"], sizes, file)
    kept = []
    for item in document["annotations"]:
        width, height = sizes[item["image_id"]]
        where = f"annotation {item['id']}"
        bbox, reason = clip_bbox(item["bbox"], width, height, tolerance=OVERHANG)
        if reason is not None:
            detail = f"{item['bbox']} on {width}x{height}"
            action = REPAIRED if bbox is not None else LEFT_OUT
            defects.append(Defect(file, f"{where}.bbox", reason, action, detail))
        if bbox is None:
            continue
        item["bbox"] = bbox
        if "segmentation" in item:
            mask, problem = check_segmentation(item["segmentation"], width, height)
            if problem:
                action = REPAIRED if mask is not None else LEFT_OUT
                defects.append(Defect(file, f"{where}.segmentation", BAD_MASK, action, problem))
            if mask is None:
                del item["segmentation"]
            else:
                item["segmentation"] = mask
        area = item["area"]
        if type(area) not in (int, float) or not math.isfinite(area) or area <= 0:
            # Files without areas are common and the box's area is what evaluation then means: no defect. With an area
            # of 0, mmdet would leave the box out of training.
            if area is not None:
                defects.append(Defect(file, f"{where}.area", MALFORMED, REPAIRED, f"{str(area)[:40]}"))
            item["area"] = round(bbox[2] * bbox[3], DECIMALS)
        kept.append(item)
    document["annotations"] = kept
    return defects


def _shares_to_pixels(
    annotations: list[dict[str, Any]], sizes: dict[int, tuple[int, int]], file: str
) -> Iterator[Defect]:
    """Turn boxes and outlines in shares of the picture's sides into pixels, in place, and yield one defect for all.

    They are shares where every box of the file would lie in the first pixel.
    """
    boxes = [item["bbox"] for item in annotations]
    inside = all(min(x, y) >= -SLACK and max(x + w, y + h) <= 1 + SLACK for x, y, w, h in boxes)
    if not boxes or not inside or sum(max(w, h) < 1 for _, _, w, h in boxes) * 2 < len(boxes):
        return
    for item in annotations:
        width, height = sizes[item["image_id"]]
        item["bbox"] = [
            round(value * side, DECIMALS) for value, side in zip(item["bbox"], (width, height) * 2, strict=True)
        ]
        if type(item["area"]) in (int, float):
            item["area"] = item["area"] * width * height
        polygons = item.get("segmentation")
        if isinstance(polygons, list):
            item["segmentation"] = [
                [value * (height if index % 2 else width) for index, value in enumerate(polygon)]
                if isinstance(polygon, list) and all(type(value) in (int, float) for value in polygon)
                else polygon
                for polygon in polygons
            ]
    yield Defect(file, "annotations.bbox", SHARES, REPAIRED, f"all {len(boxes)} boxes: read as pixels")


def _refuse_corners(annotations: list[dict[str, Any]], sizes: dict[int, tuple[int, int]], file: str) -> None:
    over = 0
    for item in annotations:
        (x, y, w, h), (width, height) = item["bbox"], sizes[item["image_id"]]
        if not (0 <= x < w <= width + OVERHANG and 0 <= y < h <= height + OVERHANG):
            return
        over += x + w > width + OVERHANG or y + h > height + OVERHANG
    if over >= MIN_CORNERS and over * 10 >= len(annotations):
        raise DatasetError(
            f"{file}: annotations.bbox: {over} of {len(annotations)} boxes reach out of their picture as [x, y, width, "
            "height], and all fit as corners [x1, y1, x2, y2]. COCO's boxes are [x, y, width, height]: write "
            "[x1, y1, x2 - x1, y2 - y1]"
        )
