"""What the readers promise of any file at all; the property tests and the fuzzer hold them to it."""

from __future__ import annotations

import atexit
import copy
import functools
import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from pycocotools import mask as coco_mask

from mutineck.dataset.coco import DUPLICATE, LARGEST_ID, read_coco
from mutineck.dataset.coco_fit import OVERHANG, fit_to_images
from mutineck.dataset.detect import find_layout, read_layout
from mutineck.dataset.records import LEFT_OUT, CategoryNames, DatasetError, Defect, Picture, defect_rows
from mutineck.dataset.voc import coco_document, coco_to_voc, documents_of, picture_from_voc
from mutineck.dataset.voc_xml import read_voc_xml, write_voc_xml
from mutineck.dataset.yolo_txt import read_yolo

SIZE = (40, 30)
"""Width and height of a picture whose annotation does not say its size."""
LONGEST_LINE = 400
FILE = "annotations/x"


def check_voc(content: bytes) -> None:
    """Hold `read_voc_xml` and what follows it to their promises for one file.

    Nothing is raised; every object is read or named in a defect, once; usable boxes lie in the picture; the COCO
    document that comes out is sound to our own COCO reader and leads back to the same objects.
    """
    record, defects = read_voc_xml(content, FILE)
    _check_defects(defects)
    if record is None:
        assert any(defect.action == LEFT_OUT for defect in defects), "left out without a word"
        return
    read = [item.index for item in record.objects]
    named = [_number(defect.field) for defect in defects if defect.action == LEFT_OUT]
    assert sorted([*read, *named]) == list(range(1, 1 + len(read) + len(named))), "an object is lost or counted twice"
    assert read_voc_xml(write_voc_xml(record))[0] == _renumbered(record), "written and read again, it is another"

    width, height = record.width or SIZE[0], record.height or SIZE[1]
    picture, found = picture_from_voc(record, "a.jpg", width, height, CategoryNames(), file=FILE)
    _check_defects(found)
    used = [item["index"] for item in picture.objects]
    assert sorted([*used, *{_number(d.field) for d in found if d.action == LEFT_OUT}]) == read
    for item in picture.objects:
        _check_box(item["bbox"], width, height, 0.0)
    categories = sorted(picture.categories())
    if categories:
        document = coco_document([picture], categories)
        _check_sound(document)
        (back,) = coco_to_voc(document)
        # Corners that count whole pixels have no word for less than two of them.
        if all(min(item["bbox"][2:]) > 1 for item in picture.objects):
            again, _ = picture_from_voc(back, "a.jpg", width, height, CategoryNames())
            assert coco_document([again], categories) == document, "VOC to COCO and back is another"


def check_coco(content: bytes | str) -> None:
    """Hold `read_coco` and `fit_to_images` to their promises for one file.

    A `DatasetError` that begins with the file's name, or a document: every image and annotation is kept or named in
    a defect; ids are unique, refer to what is there, and fit the evaluation's arithmetic; boxes lie in their image;
    masks can be decoded; read again, the document is sound and the same.
    """
    try:
        document, defects = read_coco(content, FILE)
    except DatasetError as error:
        assert str(error).startswith(f"{FILE}: "), f"the file is not named: {error}"
        assert len(str(error)) < 2 * LONGEST_LINE, "the message is longer than anyone reads"
        str(error).encode("utf-8")
        return
    _check_defects(defects)
    source = json.loads(content)
    for key in ("images", "annotations"):
        lost = {
            d.field.partition("]")[0]
            for d in defects
            if d.field.startswith(f"{key}[") and (d.action == LEFT_OUT or d.reason == DUPLICATE)
        }
        assert len(document[key]) + len(lost) == len(source[key]), f"{key}: a row is lost or counted twice"
    for image in document["images"]:
        # As the folder's reader does, where the picture has told its size.
        image["width"], image["height"] = image["width"] or SIZE[0], image["height"] or SIZE[1]
    before = len(document["annotations"])
    found = fit_to_images(document, FILE)
    _check_defects(found)
    gone = {defect.field for defect in found if defect.action == LEFT_OUT and defect.field.endswith(".bbox")}
    assert len(document["annotations"]) + len(gone) == before, "an annotation is lost or counted twice"
    _check_sound(document)


CLASSES = {0: "cat", 1: "dog", 2: "ox"}


def check_yolo(content: bytes) -> None:
    """Hold `read_yolo` to its promises for one file.

    Nothing is raised; every line with anything in it is an object or named in a defect, once; boxes lie in the picture
    and outlines can be decoded; the COCO document that comes out is sound to our own COCO reader.
    """
    objects, defects = read_yolo(content, CLASSES, *SIZE, CategoryNames(), FILE)
    _check_defects(defects)
    lines = content.decode("utf-8-sig", "replace").splitlines()
    filled = [index for index, line in enumerate(lines, start=1) if line.split()]
    left_out = [int(re.sub(r"\D", "", defect.field)) for defect in defects if defect.action == LEFT_OUT]
    assert sorted([*(item["index"] for item in objects), *left_out]) == filled, "a line is lost or counted twice"
    for item in objects:
        _check_box(item["bbox"], *SIZE, 0.0)
    picture = Picture("a.jpg", *SIZE, objects=objects)
    if objects:
        document = documents_of([picture], sorted(picture.categories()))[""]
        _check_sound(document)


