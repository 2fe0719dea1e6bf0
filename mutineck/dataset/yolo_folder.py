"""Folders with YOLO's label files: data.yaml, images/ beside labels/, lists of paths, and what is wrong with them."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from mutineck.dataset.images import MISSING, PICTURE_SUFFIXES, TURNED, UNREADABLE, inspect_picture
from mutineck.dataset.picture_files import PictureFiles, alike, data_files, written_parts
from mutineck.dataset.records import (
    KEPT,
    LEFT_OUT,
    SPLIT_WORDS,
    SPLITS,
    CategoryNames,
    DatasetError,
    Defect,
    Layout,
    Part,
    Picture,
    Reading,
    category_name,
    first_defects,
    split_folders,
    split_of,
    split_words,
)
from mutineck.dataset.voc import documents_of
from mutineck.dataset.yolo_txt import read_yolo
from mutineck.study.inputs import Outside

NO_PICTURE = "label file without a picture"
UNREADABLE_LABELS = "unreadable label file"
CLASS_FILES = ("classes.txt", "obj.names", "_darknet.labels")
"""Files with a class a line: of LabelImg and Label Studio, CVAT, Roboflow."""
LIST_FILES = (*CLASS_FILES, "train.txt", "valid.txt", "val.txt", "test.txt", "notes.txt")
"""Text files that are no labels, in small letters."""
CVAT_FOLDERS = {
    "obj_train_data": "train",
    "obj_valid_data": "val",
    "obj_validation_data": "val",
    "obj_test_data": "test",
}


def find_yolo(root: Path) -> list[Layout]:
    """Return what can be read as YOLO's labels below a root; several where one has to be chosen.

    A data.yaml that names the pictures; else images/ beside labels/, with splits in them, above them or none; else
    label files beside the pictures, with a file of the classes.
    """
    described = [
        file for file in _yaml_files(root) if any(_yaml(file).get(split) for split in ("train", "val", "test"))
    ]
    if described:
        return [layout for file in described if (layout := _described(root, file)) is not None]
    classes = next((file for name in CLASS_FILES for file in _classes_files(root, name)), None)
    classes = classes or next(iter(_yaml_files(root)), None)
    parts = [*_folders(root)]
    if not parts and classes is not None:
        parts = [*_beside(root)]
    return [Layout("yolo", "YOLO's layout", tuple(parts), root, classes)] if parts else []


def _yaml_files(root: Path) -> list[Path]:
    """Return the YAML files of the root that name classes."""
    files = [root / name for name in data_files(root, (".yaml", ".yml"), below=False)]
    return [file for file in files if isinstance(_yaml(file).get("names"), (list, dict))]


def _yaml(file: Path) -> dict[str, Any]:
    try:
        # Names are text: `no` is not False, nor 007 seven
        content = yaml.load(file.read_text(encoding="utf-8-sig", errors="replace"), yaml.BaseLoader)
    except (OSError, yaml.YAMLError, RecursionError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _classes_files(root: Path, name: str) -> list[Path]:
    folders = (root, root / "labels", *(folder for folder, _ in split_folders(root)))
    return [folder / name for folder in folders if (folder / name).is_file()]


def _described(root: Path, file: Path) -> Layout:
    """Return the layout that a data.yaml describes.

    Paths count from its `path`, from the file itself, or, where both lead nowhere, as many of their last parts as are
    found below the root: Roboflow writes `../train/images` of what lies beside the file, others a path of the machine
    that trained.

    Raises:
        DatasetError: pictures of its training, or of all it names, are not there.
    """
    content = _yaml(file)
    parts: list[Part] = []
    absent: list[str] = []
    for split in SPLITS:
        written: Any = next((content[word] for word in SPLIT_WORDS[split] if content.get(word)), [])
        each_of = written if isinstance(written, list) else [written]
        places = {str(each): _place(root, str(each), str(content.get("path") or "")) for each in each_of}
        missing = [each for each, place in places.items() if place is None]
        if missing and (split == "train" or not parts):
            raise DatasetError(
                f"{file}: {split}: {missing[0]!r} is not there, below {root}. Correct the path, or name the folder "
                "that holds it with --set dataset.root=PATH"
            )
        absent += [f"{file.name}: {split}: {each} is not there" for each in missing]
        found = tuple(place for place in places.values() if place is not None)
        if found:
            parts.append(Part(split, _called(root, found[0], split), file, found))
    title = "Roboflow's YOLO export" if "roboflow" in content else f"YOLO's layout by {file.name}"
    return Layout("yolo", title, tuple(parts), root, file, tuple(absent))


def _called(root: Path, place: Path, split: str) -> str:
    words = place.relative_to(root).parts
    return next((word for word in words if split_of(word) == split), split)


def _place(root: Path, written: str, path: str) -> Path | None:
    """Return the folder or list of paths below the root that a data.yaml means."""
    tail = written_parts(written)
    candidates = [(*written_parts(path)[start:], *tail) for start in range(len(written_parts(path)) + 1)]
    candidates += [tail[start:] for start in range(1, len(tail))]
    for parts in candidates:
        place = root.joinpath(*parts)
        # Unlike Path's, these are False also for a name that is longer than the system allows
        if os.path.isdir(place) or (os.path.isfile(place) and place.suffix == ".txt"):
            return place
    return None


def _folders(root: Path) -> Iterator[Part]:
    """Yield the parts of images/ beside labels/: split within them, above them, or not at all."""
    images, labels = root / "images", root / "labels"
    if _has_labels(labels) and images.is_dir():
        splits = [(folder, split) for folder, split in split_folders(images) if (labels / folder.name).is_dir()]
        if splits:
            yield from (Part(split, folder.name, labels / folder.name, (folder,)) for folder, split in splits)
        else:
            yield Part("", "images", labels, (images,))
    for folder, split in split_folders(root):
        if _has_labels(folder / "labels") and (folder / "images").is_dir():
            yield Part(split, folder.name, folder / "labels", (folder / "images",))


def _beside(root: Path) -> Iterator[Part]:
    """Yield the parts whose label files lie beside their pictures: in folders of splits, or in the root."""
    named = [(root / name, split) for name, split in CVAT_FOLDERS.items() if (root / name).is_dir()]
    splits = [(folder, split) for folder, split in (*named, *split_folders(root)) if _has_labels(folder)]
    yield from (Part(split, folder.name, folder, (folder,)) for folder, split in splits)
    if not splits and _has_labels(root, below=False):
        yield Part("", root.name, root, (root,), deep=False)


def _has_labels(folder: Path, *, below: bool = True) -> bool:
    return any(_is_label(name) for name in data_files(folder, (".txt",), below=below))


def _is_label(name: str) -> bool:
    own = name.rpartition("/")[2].lower()
    return own not in LIST_FILES and not own.startswith("readme")


def yolo_inputs(layout: Layout) -> Iterator[Outside]:
    """Yield what counts of YOLO's labels: these and the classes whole, of pictures the names."""
    if layout.classes is not None:
        yield Outside(str(layout.classes))
    places = [place for part in layout.parts for place in part.pictures]
    if not layout.parts[0].deep or any(place.is_file() for place in places):
        # Labels lie wherever a list of pictures leads
        yield Outside(str(layout.base), "content", (".txt",))
        return
    yield Outside(str(layout.base), "folders", ("images", "labels", *split_words()))
    for place in places:
        if (labels := _label_folder(place)) != place:
            yield Outside(str(labels), "content", (".txt",))
            yield Outside(str(place), "names", PICTURE_SUFFIXES)
        else:
            yield Outside(str(place), "content", (".txt", *PICTURE_SUFFIXES))


