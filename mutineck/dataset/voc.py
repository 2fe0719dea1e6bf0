"""Pascal VOC XML: one file to one record, and records to COCO and back. Pure functions, no file is touched here."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import Element, ParseError, SubElement, indent, tostring

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

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
)
from mutineck.dataset.records import LEFT_OUT, REPAIRED, CategoryNames, DatasetError, Defect, Picture

UNREADABLE_XML = "unreadable XML"
ENCODING = "wrong encoding declared"
MISSING_NAME = "object without a name"
MISSING_BOX = "object without a usable box"
UNKNOWN_CATEGORY = "unknown category"
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
DECLARATION = re.compile(r"^\s*<\?xml[^>]*?\?>", re.ASCII)
DECLARED = re.compile(rb"""^\s*<\?xml[^>]*?encoding\s*=\s*["']([A-Za-z0-9._-]{1,40})["']""")
BYTE_ORDER_MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True, slots=True)
class VocObject:
    """One ``<object>``: its name, corners as written (``xmin, ymin, xmax, ymax``) and flags.

    ``index`` is its place among all objects of the file, counted from 1: its number in a SegmentationObject mask.
    """

    name: str
    corners: tuple[float, float, float, float]
    difficult: bool = False
    truncated: bool = False
    occluded: bool = False
    pose: str = "Unspecified"
    index: int = 0


@dataclass(frozen=True, slots=True)
class VocImage:
    """One annotation file: the picture's name and size as written (0 where missing), and its objects."""

    filename: str
    width: int
    height: int
    depth: int = 3
    objects: tuple[VocObject, ...] = ()
    segmented: bool = False


def read_voc_xml(content: bytes, file: str = "annotation.xml") -> tuple[VocImage | None, list[Defect]]:
    """Read one VOC annotation file.

    Entities and external references are refused, boxes of ``<part>`` are not objects and are ignored, comments too.

    Args:
        content: the file's bytes, in any encoding that Python knows, with or without a byte-order mark.
        file: the name that defects are reported under.

    Returns:
        The record, or None if the file cannot be read, and its defects. Corners are as written, not yet clipped.
    """
    root, defects = _parse(content, file)
    if root is None:
        return None, defects
    if root.tag != "annotation":
        return None, [
            *defects,
            Defect(file, "annotation", UNREADABLE_XML, LEFT_OUT, f"the root is <{root.tag[:40]}>"),
        ]
    objects = []
    for index, element in enumerate(root.findall("object"), start=1):
        item = _read_object(element, index, file, defects)
        if item is not None:
            objects.append(item)
    record = VocImage(
        filename=_text(root, "filename"),
        width=_whole(root, "size/width"),
        height=_whole(root, "size/height"),
        depth=_whole(root, "size/depth") or 3,
        objects=tuple(objects),
        segmented=_flag(root, "segmented"),
    )
    return record, defects


def _parse(content: bytes, file: str) -> tuple[Element | None, list[Defect]]:
    text, wrong = _decode(content)
    if text is None:
        return None, [
            Defect(file, "file", UNREADABLE_XML, LEFT_OUT, "its text is in no encoding that is known here")
        ]
    defects = [Defect(file, "encoding", ENCODING, REPAIRED, wrong)] if wrong else []
    if not text.strip("\0 \t\r\n"):
        return None, [Defect(file, "file", UNREADABLE_XML, LEFT_OUT, "the file is empty")]
    try:
        # The text is decoded already: a declaration of another encoding would contradict it.
        return fromstring(DECLARATION.sub("", text, count=1).lstrip()), defects
    except DefusedXmlException as error:
        detail = f"{type(error).__name__}: entities and external references are refused"
    except ParseError as error:
        detail = str(error)
    except (ValueError, LookupError, RecursionError, UnicodeError) as error:
        detail = f"{type(error).__name__}: {error}"
    return None, [*defects, Defect(file, "file", UNREADABLE_XML, LEFT_OUT, detail[:200])]


def _decode(content: bytes) -> tuple[str | None, str]:
    """Return the text and, if the declared encoding was not the true one, what was done instead."""
    for mark, encoding in BYTE_ORDER_MARKS:
        if content.startswith(mark):
            return _try_decode(content, encoding), ""
    match = DECLARED.match(content[:400])
    declared = match.group(1).decode("ascii") if match else "utf-8"
    text = _try_decode(content, declared)
    if text is not None:
        return text, ""
    for encoding in ("utf-8", "cp1252", "latin-1"):
        text = _try_decode(content, encoding)
        if text is not None:
            return text, f"{declared} declared or implied, read as {encoding}"
    return None, ""


def _try_decode(content: bytes, encoding: str) -> str | None:
    try:
        return content.decode(encoding)
    except (LookupError, ValueError):
        return None


