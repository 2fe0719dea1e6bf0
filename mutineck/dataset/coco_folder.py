"""Folders with COCO's annotation files: which files and pictures belong together, and what is wrong with them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mutineck.dataset.coco import CocoReader, fit_to_images, keep_images, parse_coco, unused_root
from mutineck.dataset.images import (
    MISSING,
    PICTURE_SUFFIXES,
    TURN_UNSAID,
    UNREADABLE,
    WRONG_SIZE,
    changed_since,
    inspect_picture,
    upright_bbox,
)
from mutineck.dataset.masks import upright_segmentation
from mutineck.dataset.picture_files import PictureFiles, data_files
from mutineck.dataset.records import (
    KEPT,
    LEFT_OUT,
    REPAIRED,
    SPLITS,
    CategoryNames,
    DatasetError,
    Defect,
    Layout,
    Part,
    Reading,
    split_folders,
    split_of,
    split_words,
)
from mutineck.dataset.split import first_by_hash
from mutineck.study.inputs import Outside

DUPLICATE = "duplicate name"
ELSEWHERE = "filename points elsewhere"
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


def coco_inputs(layout: Layout) -> Iterator[Outside]:
    """Yield what counts of COCO's annotations: their files, and of the pictures the names.

    An annotation file that is not there counts where it would be read in the place of the one that is.
    """
    files = {part.split: part.annotations for part in layout.parts}
    folders = {part.pictures[0]: None for part in layout.parts}
    yield from (Outside(str(file)) for file in files.values())
    if files.keys() == {""} or all(file.parent.name == "annotations" for file in files.values()):
        for split in SPLITS:
            for name in CANONICAL:
                file = layout.base / "annotations" / name.format(split)
                if file == files.get(split):
                    break
                yield Outside(str(file))
    else:
        yield Outside(str(layout.base), "folders", split_words())
    for folder in folders:
        # Below the root itself there is more than the data set: annotations, and for some a study's own folder.
        yield Outside(str(folder), "beside" if folder == layout.base else "names", PICTURE_SUFFIXES)


def read_coco_layout(
    root: Path, layout: Layout, names: CategoryNames, limit: int | None = None, seed: int = 0
) -> Reading:
    """Read the annotation files of a layout, a document each.

    Args:
        root: the data set's root, which names are given relative to.
        layout: what :func:`find_coco` has found.
        names: categories to keep.
        limit: keep so many images of each split, chosen by ``seed``; it holds for splits alone.
        seed: see ``limit``.

    Raises:
        DatasetError: a file is no COCO document, or splits disagree about the categories.
    """
    reading = Reading({}, files=[part.annotations for part in layout.parts])
    files = PictureFiles(root)
    labels = [part.annotations.relative_to(root).as_posix() for part in layout.parts]
    parsed = [parse_coco(_content(part.annotations), label) for part, label in zip(layout.parts, labels, strict=True)]
    above = unused_root(parsed)
    for part, label in zip(layout.parts, labels, strict=True):
        reader = CocoReader(label, names, above)
        document = reader.read(parsed.pop(0))
        if reading.documents:
            _agree(document, label, next(iter(reading.documents.values())), labels[0])
        if limit is not None and part.split:
            chosen = set(first_by_hash([image["file_name"] for image in document["images"]], limit, seed))
            document = keep_images(document, chosen)
        problems = check_pictures(document, part, files, label)
        document = keep_images(document, {image["id"] for image in document["images"] if image["width"]}, "id")
        reading.defects += reader.defects + problems + fit_to_images(document, label)
        reading.hints += reader.hints()
        reading.documents[part.split] = document
    return reading


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DatasetError(f"{file}: cannot be read ({error})") from error


def _agree(document: dict[str, Any], file: str, first: dict[str, Any], first_file: str) -> None:
    """Give a document the first split's order of categories, in place; refuse other ids or names."""
    here, there = ({row["id"]: row["name"] for row in each["categories"]} for each in (document, first))
    if here != there:
        apart = [
            f"{number} is {here.get(number, 'nothing')[:60]}, not {there.get(number, 'nothing')[:60]}"
            for number in sorted(here.keys() | there.keys())
            if here.get(number) != there.get(number)
        ]
        raise DatasetError(
            f"{file}: categories: they are not those of {first_file}: {', '.join(apart[:3])}"
            f"{' ...' if apart[3:] else ''}; expected the same ids and names in both"
        )
    document["categories"] = first["categories"]


