"""Folders in COCO's layout: annotations/instances_{train,val}2017.json beside train2017/ and val2017/."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mutineck.dataset.coco import fit_to_images, keep_images, read_coco
from mutineck.dataset.images import MISSING, TURN_UNSAID, UNREADABLE, inspect_picture
from mutineck.dataset.records import KEPT, LEFT_OUT, REPAIRED, CategoryNames, DatasetError, Defect
from mutineck.dataset.split import first_by_hash, stratified_split

SPLITS = ("train", "val", "test")
WRONG_SIZE = "wrong image size"


def annotation_files(root: Path, split: str) -> tuple[Path, ...]:
    """Return where a split's annotation file may lie; the first that is there counts.

    COCO's own names come first, then the same names without the year, then ``annotations/SPLIT.json``.
    """
    names = (f"instances_{split}2017.json", f"instances_{split}.json", f"{split}.json")
    return tuple(root / "annotations" / name for name in names)


def find_coco_files(root: Path, split: str) -> tuple[Path, Path] | None:
    """Return the annotation file and the picture folder of a split, or None if the root has none."""
    folders = (f"{split}2017", split, "images", "")
    for file in annotation_files(root, split):
        if file.is_file():
            return file, next(root / name for name in folders if (root / name).is_dir())
    return None


def find_single_file(root: Path) -> tuple[Path, Path] | None:
    """Return the one annotation file of a root that is not divided yet, and its picture folder; None if there is none.

    It lies in `annotations/` or in the root; the pictures in `images/`, or beside the file as some tools export them.
    """
    if any(find_coco_files(root, split) for split in SPLITS):
        return None
    files = [*root.glob("annotations/*.json"), *root.glob("*.json")]
    if len(files) != 1:
        return None
    return files[0], root / "images" if (root / "images").is_dir() else root


def read_coco_folder(
    root: Path,
    names: CategoryNames,
    limit: int | None = None,
    seed: int = 0,
    shares: Sequence[float] | None = (8, 1, 1),
) -> tuple[dict[str, dict[str, Any]], list[Defect], list[Path]]:
    """Read train, val and, where it is annotated, test; else test is val, as COCO's test boxes are secret.

    Where there is one annotation file of all pictures, they are divided as those of VOC folders are.

    Args:
        root: the folder.
        names: categories to keep.
        limit: keep so many images of each split, chosen by ``seed``.
        seed: see ``limit``; of the division too.
        shares: of train, val and test in a division; None where only a published one will do.

    Returns:
        Documents by split with ``file_name`` relative to ``root``, defects, and the files read.

    Raises:
        DatasetError: train or val is missing, or they disagree about the categories.
    """
    if shares is not None and (single := find_single_file(root)):
        return _divided(root, *single, names, limit, seed, shares)
    documents: dict[str, dict[str, Any]] = {}
    defects: list[Defect] = []
    read: list[Path] = []
    for split in SPLITS:
        found = find_coco_files(root, split)
        if found is None:
            if split != "test":
                raise DatasetError(
                    f"dataset.root: {root} has no annotations/instances_{split}2017.json (or "
                    f"instances_{split}.json, {split}.json), nor a single file of all pictures to divide by "
                    "dataset.split. Name a folder in COCO's layout with "
                    "--set dataset.root=PATH, or get it with `mutineck download coco --to PATH`"
                )
            documents["test"] = documents["val"]
            continue
        file, folder = found
        name = file.relative_to(root).as_posix()
        document, problems = read_coco(_content(file), name, names)
        if documents:
            _agree(document, name, documents["train"], read[0].relative_to(root).as_posix())
        read.append(file)
        if limit is not None:
            document = _some(document, first_by_hash([image["file_name"] for image in document["images"]], limit, seed))
        documents[split], found_problems = _usable(document, folder, root, name)
        defects += problems + found_problems
    return documents, defects, read


def _divided(
    root: Path,
    file: Path,
    folder: Path,
    names: CategoryNames,
    limit: int | None,
    seed: int,
    shares: Sequence[float],
) -> tuple[dict[str, dict[str, Any]], list[Defect], list[Path]]:
    """Return what `read_coco_folder` does, from the one annotation file of all pictures."""
    name = file.relative_to(root).as_posix()
    document, defects = read_coco(_content(file), name, names)
    usable, problems = _usable(document, folder, root, name)
    categories = {row["id"]: row["name"] for row in usable["categories"]}
    files = {image["id"]: image["file_name"] for image in usable["images"]}
    labels: dict[str, set[str]] = {file_name: set() for file_name in files.values()}
    for item in usable["annotations"]:
        labels[files[item["image_id"]]].add(categories[item["category_id"]])
    parts = stratified_split(labels, shares, seed)
    documents = {}
    for index, split in enumerate(SPLITS):
        chosen = [file_name for file_name, part in parts.items() if part == index]
        documents[split] = _some(usable, chosen if limit is None else first_by_hash(chosen, limit, seed))
    return documents, defects + problems, [file]


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DatasetError(f"{file}: cannot be read ({error})") from error


def _some(document: dict[str, Any], file_names: Collection[str]) -> dict[str, Any]:
    chosen = set(file_names)
    return keep_images(document, lambda image: image["file_name"] in chosen)


def _usable(document: dict[str, Any], folder: Path, root: Path, name: str) -> tuple[dict[str, Any], list[Defect]]:
    """Return the document of the pictures that can be used, boxes inside them, and what was wrong."""
    problems = _check_pictures(document, folder, root, name)
    usable = keep_images(document, lambda image: image["width"] > 0)
    return usable, problems + fit_to_images(usable, name)


def _agree(document: dict[str, Any], file: str, train: dict[str, Any], train_file: str) -> None:
    """Give a document the train split's order of categories, in place; refuse other ids or names."""
    here, there = ({row["id"]: row["name"] for row in each["categories"]} for each in (document, train))
    if here != there:
        apart = [
            f"{number} is {here.get(number, 'nothing')[:60]}, not {there.get(number, 'nothing')[:60]}"
            for number in sorted(here.keys() | there.keys())
            if here.get(number) != there.get(number)
        ]
        raise DatasetError(
            f"{file}: categories: they are not those of {train_file}: {', '.join(apart[:3])}"
            f"{' ...' if apart[3:] else ''}; expected the same ids and names in both"
        )
    document["categories"] = train["categories"]


