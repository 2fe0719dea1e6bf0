"""Which files hold COCO's annotations, where their pictures may lie, and which of all these count."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from mutineck.dataset.images import PICTURE_SUFFIXES
from mutineck.dataset.layouts import SPLITS, Layout, Part, split_folders, split_of, split_words
from mutineck.dataset.picture_files import data_files
from mutineck.dataset.records import DatasetError
from mutineck.study.inputs import ExternalInput

CANONICAL = ("instances_{}2017.json", "instances_{}.json", "{}.json")
"""COCO's own names of a split's file, then the same without the year, and without the kind; the first that is there
counts."""
WORDS = re.compile(r"[a-z]+")
PLAIN_WORDS = {"instances", "instance", "annotations", "annotation", "coco", "labels", "bbox", "json"}
"""Words that may stand beside a split's in the name of its file."""
ROBOFLOW = "_annotations.coco.json"
PICTURE_FOLDERS = ("data", "images")
"""Folders of the root that pictures lie in where no split has its own; the last that is there comes first."""
KEYS = [re.compile(rb'"%s"\s*:\s*\[' % key) for key in (b"images", b"annotations", b"categories")]


def find_coco(root: Path) -> list[Layout]:
    """Return what can be read as COCO's annotations below a root; several where one has to be chosen.

    Files in annotations/ or in the root, called as splits are, or one of all pictures; or a file in each of train/,
    valid/, test/.
    """
    folders = [path for path in sorted(root.iterdir()) if path.is_dir() and path.name.lower() == "annotations"]
    files = [folder / name for folder in (*folders, root) for name in data_files(folder, (".json",), below=False)]
    by_split = {split: sorted((each for each in files if _is_of(each, split)), key=_rank) for split in SPLITS}
    parts = [_part(root, split, found[0]) for split, found in by_split.items() if found]
    layouts = []
    if parts:
        remarks = [f"{file.name} is not read, {found[0].name} is" for found in by_split.values() for file in found[1:]]
        if len(parts) > 1:
            others = [
                file.name for file in files if file.name.startswith("instances_") and not _split_of_file(file.name)
            ]
            remarks += [f"{name} is not read: it is called as no split is" for name in others]
        layouts.append(Layout("coco", _title(root, parts[0].annotations), tuple(parts), root, remarks=tuple(remarks)))
    if len(parts) < 2:
        singles = [file for file in files if not _split_of_file(file.name) and is_coco(file)]
        layouts += [Layout("coco", _title(root, file), (_part(root, "", file),), root) for file in singles]
    if inside := [part for folder, split in split_folders(root) for part in _inside(folder, split)]:
        layouts.append(Layout("coco", _title(root, inside[0].annotations), tuple(inside), root))
    return layouts


def _is_of(file: Path, split: str) -> bool:
    """Whether a file holds a split's annotations; one in annotations/ with COCO's own name need not prove it."""
    if _split_of_file(file.name) != split:
        return False
    return _rank(file)[:2] < (False, len(CANONICAL)) or is_coco(file)


def _split_of_file(name: str) -> str:
    """Return the split that an annotation file is called after, or nothing: ``instances_Train.json`` is train."""
    words = WORDS.findall(name.lower())
    splits = [split_of(word) for word in words if split_of(word)]
    return splits[0] if len(splits) == 1 and {*words} - PLAIN_WORDS == {w for w in words if split_of(w)} else ""


def _rank(file: Path) -> tuple[bool, int, str]:
    split = _split_of_file(file.name)
    names = [name.format(split) for name in CANONICAL]
    return file.parent.name != "annotations", names.index(file.name) if file.name in names else len(names), file.name


def is_coco(file: Path) -> bool:
    """Whether a JSON file seems to hold COCO's three lists; it is not parsed."""
    try:
        content = file.read_bytes()
    except OSError:
        return False
    return all(key.search(content) for key in KEYS) and b'"segments_info"' not in content


def _inside(folder: Path, split: str) -> Iterator[Part]:
    """Yield the part that a split's folder with an annotation file in it is, if it is one."""
    files = [folder / name for name in data_files(folder, (".json",), below=False)]
    found = [file for file in files if file.name == ROBOFLOW or is_coco(file)]
    if len(found) > 1:
        raise DatasetError(
            f"{folder}: two annotation files, {found[0].name} and {found[1].name}: which is meant? "
            "Move the other one out of the folder"
        )
    if found:
        yield Part(split, folder.name, found[0], (folder, folder.parent))


def _part(root: Path, split: str, file: Path) -> Part:
    """Return the part of an annotation file, with the folders that its pictures may lie in."""
    subset = re.sub(r"^instances_", "", file.name.partition(".")[0])
    words = [f"{split}2017", split, subset, *split_words(split)] if split else [subset]
    bases = [root, *(root / name for name in PICTURE_FOLDERS if (root / name).is_dir())]
    below = [path for base in bases for path in sorted(base.iterdir()) if path.is_dir() and path not in bases]
    found = [path for word in words for path in below if path.name.lower() == word.lower()]
    return Part(split, file.name, file, (*found[:1], *reversed(bases)))


def _title(root: Path, file: Path) -> str:
    tool = ""
    if file.name == ROBOFLOW:
        tool = "Roboflow's COCO export"
    elif file.name == "result.json":
        tool = "Label Studio's COCO export"
    elif file.name == "instances_default.json" or (root / "images" / "default").is_dir():
        tool = "CVAT's COCO export"
    return tool or "COCO's layout"


def coco_inputs(layout: Layout) -> Iterator[ExternalInput]:
    """Yield what counts of COCO's annotations: their files, and of the pictures the names.

    An annotation file that is not there counts where it would be read in the place of the one that is.
    """
    files = {part.split: part.annotations for part in layout.parts}
    folders = {part.pictures[0]: None for part in layout.parts}
    yield from (ExternalInput(str(file)) for file in files.values())
    if files.keys() == {""} or all(file.parent.name == "annotations" for file in files.values()):
        for split in SPLITS:
            for name in CANONICAL:
                file = layout.base / "annotations" / name.format(split)
                if file == files.get(split):
                    break
                yield ExternalInput(str(file))
    else:
        yield ExternalInput(str(layout.base), "folders", split_words())
    for folder in folders:
        # Below the root itself there is more than the data set: annotations, and for some a study's own folder.
        yield ExternalInput(str(folder), "beside" if folder == layout.base else "names", PICTURE_SUFFIXES)
