"""COCO annotation files: validated, otherwise as they came (own ids, crowd regions, run lengths)."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mutineck.dataset.boxes import DECIMALS, clip_bbox
from mutineck.dataset.masks import check_segmentation
from mutineck.dataset.records import LEFT_OUT, REPAIRED, CategoryNames, DatasetError, Defect, printable

DUPLICATE_ID = "duplicate id"
UNUSABLE_ID = "unusable id"
MALFORMED = "malformed record"
ORPHAN = "annotation of an unknown image"
UNKNOWN_CATEGORY = "unknown category"
ELSEWHERE = "filename points elsewhere"
DUPLICATE = "duplicate name"
BAD_BOX = "object without a usable box"
BAD_MASK = "unusable mask"
OVERHANG = 1.0
"""Pixels that a box may reach over the border: COCO's own do by fractions, and are kept as they are."""
MAX_SIDE = 1 << 20
LARGEST_ID = (1 << 53) - 1
"""Larger ones are not exact in doubles, which COCO's evaluation keeps ids in."""


def read_coco(
    content: bytes | str, file: str, names: CategoryNames | None = None
) -> tuple[dict[str, Any], list[Defect]]:
    """Read one COCO annotation document.

    Args:
        content: the JSON text.
        file: the name that defects and errors are reported under.
        names: categories to keep and aliases; everything by default.

    Returns:
        A document with ``images``, ``annotations`` and ``categories``, ids as they came, and the defects.

    Raises:
        DatasetError: it is no JSON, or not a COCO document at all; the message names the file and the field.
    """
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{file}: not valid JSON ({error}); expected a COCO annotation file") from error
    if not isinstance(document, dict):
        raise DatasetError(
            f"{file}: expected a JSON object with images, annotations and categories, got {type(document).__name__}"
        )
    for key in ("images", "annotations", "categories"):
        if not isinstance(document.get(key), list):
            raise DatasetError(
                f"{file}: {key}: expected a list, got {type(document.get(key)).__name__}; "
                "is this an instances_*.json of COCO?"
            )
    reader = _Reader(file, names or CategoryNames())
    kept = reader.categories(document["categories"])
    images = reader.images(document["images"])
    annotations = reader.annotations(document["annotations"], images, kept)
    return {
        "images": list(images.values()),
        "annotations": annotations,
        "categories": reader.kept_categories,
    }, reader.defects


