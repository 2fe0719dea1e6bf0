"""Which folders hold YOLO's labels (data.yaml, images/ beside labels/, lists of paths), and which files count."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from mutineck.dataset.images import PICTURE_SUFFIXES
from mutineck.dataset.layouts import SPLIT_WORDS, SPLITS, Layout, Part, split_folders, split_of, split_words
from mutineck.dataset.picture_files import data_files, written_parts
from mutineck.dataset.records import DatasetError
from mutineck.study.inputs import ExternalInput

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
        file for file in _yaml_files(root) if any(read_yaml(file).get(split) for split in ("train", "val", "test"))
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
    return [file for file in files if isinstance(read_yaml(file).get("names"), (list, dict))]


def read_yaml(file: Path) -> dict[str, Any]:
    """Return the fields of a YAML file, every scalar as text: `no` is not False, nor 007 seven; none if it has none."""
    try:
        content = yaml.BaseLoader(file.read_text(encoding="utf-8-sig", errors="replace")).get_single_data()
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
    content = read_yaml(file)
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
    return any(is_label(name) for name in data_files(folder, (".txt",), below=below))


def is_label(name: str) -> bool:
    own = name.rpartition("/")[2].lower()
    return own not in LIST_FILES and not own.startswith("readme")


def yolo_inputs(layout: Layout) -> Iterator[ExternalInput]:
    """Yield what counts of YOLO's labels: these and the classes whole, of pictures the names."""
    if layout.classes is not None:
        yield ExternalInput(str(layout.classes))
    places = [place for part in layout.parts for place in part.pictures]
    if not layout.parts[0].deep or any(place.is_file() for place in places):
        # Labels lie wherever a list of pictures leads
        yield ExternalInput(str(layout.base), "content", (".txt",))
        return
    yield ExternalInput(str(layout.base), "folders", ("images", "labels", *split_words()))
    for place in places:
        if (labels := label_folder(place, layout.base)) != place:
            yield ExternalInput(str(labels), "content", (".txt",))
            yield ExternalInput(str(place), "names", PICTURE_SUFFIXES)
        else:
            yield ExternalInput(str(place), "content", (".txt", *PICTURE_SUFFIXES))


def label_folder(pictures: Path, base: Path) -> Path:
    """Return where the labels of a folder of pictures lie: the last images/ of its path below a base is labels/."""
    parts = pictures.relative_to(base).parts
    for index in range(len(parts) - 1, -1, -1):
        if parts[index] == "images":
            labels = base.joinpath(*parts[:index], "labels", *parts[index + 1 :])
            return labels if labels.is_dir() else pictures
    return pictures