def _read_object(element: Element, index: int, file: str, defects: list[Defect]) -> VocObject | None:
    where = f"object[{index}]"
    name = _text(element, "name")
    if not name:
        defects.append(Defect(file, f"{where}.name", MISSING_NAME, LEFT_OUT))
        return None
    corners = []
    for key in CORNERS:
        written = _text(element, f"bndbox/{key}")
        value = _number(written)
        if value is None:
            detail = f"{key} is {written[:40]!r}" if written else f"no <{key}>"
            defects.append(Defect(file, f"{where}.bndbox", MISSING_BOX, LEFT_OUT, detail))
            return None
        corners.append(round(value, DECIMALS) if math.isfinite(value) else value)
    return VocObject(
        name=name,
        corners=(corners[0], corners[1], corners[2], corners[3]),
        difficult=_flag(element, "difficult"),
        truncated=_flag(element, "truncated"),
        occluded=_flag(element, "occluded"),
        pose=_text(element, "pose") or "Unspecified",
        index=index,
    )


def _text(element: Element, path: str) -> str:
    return " ".join((element.findtext(path) or "").split())


def _number(text: str) -> float | None:
    if text.lower().lstrip("+-") in ("nan", "inf", "infinity"):
        return math.nan
    return float(text) if NUMBER.fullmatch(text) else None


def _whole(element: Element, path: str) -> int:
    value = _number(_text(element, path))
    return int(value) if value is not None and math.isfinite(value) and 0 < value < 1 << 31 else 0


def _flag(element: Element, path: str) -> bool:
    return _text(element, path).lower() in ("1", "true", "yes")


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

    ``difficult`` objects become ``iscrowd`` 1: neither missed nor wrong when found, as VOC's own evaluation has it.

    Args:
        record: the annotation file as read.
        file_name: the picture's path relative to the data set's root.
        width, height: the picture's true size in pixels.
        names: which names are categories.
        offset: 1 for VOC's pixels counted from 1, 0 for edges counted from 0 (see :func:`corners_to_bbox`).
        file: the name that defects are reported under; ``file_name`` if empty.

    Returns:
        The picture with its usable objects, and the defects.
    """
    file = file or file_name
    defects: list[Defect] = []
    picture = Picture(
        file_name, width, height, extra={"depth": record.depth, "segmented": int(record.segmented)}
    )
    for item in record.objects:
        where = f"object[{item.index}]"
        category, detail = names.resolve(item.name)
        if category is None:
            if detail:
                defects.append(Defect(file, f"{where}.name", UNKNOWN_CATEGORY, LEFT_OUT, detail))
            continue
        bbox, found = usable_bbox(item.corners, width, height, offset)
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
    corners: Sequence[float], width: int, height: int, offset: int = 1
) -> tuple[list[float] | None, list[str]]:
    """Return the COCO box of VOC corners, or None, and the reasons of what was repaired or why nothing is left.

    Corners that coincide hold no object, even though two equal inclusive corners would be one pixel: drawing tools
    leave such boxes behind when the mouse was clicked and not dragged.
    """
    if not all(math.isfinite(value) for value in corners):
        return None, [NOT_FINITE]
    ordered, swapped = order_corners(corners)
    reasons = [SWAPPED] if swapped else []
    if ordered[0] == ordered[2] or ordered[1] == ordered[3]:
        return None, [ZERO_AREA]
    bbox, reason = clip_bbox(corners_to_bbox(ordered, offset), width, height)
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


def coco_to_voc(document: dict[str, Any], offset: int = 1) -> list[VocImage]:
    """Turn a COCO document into VOC records: the inverse of :func:`voc_to_coco` (masks stay behind).

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


def write_voc_xml(record: VocImage) -> bytes:
    """Return a record as a VOC annotation file: the inverse of :func:`read_voc_xml`."""
    root = Element("annotation")
    _add(root, "filename", record.filename)
    size = SubElement(root, "size")
    for key, value in (("width", record.width), ("height", record.height), ("depth", record.depth)):
        _add(size, key, value)
    _add(root, "segmented", int(record.segmented))
    for item in record.objects:
        element = SubElement(root, "object")
        _add(element, "name", item.name)
        _add(element, "pose", item.pose)
        for key in ("truncated", "occluded", "difficult"):
            _add(element, key, int(getattr(item, key)))
        box = SubElement(element, "bndbox")
        for key, corner in zip(CORNERS, item.corners, strict=True):
            _add(box, key, int(corner) if float(corner).is_integer() else repr(float(corner)))
    indent(root)
    return tostring(root, encoding="utf-8", xml_declaration=True) + b"\n"


def _add(parent: Element, key: str, value: Any) -> None:
    SubElement(parent, key).text = str(value)
