"""Pascal VOC's annotation files: XML to one record, and back. Pure functions, no file is touched."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import Element, ParseError, SubElement, indent, tostring

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from mutineck.dataset.boxes import DECIMALS, text_number
from mutineck.dataset.records import LEFT_OUT, REPAIRED, Defect

UNREADABLE_XML = "unreadable XML"
ENCODING = "wrong encoding declared"
MISSING_NAME = "object without a name"
MISSING_BOX = "object without a usable box"
DECLARATION = re.compile(r"^\s*<\?xml[^>]*?\?>", re.ASCII)
DECLARED = re.compile(rb"""^\s*<\?xml[^>]*?encoding\s*=\s*["']([A-Za-z0-9._-]{1,40})["']""")
BYTE_ORDER_MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
CORNERS = ("xmin", "ymin", "xmax", "ymax")
ROTATION = "rotation"
"""Name of the attribute in which CVAT's exports keep by how many degrees a box is turned."""


@dataclass(frozen=True, slots=True)
class VocObject:
    """One ``<object>``: its name, corners as written (``xmin, ymin, xmax, ymax``) and flags.

    ``index`` is its place among all objects of the file, counted from 1: its number in a SegmentationObject
    mask. ``rotation`` is by how many degrees the box is turned about its centre (CVAT); the corners are those before.
    """

    name: str
    corners: tuple[float, float, float, float]
    difficult: bool = False
    truncated: bool = False
    occluded: bool = False
    pose: str = "Unspecified"
    index: int = 0
    rotation: float = 0.0


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

    Entities and external references are refused, boxes of ``<part>`` are not objects and are ignored,
    comments too.

    Args:
        content: the file's bytes, in any encoding that Python knows, with or without a byte-order mark.
        file: the name that defects are reported under.

    Returns:
        The record, or None if the file cannot be read, and its defects. Corners are as written, not yet
        clipped.
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
        return None, [Defect(file, "file", UNREADABLE_XML, LEFT_OUT, "its text is in no encoding that is known here")]
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
    return None, [*defects, Defect(file, "file", UNREADABLE_XML, LEFT_OUT, detail)]


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
        value = text_number(written)
        if value is None:
            detail = f"{key} is {written[:40]!r}" if written else f"no <{key}>"
            defects.append(Defect(file, f"{where}.bndbox", MISSING_BOX, LEFT_OUT, detail))
            return None
        corners.append(round(value, DECIMALS) if math.isfinite(value) else value)
    rotation = _rotation(element)
    if rotation is None:
        defects.append(Defect(file, f"{where}.attributes", MISSING_BOX, LEFT_OUT, "its rotation is no number"))
        return None
    return VocObject(
        name=name,
        corners=(corners[0], corners[1], corners[2], corners[3]),
        difficult=_flag(element, "difficult"),
        truncated=_flag(element, "truncated"),
        occluded=_flag(element, "occluded"),
        pose=_text(element, "pose") or "Unspecified",
        index=index,
        rotation=rotation,
    )


def _rotation(element: Element) -> float | None:
    """Return by how many degrees CVAT says that the box is turned, or None if that is no number."""
    for attribute in element.iterfind("attributes/attribute"):
        if _text(attribute, "name") == ROTATION:
            value = text_number(_text(attribute, "value"))
            return None if value is None or not math.isfinite(value) else value
    return 0.0


def _text(element: Element, path: str) -> str:
    return " ".join((element.findtext(path) or "").split())


def _whole(element: Element, path: str) -> int:
    value = text_number(_text(element, path))
    return int(value) if value is not None and math.isfinite(value) and 0 < value < 1 << 31 else 0


def _flag(element: Element, path: str) -> bool:
    return _text(element, path).lower() in ("1", "true", "yes")


def write_voc_xml(record: VocImage) -> bytes:
    """Return a record as a VOC annotation file: the inverse of `read_voc_xml`."""
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
        if item.rotation:
            attribute = SubElement(SubElement(element, "attributes"), "attribute")
            _add(attribute, "name", ROTATION)
            _add(attribute, "value", repr(item.rotation))
    indent(root)
    return tostring(root, encoding="utf-8", xml_declaration=True) + b"\n"


def _add(parent: Element, key: str, value: Any) -> None:
    SubElement(parent, key).text = str(value)
