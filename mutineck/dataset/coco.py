"""COCO annotation files: validated, otherwise as they came (own ids, crowd regions, run lengths)."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Collection, Container, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mutineck.dataset.boxes import text_number, turned_hull
from mutineck.dataset.masks import segmentation_bbox
from mutineck.dataset.records import (
    LEFT_OUT,
    REPAIRED,
    CategoryNames,
    DatasetError,
    Defect,
    category_name,
    printable,
    turned_hint,
)

DUPLICATE_ID = "duplicate id"
UNUSABLE_ID = "unusable id"
MALFORMED = "malformed record"
ORPHAN = "annotation of an unknown image"
UNKNOWN_CATEGORY = "unknown category"
DUPLICATE = "duplicate name"
TEXT = "numbers written as text"
BAD_BOX = "object without a usable box"
MAX_SIDE = 1 << 20
LARGEST_ID = (1 << 53) - 1
"""Larger ones are not exact in doubles, which COCO's evaluation keeps ids in."""


def read_coco(
    content: bytes | str, file: str, names: CategoryNames | None = None
) -> tuple[dict[str, Any], list[Defect]]:
    """Read one COCO annotation document.

    Numbers that are written as text are read as numbers; an image that is listed twice is one; an object without a
    box gets that of its outline; a turned box (CVAT's attribute) becomes the upright one around it, and an object
    with ``ignore`` a crowd region.

    Args:
        content: the JSON text.
        file: the name that defects and errors are reported under.
        names: categories to keep and aliases; everything by default.

    Returns:
        A document with ``images``, ``annotations`` and ``categories``, ids as they came, and the defects.

    Raises:
        DatasetError: it is no JSON, or not a COCO document at all; the message names the file and the field.
    """
    reader = CocoReader(file, names or CategoryNames())
    return reader.read(parse_coco(content, file)), reader.defects


def parse_coco(content: bytes | str, file: str) -> dict[str, Any]:
    """Return the JSON object of a COCO annotation file, its three lists in place and nothing else checked.

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
    return document


def unused_root(documents: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the category that Roboflow puts above all others, if no object has it, else None.

    It has the supercategory ``none`` and is that of every other category.
    """
    rows = [row for row in documents[0]["categories"] if isinstance(row, dict)]
    for root in rows:
        others = [row.get("supercategory") for row in rows if row is not root]
        if root.get("supercategory") == "none" and others and set(map(str, others)) == {str(root.get("name"))}:
            items = (item for each in documents for item in each["annotations"] if isinstance(item, dict))
            if all(str(item.get("category_id")) != str(root.get("id")) for item in items):
                return root
    return None


