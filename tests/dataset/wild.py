"""Annotation files as they come from the wild: nearly sound, and wrong in every way that has been met.

Each file is built from bytes that choose what it says. So one builder serves hypothesis, which draws the bytes and
makes a failing string of them simpler (zero chooses what is usual), and the fuzzer, which grows them by coverage.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, TypeVar

T = TypeVar("T")

ODD_NUMBERS = (
    "", " ", "0", "-0", "-1", "0.0", "1.5", "12.999999999", "1e2", "1E+02", "1e999", "-1e999", "1e-400", "nan", "-NaN",
    "inf", "Infinity", "1,5", "0x10", "1_0", "١٢", "99999999999999999999", "ten", "None", "+7", "7.", ".5", "--1", "1 2",
)  # fmt: skip
ODD_NAMES = (
    "", " ", "\n", "Cat", " cat ", "ca\tt", "a&amp;b", "&lt;", "<b/>", "日本", "é", "\u202eevil", "\x85", "../x", "x" * 300,
)  # fmt: skip
ODD_PATHS = ("../../x.jpg", "/etc/passwd", "C:\\a.jpg", "", "b.jpg", "JPEGImages/a.jpg")
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1", "cp1252", "gbk", "shift_jis", "utf-32", "ascii")
DECLARED = (
    "utf-8",
    "UTF-16",
    "iso-8859-1",
    "gbk",
    "us-ascii",
    "utf-7",
    "rot13",
    "punycode",
    "idna",
    "x",
    "unicode_escape",
)
DOCTYPES = ("", '<!DOCTYPE a [<!ENTITY x "lol">]>', '<!DOCTYPE a SYSTEM "file:///etc/passwd">', "<!DOCTYPE a>")
EXTRAS = (
    "<pose>Left</pose>",
    "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>",
    "<!-- <object/> -->",
    "<object><name>cat</name></object>",
    "<name>second</name>",
    "<bndbox/>",
    "<polygon><x1>1</x1></polygon>",
    "<attributes><attribute><name>rotation</name><value>30.0</value></attribute></attributes>",
    "<attributes><attribute><name>rotation</name><value>steep</value></attribute></attributes>",
    "<attributes><attribute><name>colour</name></attribute></attributes>",
)
ODD_PLACES = (
    "../images/a", "/home/me/images/b", "images", "list.txt", "[images/a, images/b]", "[images, images/a]", "{a: b}", "",
    ".", "..", "C:\\images\\a", "images/a/0.jpg", "null", "http://host/x.zip", "'a\\0'", "x" * 300, "labels",
)  # fmt: skip
ODD_CLASSES = (
    "{0: cat, 1: dog}", "{1: cat}", "[]", "{}", "cat", "[cat, cat]", "['', dog]", "{cat: 0}", "[no, 1, null, 1.5]",
    "[[cat], dog]", "{-1: cat}", "{0: {a: b}}", "['\\ud800', dog]", "{" + "9" * 5000 + ": cat}", "&a [*a]",
)  # fmt: skip
PIECES = (b"", b"\0", b"\xff", b"<", b">", b"&", b"]]>", b"<!--", b"\xef\xbb\xbf", b'"', b"{", b"[", b",", b"9" * 30)
ODD_VALUES = (
    None, True, "", "7", "a", [], {}, -1, 0, 1.0, 1.5, 1 << 53, 1 << 70, -(1 << 70), 1e300, math.nan, math.inf, -math.inf,
    "\ud800", "\0", "a\nb", [None], {"a": 1}, "9" * 400,
)  # fmt: skip
PICTURES = (
    "a.jpg",
    "b.jpg",
    "x/c.jpg",
    "é.jpg",
    "../d.jpg",
    "/e.jpg",
    "C:\\f.jpg",
    "..",
    "g" * 300,
    "a\nb.jpg",
    "h\0.jpg",
    "images\\a.jpg",
    "/data/local-files/?d=x%2Fc.jpg",
    "http://host/data/upload/1/%C3%A9.jpg?a=1",
    "http://[/a.jpg",
    "0a1b2c3d-a.jpg",
    "s3://store/x/c.jpg",
)
SHARES = (0, 0.25, 0.5, 0.75, 1)


class Choices:
    """Bytes read as choices; where they end, everything is as usual."""

    def __init__(self, data: bytes) -> None:
        self._data = iter(data)

    def number(self, below: int) -> int:
        """Return a number from 0 to ``below`` - 1; 0 where the bytes have ended."""
        value = next(self._data, 0)
        return (value << 8 | next(self._data, 0)) % below if below > 256 else value % below

    def of(self, options: Sequence[T]) -> T:
        """Return one of the options; the first is the usual one."""
        return options[self.number(len(options))]

    def rarely(self, one_in: int = 6) -> bool:
        """Return whether something unusual is to happen."""
        return self.number(one_in) == one_in - 1

    def damage(self, content: bytes) -> bytes:
        """Return the content as it is (mostly), cut short, or with a piece replaced or repeated."""
        if not self.rarely(3):
            return content
        first, last = sorted(self.number(len(content) + 1) for _ in range(2))
        match self.number(3):
            case 0:
                return content[:last]
            case 1:
                return content[:first] + self.of(PIECES) + content[min(last, first + 4) :]
            case _:
                return content[:first] + content[first:last] * 2 + content[last:]


def voc_file(data: bytes) -> bytes:
    """Return the VOC annotation file that some bytes choose."""
    choose = Choices(data)
    objects = "".join(_voc_object(choose) for _ in range(choose.number(5)))
    sides = "".join(f"<{key}>{_written_number(choose)}</{key}>" for key in ("width", "height", "depth"))
    size = choose.of((f"<size>{sides}</size>", "<size/>", "")) if choose.rarely() else f"<size>{sides}</size>"
    filename = f"<filename>{choose.of(ODD_PATHS) if choose.rarely() else 'a.jpg'}</filename>"
    root = "Annotation" if choose.rarely(50) else "annotation"
    text = f"<{root}>{filename}{size}{objects}</{root}>"
    if choose.rarely(20):
        text = choose.of(DOCTYPES) + text
    if choose.rarely(3):
        text = f'<?xml version="1.0" encoding="{choose.of(DECLARED)}"?>{text}'
    encoding = choose.of(ENCODINGS) if choose.rarely(3) else "utf-8"
    return choose.damage(text.encode(encoding, "replace"))


def _voc_object(choose: Choices) -> str:
    name = choose.of(ODD_NAMES) if choose.rarely() else choose.of(("cat", "dog", "ox"))
    corners = [f"<{key}>{_written_number(choose)}</{key}>" for key in ("xmin", "ymin", "xmax", "ymax")]
    if choose.rarely(12):
        corners.pop(choose.number(4))
    if choose.rarely(12):
        corners.reverse()
    parts = [f"<name>{name}</name>", f"<bndbox>{''.join(corners)}</bndbox>"]
    if choose.rarely(3):
        parts.insert(choose.number(3), choose.of(EXTRAS))
    if choose.rarely(3):
        parts.append(
            f"<{(flag := choose.of(('difficult', 'truncated', 'occluded')))}>{_written_number(choose)}</{flag}>"
        )
    if choose.rarely(15):
        parts.pop(choose.number(len(parts)))
    return f"<object>{''.join(parts)}</object>"


def _written_number(choose: Choices) -> str:
    return choose.of(ODD_NUMBERS) if choose.rarely(10) else str(choose.number(64) - 3)


def yolo_file(data: bytes) -> bytes:
    """Return the YOLO label file that some bytes choose."""
    choose = Choices(data)
    lines = [_yolo_line(choose) for _ in range(choose.number(7))]
    text = choose.of(("\n", "\r\n", "\r", "\n\n", "\u2028")).join(lines)
    encoding = choose.of(ENCODINGS) if choose.rarely(8) else "utf-8"
    return choose.damage(text.encode(encoding, "replace"))


def _yolo_line(choose: Choices) -> str:
    count = choose.of((4, 6, 8, 10, 5, 3)) if choose.rarely(3) else 4
    shares = [
        f"{(choose.number(140) - 10) / 128:g}" if choose.rarely(3) else f"{choose.number(65) / 64:g}"
        for _ in range(count)
    ]
    words = [choose.of(ODD_NUMBERS) if choose.rarely(30) else share for share in shares]
    first = choose.of(("3", "-1", "0.5", "cat", "1.0", "")) if choose.rarely(8) else str(choose.number(3))
    return choose.of((" ", "\t", "  ", ",")).join((first, *words)) if choose.rarely() else " ".join((first, *words))


def yaml_file(data: bytes) -> bytes:
    """Return the data.yaml that some bytes choose."""
    choose = Choices(data)
    lines = []
    for split in ("train", "val", "test"):
        place = choose.of(ODD_PLACES) if choose.rarely(3) else f"images/{choose.of(('a', 'b'))}"
        lines += [f"{split}: {place}"] * (not choose.rarely())
    names = choose.of(ODD_CLASSES) if choose.rarely(3) else "[cat, dog, ox]"
    lines.insert(choose.number(4), f"names: {names}")
    if choose.rarely(3):
        lines.append(f"path: {choose.of(ODD_PLACES)}")
    if choose.rarely(4):
        shapes = ("[17, 3]", "[2]", "x", "[a, b]", "[]", "[-1, 2]", f"[{'9' * 5000}]")
        lines.append(f"kpt_shape: {choose.of(shapes)}")
    encoding = choose.of(ENCODINGS) if choose.rarely(10) else "utf-8"
    return choose.damage("\n".join(lines).encode(encoding, "replace"))


def list_file(data: bytes) -> bytes:
    """Return the list of pictures that some bytes choose."""
    choose = Choices(data)
    lines = [
        choose.of(PICTURES) if choose.rarely(3) else f"./images/{choose.of(('a', 'b'))}/{choose.number(3)}.jpg"
        for _ in range(choose.number(8))
    ]
    return choose.damage(choose.of(("\n", "\r\n", "\n\n")).join(lines).encode("utf-8", "replace"))


def coco_file(data: bytes) -> bytes:
    """Return the COCO annotation file that some bytes choose."""
    choose = Choices(data)
    # One sound category, so that most documents get past it to what is worth reading.
    document: dict[str, Any] = {
        "categories": [{"id": 1, "name": "bird"}, *(_category(choose, 2 + i) for i in range(choose.number(3)))],
        "images": [_odd(choose, _image(choose, i), 30) for i in range(choose.number(5))],
        "annotations": [_odd(choose, _annotation(choose, i), 30) for i in range(choose.number(6))],
    }
    if choose.rarely(60):
        document[choose.of(("images", "annotations", "categories"))] = choose.of(ODD_VALUES)
    text = json.dumps(document, ensure_ascii=choose.rarely(2))
    encoding = choose.of(("utf-8", "utf-8-sig", "utf-16", "latin-1")) if choose.rarely(10) else "utf-8"
    return choose.damage(text.encode(encoding, "replace"))


def _odd(choose: Choices, usual: Any, one_in: int = 12) -> Any:
    return choose.of(ODD_VALUES) if choose.rarely(one_in) else usual


def _some(choose: Choices, fields: dict[str, Any], one_in: int = 25) -> dict[str, Any]:
    """Return the fields, few of them odd, few missing."""
    return {key: _odd(choose, value, one_in) for key, value in fields.items() if not choose.rarely(one_in)}


def _category(choose: Choices, number: int) -> dict[str, Any]:
    return _some(choose, {"id": number, "name": choose.of(("cat", "dog", "bird"))}, 40)


def _image(choose: Choices, number: int) -> dict[str, Any]:
    number = choose.number(5) if choose.rarely() else number
    name = choose.of(PICTURES) if choose.rarely(4) else f"{number}.jpg"
    width, height = 40 - choose.number(40), 30 - choose.number(30)
    return _as_text(choose, _some(choose, {"id": number, "file_name": name, "width": width, "height": height}))


def _annotation(choose: Choices, number: int) -> dict[str, Any]:
    number = choose.number(6) if choose.rarely() else number
    bbox: list[Any] = [choose.number(48) - 4 + choose.of(SHARES) for _ in range(4)]
    if choose.rarely(15):
        bbox[choose.number(4)] = choose.of(ODD_VALUES)
    fields = {
        "id": number,
        "image_id": choose.number(3),
        "category_id": 1 + choose.number(2),
        "bbox": bbox[: choose.number(5)] if choose.rarely(20) else bbox,
        "area": choose.number(900) / 4,
        "iscrowd": choose.number(2),
    }
    if choose.rarely(3):
        fields["segmentation"] = _run_lengths(choose) if choose.rarely(2) else _polygons(choose)
    if choose.rarely(8):
        fields["attributes"] = {"rotation": _odd(choose, choose.number(720) / 2, 4)}
    if choose.rarely(12):
        fields["ignore"] = choose.of((1, 0, "1", None, [1]))
    if choose.rarely(12):
        fields["bbox"] = choose.of(([], None, [str(value) for value in bbox]))
    return _as_text(choose, _some(choose, fields))


def _as_text(choose: Choices, fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields, one of them rarely as text."""
    key = choose.of(("id", "image_id", "category_id", "area", "iscrowd"))
    return fields | {key: str(fields[key])} if choose.rarely(12) and key in fields else fields


def _polygons(choose: Choices) -> list[Any]:
    return [
        [_odd(choose, choose.number(64) - 3, 60) for _ in range(choose.number(10))] for _ in range(choose.number(4))
    ]


def _run_lengths(choose: Choices) -> dict[str, Any]:
    height, width = 30 - choose.number(30), 40 - choose.number(40)
    first = choose.number(height * width + 1)
    counts: Any = [first, height * width - first]
    if choose.rarely(3):
        counts = choose.of((*([*counts, extra] for extra in (1, -1, 0)), "PPYo1", "0" * 9, "o" * 9, "\x7f", ""))
    return _some(choose, {"size": [height, width], "counts": counts}, 15)