def check_described(content: bytes, listed: bytes = b"") -> None:
    """Hold the reading of a YOLO folder to its promises for any data.yaml, and any list of pictures that it may name.

    What is raised is a refusal that names the folder or a file in it. What is read lies in the folder, each picture once
    in a split; every picture of the folder is read or is of no split, and whatever a list names is read or told.
    """
    root = _yolo_folder()
    (root / "data.yaml").write_bytes(content)
    (root / "list.txt").write_bytes(listed)
    try:
        layout = find_layout(root, "yolo")
        reading = read_layout(root, layout, CategoryNames())
    except DatasetError as error:
        assert str(root) in str(error) and len(str(error)) < 20 * LONGEST_LINE
        str(error).encode("utf-8")
        return
    for document in reading.documents.values():
        names = [image["file_name"] for image in document["images"]]
        assert len(set(names)) == len(names) and all((root / name).is_file() for name in names)
        assert {*names} <= {f"images/{split}/{number}.jpg" for split in "ab" for number in range(3)}
    for defect in reading.defects:
        str(defect).encode("utf-8")
        assert (root / defect.file).exists()
    lines = [index for index, line in enumerate(listed.decode("utf-8-sig", "replace").splitlines(), 1) if line.strip()]
    for split in (part.split for part in layout.parts if part.pictures == (root / "list.txt",)):
        told = {d.field for d in reading.defects if d.file == "list.txt" and d.field.startswith("line[")}
        read = len(reading.documents[split]["images"]) if split in reading.documents else 0
        assert read + len(told) == len(lines), "a line of a list is lost or counted twice"


@functools.cache
def _yolo_folder() -> Path:
    """Return a folder with six pictures and their labels, for as long as the process lives."""
    root = Path(tempfile.mkdtemp(prefix="mutineck-yolo-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    for split in "ab":
        for number in range(3):
            picture, label = root / "images" / split / f"{number}.jpg", root / "labels" / split / f"{number}.txt"
            for path in (picture, label):
                path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", SIZE, (number * 60, 0, ord(split))).save(picture)
            label.write_text(f"{number} 0.5 0.5 0.2 0.2\n")
    return root


def _check_sound(document: dict[str, Any]) -> None:
    """Check a COCO document that one of our readers has made, and that our reader finds nothing in it."""
    text = json.dumps(document, allow_nan=False, ensure_ascii=False)
    sizes = {image["id"]: (image["width"], image["height"]) for image in document["images"]}
    categories = {category["id"] for category in document["categories"]}
    assert len(sizes) == len(document["images"]) == len({image["file_name"] for image in document["images"]})
    assert (
        len({category["name"] for category in document["categories"]}) == len(document["categories"]) == len(categories)
    )
    ids = [item["id"] for item in document["annotations"]]
    # Zero is what COCO's evaluation writes for "not matched", and its arrays are of doubles.
    assert len(set(ids)) == len(ids) and all(0 < number <= LARGEST_ID for number in ids)
    assert all(abs(number) <= LARGEST_ID for number in (*sizes, *categories))
    for item in document["annotations"]:
        assert item["category_id"] in categories
        width, height = sizes[item["image_id"]]
        _check_box(item["bbox"], width, height, OVERHANG)
        assert item["area"] >= 0 and item["iscrowd"] in (0, 1)
        if "segmentation" in item and width * height < 1 << 20:
            _check_mask(item["segmentation"], width, height)
    again, defects = read_coco(text.encode("utf-8"), FILE)
    assert not defects, f"our own document is found wanting: {defects[0]}"
    kept = {"id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation"}
    plain = copy.deepcopy(document)
    plain["images"] = [{key: image[key] for key in ("id", "file_name", "width", "height")} for image in plain["images"]]
    plain["annotations"] = [{k: v for k, v in item.items() if k in kept} for item in plain["annotations"]]
    assert again == plain


def _check_box(bbox: list[float], width: int, height: int, overhang: float) -> None:
    x, y, w, h = bbox
    slack = overhang + 1e-5
    assert w > 0 and h > 0, bbox
    assert x >= -slack and y >= -slack and x + w <= width + slack and y + h <= height + slack, (bbox, width, height)


def _check_mask(segmentation: Any, width: int, height: int) -> None:
    if isinstance(segmentation, dict) and isinstance(segmentation["counts"], str):
        code = segmentation
    else:
        code = coco_mask.frPyObjects(segmentation, height, width)
        code = coco_mask.merge(code) if isinstance(code, list) else code
    assert coco_mask.decode(code).shape == (height, width)


def _check_defects(defects: list[Defect]) -> None:
    for row, defect in zip(defect_rows(defects), defects, strict=True):
        assert (
            row["file"] == FILE and row["field"] and row["reason"] and row["action"] in ("repaired", "left out", "kept")
        )
        line = str(defect)
        line.encode("utf-8")
        assert len(line) < LONGEST_LINE and not re.search(r"[\r\n]", line), f"no line of text: {line!r}"


def _number(field: str) -> int:
    found = re.match(r"object\[(\d+)\]", field)
    assert found, f"{field} names no object"
    return int(found.group(1))


def _renumbered(record: Any) -> Any:
    """Return the record as it is numbered where the objects that were left out are not written."""
    from dataclasses import replace

    return replace(record, objects=tuple(replace(item, index=i) for i, item in enumerate(record.objects, start=1)))
