"""Folders with COCO's annotation files: which files and pictures belong together, and what is wrong with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mutineck.dataset.coco import CocoReader, keep_images, parse_coco, unused_root
from mutineck.dataset.coco_fit import fit_to_images
from mutineck.dataset.coco_layout import PICTURE_FOLDERS
from mutineck.dataset.images import (
    MISSING,
    TURN_UNSAID,
    UNREADABLE,
    WRONG_SIZE,
    changed_since,
    inspect_picture,
    upright_bbox,
)
from mutineck.dataset.layouts import Layout, Part
from mutineck.dataset.masks import upright_segmentation
from mutineck.dataset.picture_files import PictureFiles
from mutineck.dataset.records import KEPT, LEFT_OUT, REPAIRED, CategoryNames, DatasetError, Defect, Reading
from mutineck.dataset.split import first_by_hash

DUPLICATE = "duplicate name"
NO_ANNOTATION = "image without an annotation"
ELSEWHERE = "filename points elsewhere"


def read_coco_layout(
    root: Path, layout: Layout, names: CategoryNames, limit: int | None = None, seed: int = 0
) -> Reading:
    """Read the annotation files of a layout, a document each.

    Args:
        root: the data set's root, which names are given relative to.
        layout: what `find_coco` has found.
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
    if above is not None:
        reading.hints.append(f"category {above['name']!r} has no object and stands above all others: left out")
    named: set[str] = set()
    for part, label in zip(layout.parts, labels, strict=True):
        reader = CocoReader(label, names, above)
        whole = parsed.pop(0)
        document = reader.read(whole)
        reading.found += Counter(reader.found(whole) if limit is None else {})
        if reading.documents:
            _agree(document, label, next(iter(reading.documents.values())), labels[0])
        if limit is not None and part.split:
            chosen = set(first_by_hash([image["file_name"] for image in document["images"]], limit, seed))
            document = keep_images(document, chosen)
        problems = check_pictures(document, part, files, label)
        named |= {image["file_name"] for image in document["images"]}
        document = keep_images(document, {image["id"] for image in document["images"] if image["width"]}, "id")
        reading.defects += reader.defects + problems + fit_to_images(document, label)
        reading.hints += reader.hints()
        reading.documents[part.split] = document
    if limit is None:
        for folder, others in _unnamed(layout, files, named).items():
            reading.found["images"] += len(others)
            detail = f"{len(others)} pictures are in no annotation file, such as {others[0]}"
            reading.defects.append(Defect(folder, "folder", NO_ANNOTATION, LEFT_OUT, detail))
    return reading


def _unnamed(layout: Layout, files: PictureFiles, named: set[str]) -> dict[str, list[str]]:
    """Return folder -> the pictures that lie in it among those of the annotation files, and are named by none."""
    folders = {part.pictures[0].relative_to(files.root).as_posix(): None for part in layout.parts}
    others = {
        each: [file for file in files.files if file not in named and file.startswith(f"{each}/")] for each in folders
    }
    return {folder: found for folder, found in others.items() if found}


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