def check_pictures(document: dict[str, Any], part: Part, files: PictureFiles, file: str) -> list[Defect]:
    """Set every image's true size, 0 where it cannot be used, and its name relative to the root, in place.

    Boxes and outlines that were drawn on the pixels as stored are turned as the picture's EXIF says.
    """
    defects: list[Defect] = []
    bases, within = _places(part, files.root)
    moved: list[tuple[str, str]] = []
    unsized: list[str] = []
    taken: dict[str, Any] = {}
    by_image: dict[Any, list[dict[str, Any]]] = {}
    for item in document["annotations"]:
        by_image.setdefault(item["image_id"], []).append(item)
    for image in tqdm(document["images"], desc=f"checking {part.name}", unit="image", disable=None):
        name, written = image["file_name"], (image["width"], image["height"])
        image["width"] = image["height"] = 0
        found = files.find(name, bases, within)
        if not found.file:
            where = f"{bases[0]}/{name}" if bases[0] else name
            detail = f"image {image['id']} of {file}: {found.problem}"
            defects.append(Defect(where, "file", MISSING, LEFT_OUT, detail))
            continue
        if found.file in taken:
            detail = f"{name} of image {image['id']} is {found.file}, image {taken[found.file]} already"
            defects.append(Defect(file, "images.file_name", DUPLICATE, LEFT_OUT, detail))
            continue
        taken[found.file] = image["id"]
        if found.moved:
            moved.append((name, found.file))
        image["file_name"] = found.file
        health = inspect_picture(files.root / found.file)
        if health.problem:
            defects.append(Defect(found.file, "file", UNREADABLE, LEFT_OUT, health.problem))
            continue
        true, stored = (health.width, health.height), health.stored_size
        detail = f"image {image['id']}: {written[0]}x{written[1]} written, {true[0]}x{true[1]} in the file"
        if written == true:
            if health.turn_unsaid:
                defects.append(Defect(found.file, "file", TURN_UNSAID, KEPT, health.turn_unsaid))
        elif written == stored:
            _turn(by_image.get(image["id"], ()), stored, health.orientation)
            detail += ": boxes turned as the picture's EXIF says"
            defects.append(Defect(file, "images.width", WRONG_SIZE, REPAIRED, detail))
        elif 0 in written:
            unsized.append(found.file)
        else:
            # Boxes and masks refer to the size that is written; how they lie on the true one is unknown
            defects.append(Defect(file, "images.width", WRONG_SIZE, LEFT_OUT, detail + changed_since(written, true)))
            continue
        image["width"], image["height"] = true
    if unsized:
        detail = f"no size of {len(unsized)} of {len(document['images'])}, such as {unsized[0]}: read from the pictures"
        defects.append(Defect(file, "images.width", WRONG_SIZE, REPAIRED, detail))
    if moved:
        name, place = moved[0]
        detail = f"{len(moved)} of {len(document['images'])} found by their last part alone: {place} for {name}"
        defects.append(Defect(file, "images.file_name", ELSEWHERE, REPAIRED, detail))
    return defects


def _places(part: Part, root: Path) -> tuple[list[str], str]:
    """Return the folders that a name may be relative to, and the folder of its split alone, or nothing."""
    bases = [path.relative_to(root).as_posix() for path in part.pictures]
    own = part.split and bases[0] not in (".", *PICTURE_FOLDERS)
    return ["" if each == "." else each for each in bases], bases[0] if own else ""


def _turn(items: Iterable[dict[str, Any]], stored: tuple[int, int], orientation: int) -> None:
    for item in items:
        item["bbox"] = upright_bbox(item["bbox"], stored, orientation)
        if "segmentation" in item:
            item["segmentation"] = upright_segmentation(item["segmentation"], stored, orientation)
