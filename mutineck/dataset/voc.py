"""Pascal VOC's records to COCO's documents, and back. Pure functions, no file is touched."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from mutineck.dataset.boxes import (
    DECIMALS,
    NOT_FINITE,
    PARTLY_OUTSIDE,
    SWAPPED,
    ZERO_AREA,
    bbox_to_corners,
    clip_bbox,
    corners_to_bbox,
    order_corners,
    turned_hull,
)
from mutineck.dataset.coco import keep_images
from mutineck.dataset.records import LEFT_OUT, REPAIRED, CategoryNames, DatasetError, Defect, Picture
from mutineck.dataset.voc_xml import VocImage, VocObject

UNKNOWN_CATEGORY = "unknown category"


def picture_from_voc(
    record: VocImage,
    file_name: str,
    width: int,
    height: int,
    names: CategoryNames,
    offset: int = 1,
    file: str = "",
) -> tuple[Picture, list[Defect]]:
    """Turn a VOC record into COCO annotations on a picture of known size.

    ``difficult`` objects become ``iscrowd`` 1: neither missed nor wrong when found, as VOC's own evaluation
    has it. A turned box becomes the upright one around it.

    Args:
        record: the annotation file as read.
        file_name: the picture's path relative to the data set's root.
        width, height: the picture's true size in pixels.
        names: which names are categories.
        offset: 1 for VOC's pixels counted from 1, 0 for edges counted from 0 (see `corners_to_bbox`).
        file: the name that defects are reported under; ``file_name`` if empty.

    Returns:
        The picture with its usable objects, and the defects.
    """
    file = file or file_name
    defects: list[Defect] = []
    picture = Picture(file_name, width, height, extra={"depth": record.depth, "segmented": int(record.segmented)})
    for item in record.objects:
        where = f"object[{item.index}]"
        category, detail = names.resolve(item.name)
        if category is None:
            if detail:
                defects.append(Defect(file, f"{where}.name", UNKNOWN_CATEGORY, LEFT_OUT, detail))
            continue
        bbox, found = usable_bbox(item.corners, width, height, offset, item.rotation)
        for reason in found:
            action = REPAIRED if bbox is not None else LEFT_OUT
            written = ", ".join(f"{value:g}" for value in item.corners)
            defects.append(Defect(file, f"{where}.bndbox", reason, action, f"{written} on {width}x{height}"))
        if bbox is not None:
            picture.objects.append(
                {
                    "category": category,
                    "bbox": bbox,
                    "area": round(bbox[2] * bbox[3], DECIMALS),
                    "iscrowd": int(item.difficult),
                    "difficult": int(item.difficult),
                    "truncated": int(item.truncated),
                    "occluded": int(item.occluded),
                    "pose": item.pose,
                    "index": item.index,
                }
            )
    return picture, defects


def usable_bbox(
    corners: Sequence[float], width: int, height: int, offset: int = 1, rotation: float = 0.0
) -> tuple[list[float] | None, list[str]]:
    """Return the COCO box of VOC corners, or None, and the reasons for what was repaired or left out.

    Corners that coincide hold no object, even though two equal inclusive corners would be one pixel: drawing
    tools leave such boxes behind when the mouse was clicked and not dragged.
    """
    if not all(math.isfinite(value) for value in corners):
        return None, [NOT_FINITE]
    ordered, swapped = order_corners(corners)
    reasons = [SWAPPED] if swapped else []
    if ordered[0] == ordered[2] or ordered[1] == ordered[3]:
        return None, [ZERO_AREA]
    upright = corners_to_bbox(ordered, offset)
    bbox, reason = clip_bbox(turned_hull(upright, rotation) if rotation else upright, width, height)
    if bbox is None:
        return None, [reason or ZERO_AREA]
    return bbox, [*reasons, reason] if reason == PARTLY_OUTSIDE else reasons


def voc_to_coco(
    records: Iterable[VocImage], names: CategoryNames | None = None, offset: int = 1
) -> tuple[dict[str, Any], list[Defect]]:
    """Turn VOC records into one COCO document, trusting the sizes and file names they state."""
    names = names or CategoryNames()
    pictures, defects = [], []
    for record in records:
        picture, found = picture_from_voc(record, record.filename, record.width, record.height, names, offset)
        pictures.append(picture)
        defects += found
    order = names.order(name for picture in pictures for name in picture.categories())
    return coco_document(pictures, order), defects


def coco_document(pictures: Sequence[Picture], categories: Sequence[str]) -> dict[str, Any]:
    """Number pictures, objects and categories from 1 in the order given and return a COCO document."""
    ids = {name: index for index, name in enumerate(categories, start=1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, picture in enumerate(pictures, start=1):
        images.append(
            {"id": image_id, "file_name": picture.file_name, "width": picture.width, "height": picture.height}
            | picture.extra
        )
        for item in picture.objects:
            keys = {key: value for key, value in item.items() if key != "category"}
            number = {"id": len(annotations) + 1, "image_id": image_id, "category_id": ids[item["category"]]}
            annotations.append(number | keys)
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for name, number in ids.items()],
    }


def documents_of(pictures: list[Picture], categories: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return COCO documents by split of pictures, numbered through; all in one under the empty name if undivided."""
    document = coco_document(pictures, [*categories])
    for item in document["annotations"]:
        del item["index"]
    ids: dict[str, set[int]] = {}
    for number, picture in enumerate(pictures, start=1):
        ids.setdefault(picture.split, set()).add(number)
    return {split: keep_images(document, numbers, "id") for split, numbers in ids.items()}


def coco_to_voc(document: dict[str, Any], offset: int = 1) -> list[VocImage]:
    """Turn a COCO document into VOC records: the inverse of `voc_to_coco` (masks stay behind).

    Raises:
        DatasetError: an annotation names an image or a category that the document does not hold.
    """
    names = {category["id"]: category["name"] for category in document["categories"]}
    by_image: dict[Any, list[VocObject]] = {image["id"]: [] for image in document["images"]}
    for item in document["annotations"]:
        if item["image_id"] not in by_image or item["category_id"] not in names:
            raise DatasetError(f"annotation {item['id']}: its image or its category is not in the document")
        objects = by_image[item["image_id"]]
        corners = bbox_to_corners(item["bbox"], offset)
        objects.append(
            VocObject(
                name=names[item["category_id"]],
                corners=(corners[0], corners[1], corners[2], corners[3]),
                difficult=bool(item.get("difficult", item.get("iscrowd", 0))),
                truncated=bool(item.get("truncated", 0)),
                occluded=bool(item.get("occluded", 0)),
                pose=item.get("pose", "Unspecified"),
                index=item.get("index", len(objects) + 1),
            )
        )
    return [
        VocImage(
            filename=image["file_name"],
            width=image["width"],
            height=image["height"],
            depth=image.get("depth", 3),
            objects=tuple(by_image[image["id"]]),
            segmented=bool(image.get("segmented", 0)),
        )
        for image in document["images"]
    ]