def _label_folder(pictures: Path) -> Path:
    """Return where the labels of a folder of pictures lie: the last images/ in its path is labels/ there."""
    parts = [*pictures.parts]
    for index in range(len(parts) - 1, -1, -1):
        if parts[index] == "images":
            labels = Path(*parts[:index], "labels", *parts[index + 1 :])
            return labels if labels.is_dir() else pictures
    return pictures


def read_yolo_layout(root: Path, layout: Layout, names: CategoryNames) -> Reading:
    """Read every picture of a layout and its labels into one document, or one for each of its splits.

    A picture without a label file holds no object, as YOLO's trainings take it.

    Args:
        root: the data set's root, which names are given relative to.
        layout: what :func:`find_yolo` has found.
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
                picture.objects, found = read_yolo(
                    content, classes, health.width, health.height, names, file, keypoints
                )
                reading.defects += found
            pictures.append(picture)
        reading.defects += _without_pictures(part, used, root)
    if not pictures or unlabelled == len(pictures):
        what = "no usable image" if not pictures else "no label file of a picture"
        raise DatasetError(f"{root}: {what} in it. {first_defects(reading.defects)}")
    if unlabelled:
        reading.hints.append(f"{unlabelled} of {len(pictures)} pictures have no label file: read as without objects")
    pictures.sort(key=lambda picture: picture.file_name)
    reading.notes = {"sha256": digest.hexdigest()}
    reading.documents = documents_of(pictures, categories)
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
        content = _yaml(file)
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
    label = _label_folder(picture.parent) / f"{picture.stem}.txt"
    return label if label.is_file() else labels.get(alike(label.relative_to(base).as_posix()))


def _without_pictures(part: Part, used: set[Path], root: Path) -> Iterator[Defect]:
    """Yield a defect for each label file whose picture is not there."""
    for folder in dict.fromkeys(_label_folder(place) for place in part.pictures if place.is_dir()):
        for name in data_files(folder, (".txt",), below=part.deep):
            if folder / name not in used and _is_label(name):
                yield Defect((folder / name).relative_to(root).as_posix(), "file", NO_PICTURE, LEFT_OUT)
