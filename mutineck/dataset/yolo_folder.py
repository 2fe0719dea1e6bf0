"""Folders with YOLO's label files: data.yaml, images/ beside labels/, lists of paths, and what is wrong with them."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mutineck.dataset.images import MISSING, TURNED, UNREADABLE, inspect_picture
from mutineck.dataset.layouts import Layout, Part
from mutineck.dataset.picture_files import PictureFiles, alike, data_files
from mutineck.dataset.records import (
    KEPT,
    LEFT_OUT,
    CategoryNames,
    DatasetError,
    Defect,
    Picture,
    Reading,
    category_name,
)
from mutineck.dataset.voc import documents_of
from mutineck.dataset.yolo_layout import is_label, label_folder, read_yaml
from mutineck.dataset.yolo_txt import read_yolo

MOST_DIGITS = 10
"""Of the number of a class."""
NO_PICTURE = "label file without a picture"
UNREADABLE_LABELS = "unreadable label file"
NO_LABELS = "picture without a label file"
DUPLICATE = "duplicate name"
NAMED_TWICE = "picture named twice"


def read_yolo_layout(root: Path, layout: Layout, names: CategoryNames) -> Reading:
    """Read every picture of a layout and its labels into one document, or one for each of its splits.

    A picture without a label file holds no object, as YOLO's trainings take it.

    Args:
        root: the data set's root, which names are given relative to.
        layout: what `find_yolo` has found.
        names: which classes are categories.

    Raises:
        DatasetError: the classes have no names, or no picture can be used.
    """
    classes, keypoints = read_classes(layout)
    categories = _categories(classes, names, layout)
    deep = layout.parts[0].deep
    files = PictureFiles(layout.base, below=deep)
    labels = {alike(name): layout.base / name for name in data_files(layout.base, (".txt",), below=deep)}
    reader = _LabelReader(root, names, classes, keypoints)
    reading = reader.reading
    pictures: list[Picture] = []
    for part in layout.parts:
        listed = [*_pictures_of(part, layout, files, reading, root)]
        label_of = {path: _label_of(path, labels, layout.base) for path in listed}
        shared = {label for label, count in Counter(label_of.values()).items() if label is not None and count > 1}
        for path, label in tqdm(label_of.items(), desc=f"reading {part.name}", unit="file", disable=None):
            picture = reader.read(path, label, label in shared)
            if picture is not None:
                picture.split = part.split
                pictures.append(picture)
        used = {label for label in label_of.values() if label is not None}
        reading.defects += _without_pictures(part, used, layout.base, root)
    if not pictures or reader.unlabelled == len(pictures):
        what = "no usable image" if not pictures else "no label file of a picture"
        raise DatasetError(f"{root}: {what} in it", reading.defects)
    if keypoints:
        reading.hints.append(f"{layout.classes}: kpt_shape: the objects' keypoints are not read, their boxes are")
    pictures.sort(key=lambda picture: picture.file_name)
    reading.notes = {"sha256": reader.digest.hexdigest()}
    reading.documents = documents_of(pictures, categories)
    return reading


@dataclass
class _LabelReader:
    """Reads pictures with their label files; what is met on the way is in `reading`.

    Attributes:
        root: folder that names are given relative to.
        names: which classes are categories.
        classes: number of a class -> its name.
        keypoints: numbers of keypoints behind each box.
        reading: defects and counts so far.
        digest: of all label files.
        unlabelled: pictures without a label file.
    """

    root: Path
    names: CategoryNames
    classes: dict[int, str]
    keypoints: int
    reading: Reading = field(default_factory=lambda: Reading({}))
    digest: Any = field(default_factory=hashlib.sha256)
    unlabelled: int = 0

    def read(self, path: Path, label: Path | None, shared: bool) -> Picture | None:
        """Return a picture with its objects; None, with a defect, if either is unusable, or others have its label."""
        self.reading.found["images"] += 1
        health = inspect_picture(path)
        content = self._content(label) if label is not None else b""
        if content is None or health.problem or shared:
            # Of which classes they are does not matter any more
            self.reading.found["objects"] += sum(bool(line.strip()) for line in (content or b"").splitlines())
        if content is None:
            return None
        if health.problem:
            self._add(path, UNREADABLE, LEFT_OUT, health.problem)
            return None
        if shared and label is not None:
            self._add(path, DUPLICATE, LEFT_OUT, f"{label.name} is the label file of other pictures, too")
            return None
        if health.orientation != 1:
            detail = f"EXIF orientation {health.orientation}: boxes taken as drawn on the turned picture"
            self._add(path, TURNED, KEPT, detail)
        picture = Picture(self._name(path), health.width, health.height)
        if label is None:
            self.unlabelled += 1
            self._add(path, NO_LABELS, KEPT, "read as without objects")
            return picture
        file = self._name(label)
        self.digest.update(f"{file}\0{len(content)}\0".encode("utf-8", "surrogatepass") + content)
        picture.objects, found = read_yolo(
            content, self.classes, health.width, health.height, self.names, file, self.keypoints
        )
        self.reading.defects += found
        self.reading.found["objects"] += len(picture.objects) + sum(each.action == LEFT_OUT for each in found)
        return picture

    def _content(self, label: Path) -> bytes | None:
        try:
            return label.read_bytes()
        except OSError as error:
            self._add(label, UNREADABLE_LABELS, LEFT_OUT, type(error).__name__)
            return None

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def _add(self, path: Path, reason: str, action: Any, detail: str) -> None:
        self.reading.defects.append(Defect(self._name(path), "file", reason, action, detail))


def read_classes(layout: Layout) -> tuple[dict[int, str], int]:
    """Return number -> name of the classes of a layout, and how many numbers of keypoints follow each box.

    Raises:
        DatasetError: there is no file with names, or it is not sound.
    """
    file = layout.classes
    if file is None:
        raise DatasetError(
            f"dataset.root: {layout.base} has YOLO's labels, but nothing that names their classes: write classes.txt "
            "with a name a line (class 0 first), or a data.yaml with `names: [...]`"
        )
    if file.suffix in (".yaml", ".yml"):
        content = read_yaml(file)
        names = content["names"]
        rows = enumerate(names) if isinstance(names, list) else names.items()
        shape = content.get("kpt_shape")
        keypoints = math.prod(map(int, shape)) if isinstance(shape, list) and all(map(_is_whole, shape)) else 0
    else:
        lines = file.read_text(encoding="utf-8-sig", errors="replace").strip("\r\n").splitlines()
        rows, keypoints = enumerate(lines), 0
    classes: dict[int, str] = {}
    for number, name in rows:
        written = category_name(str(name))
        if not _is_whole(str(number)) or not written:
            raise DatasetError(f"{file}: names: expected numbers from 0 on and names, got {str((number, name))[:80]}")
        classes[int(number)] = written
    return classes, keypoints


def _is_whole(written: Any) -> bool:
    return isinstance(written, str) and written.isdecimal() and len(written) < MOST_DIGITS


def _categories(classes: dict[int, str], names: CategoryNames, layout: Layout) -> tuple[str, ...]:
    """Return the categories that the classes are, in the order of their numbers, or as wanted."""
    found = [category for _, name in sorted(classes.items()) if (category := names.resolve(name)[0]) is not None]
    absent = [name for name in names.wanted or () if name not in found]
    if absent or not found:
        raise DatasetError(
            f"{layout.classes}: dataset.categories: {', '.join(absent) or 'no class'} is not among its classes: "
            f"{', '.join(classes.values())[:300] or 'none'}"
        )
    return names.wanted or tuple(dict.fromkeys(found))


def _pictures_of(part: Part, layout: Layout, files: PictureFiles, reading: Reading, root: Path) -> Iterator[Path]:
    """Yield the pictures of a part, each once: those in its folders, and those that its lists name."""
    given: set[str] = set()
    for place in part.pictures:
        if place.is_dir():
            within = place.relative_to(layout.base).as_posix()
            inside = [file for file in files.files if within == "." or file.startswith(f"{within}/")]
            yield from (layout.base / file for file in inside if file not in given)
            given |= {*inside}
            continue
        name = place.relative_to(root).as_posix()
        base = place.parent.relative_to(layout.base).as_posix()
        lines = place.read_text(encoding="utf-8-sig", errors="replace").splitlines()
        for index, line in enumerate(lines, start=1):
            if line.strip():
                found = files.find(line.strip(), ("" if base == "." else base, ""))
                if found.file and found.file not in given:
                    given.add(found.file)
                    yield layout.base / found.file
                    continue
                reason, detail = (
                    (NAMED_TWICE, found.file) if found.file else (MISSING, f"{line.strip()}: {found.problem}")
                )
                reading.found["images"] += not found.file
                reading.defects.append(Defect(name, f"line[{index}]", reason, LEFT_OUT, detail))


def _label_of(picture: Path, labels: dict[str, Path], base: Path) -> Path | None:
    """Return the label file of a picture, in whatever spelling of its name, or None."""
    label = label_folder(picture.parent, base) / f"{picture.stem}.txt"
    return label if label.is_file() else labels.get(alike(label.relative_to(base).as_posix()))


def _without_pictures(part: Part, used: set[Path], base: Path, root: Path) -> Iterator[Defect]:
    """Yield a defect for each label file whose picture is not there."""
    for folder in dict.fromkeys(label_folder(place, base) for place in part.pictures if place.is_dir()):
        for name in data_files(folder, (".txt",), below=part.deep):
            if folder / name not in used and is_label(name):
                yield Defect((folder / name).relative_to(root).as_posix(), "file", NO_PICTURE, LEFT_OUT)