@dataclass
class _Reader:
    file: str
    names: CategoryNames
    defects: list[Defect] = field(default_factory=list)
    kept_categories: list[dict[str, Any]] = field(default_factory=list)

    def _add(self, where: str, reason: str, action: Any, detail: str = "") -> None:
        self.defects.append(Defect(self.file, where, reason, action, detail))

    def categories(self, rows: list[Any]) -> dict[int, int | None]:
        """Return category id in the file -> id kept, or None if dropped; fill `kept_categories` in order."""
        given: dict[int, str] = {}
        for index, row in enumerate(rows):
            number = whole(row.get("id")) if isinstance(row, dict) else None
            name = row.get("name") if isinstance(row, dict) else None
            if number is None or not isinstance(name, str) or not name.strip():
                raise DatasetError(f"{self.file}: categories[{index}]: expected id and name, got {str(row)[:80]}")
            if number in given:
                raise DatasetError(f"{self.file}: categories[{index}].id: {number} is the id of {given[number]!r} too")
            name = printable(" ".join(name.split()))
            if name in given.values():
                self._add(f"categories[{index}].name", DUPLICATE, REPAIRED, f"{name}: read as one category")
            given[number] = name
        kept: dict[str, int] = {}
        ids: dict[int, int | None] = {}
        for number, name in given.items():
            category, _ = self.names.resolve(name)
            # Two names that an alias makes one share the first's id.
            ids[number] = None if category is None else kept.setdefault(category, number)
        if self.names.wanted is not None:
            for name in self.names.wanted:
                if name not in kept:
                    raise DatasetError(
                        f"{self.file}: dataset.categories: {name!r} is not among its categories: "
                        f"{', '.join(sorted(given.values()))[:300]}"
                    )
            kept = {name: kept[name] for name in self.names.wanted}
        if not kept:
            raise DatasetError(f"{self.file}: categories: none is left; see dataset.categories and dataset.aliases")
        self.kept_categories = [{"id": number, "name": name} for name, number in kept.items()]
        return ids

    def images(self, rows: list[Any]) -> dict[int, dict[str, Any]]:
        """Return image id -> image record."""
        images: dict[int, dict[str, Any]] = {}
        taken: dict[str, int] = {}
        for index, row in enumerate(rows):
            where = f"images[{index}]"
            number = whole(row.get("id")) if isinstance(row, dict) else None
            name = row.get("file_name") if isinstance(row, dict) else None
            if number is None or not isinstance(name, str) or not name.strip():
                self._add(where, MALFORMED, LEFT_OUT, f"no usable id or file_name: {str(row)[:80]}")
            elif name != printable(name) or "\0" in name:
                self._add(f"{where}.file_name", MALFORMED, LEFT_OUT, name)
            elif points_elsewhere(name):
                self._add(f"{where}.file_name", ELSEWHERE, LEFT_OUT, name)
            elif number in images:
                self._add(f"{where}.id", DUPLICATE_ID, LEFT_OUT, f"{number}: {images[number]['file_name']}, {name}")
            elif name in taken:
                self._add(f"{where}.file_name", DUPLICATE, LEFT_OUT, f"{name} is image {taken[name]} already")
            else:
                taken[name] = number
                sides = {side: whole(row.get(side)) or 0 for side in ("width", "height")}
                # A size out of range counts as missing; the picture itself will tell.
                sizes = {side: value if 0 < value < MAX_SIDE else 0 for side, value in sides.items()}
                images[number] = {"id": number, "file_name": name} | sizes
        return images

    def annotations(
        self, rows: list[Any], images: dict[int, dict[str, Any]], categories: dict[int, int | None]
    ) -> list[dict[str, Any]]:
        """Return the sound annotations, their boxes as they came."""
        kept: list[dict[str, Any]] = []
        seen: dict[int, Any] = {}
        renumber: list[tuple[str, dict[str, Any]]] = []
        for index, row in enumerate(rows):
            where = f"annotations[{index}]"
            if not isinstance(row, dict):
                self._add(where, MALFORMED, LEFT_OUT, f"expected an object, got {str(row)[:80]}")
                continue
            number, image_id, category_id = (whole(row.get(key)) for key in ("id", "image_id", "category_id"))
            if image_id is None or image_id not in images:
                self._add(f"{where}.image_id", ORPHAN, LEFT_OUT, f"id {row.get('id')}, image {row.get('image_id')}")
                continue
            if category_id is None or category_id not in categories:
                self._add(f"{where}.category_id", UNKNOWN_CATEGORY, LEFT_OUT, f"{str(row.get('category_id'))[:60]}")
                continue
            if categories[category_id] is None:
                # COCO's own list knows the category: leaving it out is the experiment's choice, no defect.
                continue
            bbox = finite_box(row.get("bbox"))
            if bbox is None:
                self._add(f"{where}.bbox", BAD_BOX, LEFT_OUT, f"id {row.get('id')}: {str(row.get('bbox'))[:80]}")
                continue
            if number is not None and number in seen and row == seen[number]:
                self._add(f"{where}.id", DUPLICATE_ID, LEFT_OUT, f"{number}: the same annotation twice")
                continue
            crowd = row.get("iscrowd", 0)
            if crowd not in (0, 1):
                self._add(f"{where}.iscrowd", MALFORMED, REPAIRED, f"{str(crowd)[:40]} read as 0")
                crowd = 0
            item = {
                "id": number,
                "image_id": image_id,
                "category_id": categories[category_id],
                "bbox": bbox,
                "area": row.get("area"),
                "iscrowd": int(crowd),
            }
            if row.get("segmentation"):
                item["segmentation"] = row["segmentation"]
            if number is None or number < 1 or number in seen:
                # 0 is what COCO's evaluation writes for "not matched": a hit of that object would count as a miss.
                renumber.append((where, item))
            else:
                seen[number] = row
            kept.append(item)
        free = (number for number in itertools.count(1) if number not in seen)
        for where, item in renumber:
            found, item["id"] = item["id"], next(free)
            taken = found in seen
            detail = f"{found} is taken" if taken else "no whole number from 1 on"
            reason = DUPLICATE_ID if taken else UNUSABLE_ID
            self._add(f"{where}.id", reason, REPAIRED, f"{detail}: numbered {item['id']}")
        return kept


def fit_to_images(document: dict[str, Any], file: str) -> list[Defect]:
    """Check boxes, areas and masks against the images' sizes, which must be known by now, in place.

    Boxes are cut at the border where they reach more than a pixel over it; broken masks are taken off.
    """
    sizes = {image["id"]: (image["width"], image["height"]) for image in document["images"]}
    defects: list[Defect] = []
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


def keep_images(document: dict[str, Any], keep: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Return the document with the images that ``keep`` accepts, and their annotations."""
    images = [image for image in document["images"] if keep(image)]
    ids = {image["id"] for image in images}
    annotations = [item for item in document["annotations"] if item["image_id"] in ids]
    return document | {"images": images, "annotations": annotations}


def whole(value: Any) -> int | None:
    """Return a JSON number as a whole number, or None if it is none (booleans and strings are not) or out of range."""
    if type(value) not in (int, float) or not abs(value) <= LARGEST_ID:  # False for NaN too
        return None
    return int(value) if value == int(value) else None


def finite_box(value: Any) -> list[float] | None:
    """Return a JSON value as a box of four finite numbers with a positive side each, or None."""
    if not isinstance(value, list) or len(value) != 4 or not all(type(number) in (int, float) for number in value):
        return None
    if not all(abs(number) < 1e9 for number in value):  # False for NaN too
        return None
    return [float(number) for number in value] if value[2] > 0 and value[3] > 0 else None


def points_elsewhere(name: str) -> bool:
    """Whether a file name leaves the folder it is looked for in."""
    parts = name.replace("\\", "/").split("/")
    return ".." in parts or not parts[0] or ":" in parts[0] or Path(name).is_absolute()
