"""Folders with YOLO's label files: data.yaml, images/ beside labels/, lists of paths, and what is wrong with them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
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

NO_PICTURE = "label file without a picture"
UNREADABLE_LABELS = "unreadable label file"


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
    reading = Reading({})
    digest = hashlib.sha256()
    pictures: list[Picture] = []
    unlabelled = 0
    deep = layout.parts[0].deep
    files = PictureFiles(layout.base, below=deep)
    labels = {alike(name): layout.base / name for name in data_files(layout.base, (".txt",), below=deep)}
    for part in layout.parts:
        used: set[Path] = set()
        listed = [*_pictures_of(part, layout, files, reading.defects, root)]
        for path in tqdm(listed, desc=f"reading {part.name}", unit="file", disable=None):
            name = path.relative_to(root).as_posix()
            label = _label_of(path, labels, layout.base)
            used |= {label} if label is not None else set()
            health = inspect_picture(path)
            if health.problem:
                reading.defects.append(Defect(name, "file", UNREADABLE, LEFT_OUT, health.problem))
                continue
            if health.orientation != 1:
                detail = f"EXIF orientation {health.orientation}: boxes taken as drawn on the turned picture"
                reading.defects.append(Defect(name, "file", TURNED, KEPT, detail))
            picture = Picture(name, health.width, health.height, split=part.split)
            if label is None:
                unlabelled += 1
            else:
                file = label.relative_to(root).as_posix()
                try:
                    content = label.read_bytes()
                except OSError as error:
                    reading.defects.append(Defect(file, "file", UNREADABLE_LABELS, LEFT_OUT, type(error).__name__))
                    continue
                digest.update(f"{file}\0{len(content)}\0".encode("utf-8", "surrogatepass") + content)
                size = health.width, health.height
                picture.objects, found = read_yolo(content, classes, *size, names, file, keypoints)
                reading.defects += found
            pictures.append(picture)
        reading.defects += _without_pictures(part, used, root)
    if not pictures or unlabelled == len(pictures):
        what = "no usable image" if not pictures else "no label file of a picture"
        raise DatasetError(f"{root}: {what} in it", reading.defects)
    if unlabelled:
        reading.hints.append(f"{unlabelled} of {len(pictures)} pictures have no label file: read as without objects")
    reading.notes = {"sha256": digest.hexdigest()}
    reading.documents = documents_of(sorted(pictures, key=lambda picture: picture.file_name), categories)
    return reading


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
    return isinstance(written, str) and written.isdecimal()


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


def _pictures_of(part: Part, layout: Layout, files: PictureFiles, defects: list[Defect], root: Path) -> Iterator[Path]:
    """Yield the pictures of a part: those in its folders, and those that its lists name."""
    for place in part.pictures:
        if place.is_dir():
            within = place.relative_to(layout.base).as_posix()
            yield from (layout.base / file for file in files.files if within == "." or file.startswith(f"{within}/"))
            continue
        name = place.relative_to(root).as_posix()
        base = place.parent.relative_to(layout.base).as_posix()
        lines = place.read_text(encoding="utf-8-sig", errors="replace").splitlines()
        for index, line in enumerate(lines, start=1):
            if line.strip():
                found = files.find(line.strip(), ("" if base == "." else base, ""))
                if found.file:
                    yield layout.base / found.file
                else:
                    defects.append(
                        Defect(name, f"line[{index}]", MISSING, LEFT_OUT, f"{line.strip()}: {found.problem}")
                    )


def _label_of(picture: Path, labels: dict[str, Path], base: Path) -> Path | None:
    """Return the label file of a picture, in whatever spelling of its name, or None."""
    label = label_folder(picture.parent) / f"{picture.stem}.txt"
    return label if label.is_file() else labels.get(alike(label.relative_to(base).as_posix()))


def _without_pictures(part: Part, used: set[Path], root: Path) -> Iterator[Defect]:
    """Yield a defect for each label file whose picture is not there."""
    for folder in dict.fromkeys(label_folder(place) for place in part.pictures if place.is_dir()):
        for name in data_files(folder, (".txt",), below=part.deep):
            if folder / name not in used and is_label(name):
                yield Defect((folder / name).relative_to(root).as_posix(), "file", NO_PICTURE, LEFT_OUT)