@dataclass
class CocoReader:
    """Reads one document; what is wrong with it, and what may be meant otherwise, is collected.

    Attributes:
        file: the name that defects are reported under.
        names: categories to keep, and aliases.
        root: a category that is none (`unused_root`), or None.
        turned, ignored: boxes that were turned, objects with ``ignore``.
        unwanted: objects of categories that the experiment leaves out.
    """

    file: str
    names: CategoryNames
    root: dict[str, Any] | None = None
    defects: list[Defect] = field(default_factory=list)
    kept_categories: list[dict[str, Any]] = field(default_factory=list)
    turned: int = 0
    ignored: int = 0
    unwanted: int = 0
    _often: dict[tuple[str, str, str], list[Any]] = field(default_factory=dict)
    _numbers: dict[str, dict[str, int]] = field(default_factory=dict)
    _free: dict[str, Iterator[int]] = field(default_factory=dict)
    _merged: dict[int, int] = field(default_factory=dict)

    def read(self, document: dict[str, Any]) -> dict[str, Any]:
        """Return the sound part of a parsed document (see `read_coco`)."""
        kept = self.categories(document["categories"])
        images = self.images(document["images"])
        annotations = self.annotations(document["annotations"], images, kept)
        for (where, reason, detail), (count, first) in self._often.items():
            self._add(where, reason, REPAIRED, f"{count} {detail}, such as {str(first)[:60]}")
        return {"images": [*images.values()], "annotations": annotations, "categories": self.kept_categories}

    def hints(self) -> list[str]:
        """Return what may be meant otherwise, a sentence each."""
        hints = [turned_hint(self.turned)] if self.turned else []
        if self.ignored:
            hints.append(f"{self.file}: {self.ignored} objects have ignore 1: read as crowd regions")
        return hints

    def found(self, document: Mapping[str, Any]) -> dict[str, int]:
        """Return how many images and objects a document holds that was read, those left out included."""
        return {
            "images": len(document["images"]) - len(self._merged),
            "objects": len(document["annotations"]) - self.unwanted,
        }

    def _add(self, where: str, reason: str, action: Any, detail: str = "") -> None:
        self.defects.append(Defect(self.file, where, reason, action, detail))

    def _said(self, where: str, reason: str, detail: str, found: Any) -> None:
        """Note a repair that a file needs often: one defect for all of them."""
        self._often.setdefault((where, reason, detail), [0, found])[0] += 1

    def _number(self, value: Any, where: str) -> Any:
        """Return a number that is written as text as a number, and anything else as it is."""
        if not isinstance(value, str) or (number := _finite(value)) is None:
            return value
        self._said(where, TEXT, "read as numbers", repr(value))
        return number

    def _id(self, value: Any, kind: str, where: str, taken: set[int] | None = None) -> int | None:
        """Return an id as a whole number: of text the number that it is, or one of its own that is not ``taken``."""
        if not isinstance(value, str) or not value.strip():
            return whole(value)
        number = whole(_finite(value))
        if number is None:
            known = self._numbers.setdefault(kind, {})
            if taken is not None and value not in known:
                self._free.setdefault(kind, (free for free in itertools.count(1) if free not in taken))
                known[value] = next(self._free[kind])
            number = known.get(value)
        self._said(where, TEXT, "read as numbers", repr(value))
        return number

    def categories(self, rows: list[Any]) -> dict[int, int | None]:
        """Return category id in the file -> id kept, or None if dropped; fill `kept_categories` in order."""
        given: dict[int, str] = {}
        taken = _whole_ids(rows)
        for index, row in enumerate(rows):
            number = self._id(row.get("id"), "category", "categories.id", taken) if isinstance(row, dict) else None
            name = row.get("name") if isinstance(row, dict) else None
            if number is None or not isinstance(name, str) or not name.strip():
                raise DatasetError(f"{self.file}: categories[{index}]: expected id and name, got {str(row)[:80]}")
            if number in given:
                raise DatasetError(f"{self.file}: categories[{index}].id: {number} is the id of {given[number]!r} too")
            name = category_name(name)
            if self.root is not None and row.get("id") == self.root.get("id"):
                continue
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
        named: dict[str, int] = {}
        taken = _whole_ids(rows)
        for index, row in enumerate(rows):
            where = f"images[{index}]"
            number = self._id(row.get("id"), "image", "images.id", taken) if isinstance(row, dict) else None
            name = row.get("file_name") if isinstance(row, dict) else None
            if number is None or not isinstance(name, str) or not name.strip():
                self._add(where, MALFORMED, LEFT_OUT, f"no usable id or file_name: {str(row)[:80]}")
                continue
            if name != printable(name) or "\0" in name:
                self._add(f"{where}.file_name", MALFORMED, LEFT_OUT, name)
                continue
            if number in images or number in self._merged:
                other = images[self._merged.get(number, number)]["file_name"]
                self._add(f"{where}.id", DUPLICATE_ID, LEFT_OUT, f"{number}: {other}, {name}")
                continue
            sides = {side: whole(self._number(row.get(side), f"images.{side}")) or 0 for side in ("width", "height")}
            # A size out of range counts as missing; the picture itself will tell.
            sizes = {side: value if 0 < value < MAX_SIDE else 0 for side, value in sides.items()}
            if name in named:
                first = images[named[name]]
                if all(sizes[side] == first[side] or 0 in (sizes[side], first[side]) for side in sizes):
                    self._merged[number] = named[name]
                    detail = f"{name} is image {named[name]} already: the objects of both are read"
                    self._add(f"{where}.file_name", DUPLICATE, REPAIRED, detail)
                else:
                    detail = f"{name} is image {named[name]} already, of another size"
                    self._add(f"{where}.file_name", DUPLICATE, LEFT_OUT, detail)
                continue
            named[name] = number
            images[number] = {"id": number, "file_name": name} | sizes
        return images

    def annotations(
        self, rows: list[Any], images: dict[int, dict[str, Any]], categories: dict[int, int | None]
    ) -> list[dict[str, Any]]:
        """Return the sound annotations, their boxes as they came."""
        kept: list[dict[str, Any]] = []
        seen: dict[int, Any] = {}
        drawn: dict[tuple[Any, ...], Any] = {}
        renumber: list[tuple[str, dict[str, Any]]] = []
        taken = _whole_ids(rows)
        for index, row in enumerate(rows):
            where = f"annotations[{index}]"
            if not isinstance(row, dict):
                self._add(where, MALFORMED, LEFT_OUT, f"expected an object, got {str(row)[:80]}")
                continue
            number = self._id(row.get("id"), "annotation", "annotations.id", taken)
            image_id = self._id(row.get("image_id"), "image", "annotations.image_id")
            category_id = self._id(row.get("category_id"), "category", "annotations.category_id")
            listed, image_id = image_id, self._merged.get(image_id, image_id) if image_id is not None else None
            if image_id is None or image_id not in images:
                self._add(f"{where}.image_id", ORPHAN, LEFT_OUT, f"id {row.get('id')}, image {row.get('image_id')}")
                continue
            if category_id is None or category_id not in categories:
                self._add(f"{where}.category_id", UNKNOWN_CATEGORY, LEFT_OUT, f"{str(row.get('category_id'))[:60]}")
                continue
            if categories[category_id] is None:
                # COCO's own list knows the category: leaving it out is the experiment's choice, no defect.
                self.unwanted += 1
                continue
            bbox, problem = self._box(row)
            if bbox is None:
                detail = f"id {row.get('id')}: {problem or str(row.get('bbox'))[:80]}"
                self._add(f"{where}.bbox", BAD_BOX, LEFT_OUT, detail)
                continue
            if number is not None and number in seen and row == seen[number]:
                self._add(f"{where}.id", DUPLICATE_ID, LEFT_OUT, f"{number}: the same annotation twice")
                continue
            if self._merged and drawn.setdefault((image_id, category_id, *bbox), listed) != listed:
                self._add(where, DUPLICATE, LEFT_OUT, "the same box is there from the other listing of its image")
                continue
            item = {
                "id": number,
                "image_id": image_id,
                "category_id": categories[category_id],
                "bbox": bbox,
                "area": self._number(row.get("area"), "annotations.area"),
                "iscrowd": self._crowd(row, where),
            }
            if row.get("segmentation"):
                item["segmentation"] = row["segmentation"]
            if number is None or number < 1 or number in seen:
                # 0 is what COCO's evaluation writes for "not matched": a hit of that object would count as a miss.
                renumber.append((where, item))
            else:
                seen[number] = row
            kept.append(item)
        self._renumber(renumber, seen)
        return kept

    def _renumber(self, items: list[tuple[str, dict[str, Any]]], taken: Collection[int]) -> None:
        """Give annotations (each with where it was found) the smallest ids that are not taken, in place."""
        free = (number for number in itertools.count(1) if number not in taken)
        for where, item in items:
            found, item["id"] = item["id"], next(free)
            if found == 0:
                continue  # a tool that counts from 0 does nothing wrong
            detail = f"{found} is taken" if found in taken else "no whole number from 1 on"
            reason = DUPLICATE_ID if found in taken else UNUSABLE_ID
            self._add(f"{where}.id", reason, REPAIRED, f"{detail}: numbered {item['id']}")

    def _box(self, row: dict[str, Any]) -> tuple[list[float] | None, str]:
        """Return an annotation's box, upright, or None, and what is wrong with it if it does not speak for itself."""
        written = row.get("bbox")
        if not written and (outlined := segmentation_bbox(row.get("segmentation"))) is not None:
            self._said("annotations.bbox", BAD_BOX, "missing: read as the box around the outline", written)
            return outlined, ""
        if isinstance(written, list):
            written = [self._number(value, "annotations.bbox") for value in written]
        bbox = finite_box(written)
        attributes = row.get("attributes")
        rotation = attributes.get("rotation") if isinstance(attributes, dict) else None
        if bbox is None or not rotation or row.get("segmentation"):
            return bbox, ""
        degrees = self._number(rotation, "annotations.attributes")
        if type(degrees) not in (int, float) or not math.isfinite(degrees):
            return None, f"its rotation is {str(rotation)[:40]!r}"
        self.turned += degrees % 180 != 0
        return turned_hull(bbox, degrees), ""

    def _crowd(self, row: dict[str, Any], where: str) -> int:
        """Return whether an annotation is a crowd region, or is to be ignored, as mmdet ignores it in training."""
        crowd = self._number(row.get("iscrowd", 0), "annotations.iscrowd")
        if crowd not in (0, 1):
            self._add(f"{where}.iscrowd", MALFORMED, REPAIRED, f"{str(crowd)[:40]} read as 0")
            crowd = 0
        if row.get("ignore") in (1, "1") and not crowd:
            self.ignored += 1
            crowd = 1
        return int(crowd)


def keep_images(document: Mapping[str, Any], wanted: Container[Any], key: str = "file_name") -> dict[str, Any]:
    """Return the document with the images whose ``key`` is among those wanted, and their annotations."""
    images = [image for image in document["images"] if image[key] in wanted]
    ids = {image["id"] for image in images}
    annotations = [item for item in document["annotations"] if item["image_id"] in ids]
    return {**document, "images": images, "annotations": annotations}


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


def _finite(text: str) -> float | None:
    """Return the finite number that a text is, or None."""
    value = text_number(text)
    return None if value is None or not math.isfinite(value) else value


def _whole_ids(rows: list[Any]) -> set[int]:
    """Return the ids that are numbers, where some are text that needs others."""
    ids = [row.get("id") for row in rows if isinstance(row, dict)]
    if not any(isinstance(each, str) for each in ids):
        return set()
    found = (whole(_finite(each)) if isinstance(each, str) else whole(each) for each in ids)
    return {number for number in found if number is not None}