def _check_pictures(document: dict[str, Any], folder: Path, root: Path, file: str) -> list[Defect]:
    """Set every image's true size, 0 where it cannot be used, and its name relative to the root, in place."""
    defects = []
    for image in tqdm(document["images"], desc=f"checking {folder.name}", unit="image", disable=None):
        path = folder / image["file_name"]
        relative = path.relative_to(root).as_posix()
        written = (image["width"], image["height"])
        image["file_name"] = relative
        image["width"] = image["height"] = 0
        if not os.path.isfile(path):  # unlike Path's, False also for a name longer than the system allows
            defects.append(Defect(relative, "file", MISSING, LEFT_OUT, f"image {image['id']} of {file}"))
            continue
        health = inspect_picture(path)
        if health.problem:
            defects.append(Defect(relative, "file", UNREADABLE, LEFT_OUT, health.problem))
            continue
        true = (health.width, health.height)
        if written != true:
            detail = f"image {image['id']}: {written[0]}x{written[1]} written, {true[0]}x{true[1]} in the file"
            if 0 not in written:
                # Boxes and masks refer to the size that is written; how they lie on the true one is unknown
                defects.append(Defect(file, "images.width", WRONG_SIZE, LEFT_OUT, detail))
                continue
            defects.append(Defect(file, "images.width", WRONG_SIZE, REPAIRED, detail))
        elif health.turn_unsaid:
            defects.append(Defect(relative, "file", TURN_UNSAID, KEPT, health.turn_unsaid))
        image["width"], image["height"] = true
    return defects
