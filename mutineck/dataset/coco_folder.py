"""Folders in COCO's layout: annotations/instances_{train,val}2017.json beside train2017/ and val2017/."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mutineck.dataset.coco import fit_to_images, keep_images, read_coco
from mutineck.dataset.images import MISSING, TURN_UNSAID, UNREADABLE, inspect_picture
from mutineck.dataset.records import KEPT, LEFT_OUT, REPAIRED, CategoryNames, DatasetError, Defect
from mutineck.dataset.split import first_by_hash

WRONG_SIZE = "wrong image size"


def find_coco_files(root: Path, split: str) -> tuple[Path, Path] | None:
    """Return the annotation file and the picture folder of a split, or None if the root has none.

    COCO's own names come first, then the same names without the year, then ``annotations/SPLIT.json``.
    """
    annotations = (f"instances_{split}2017.json", f"instances_{split}.json", f"{split}.json")
    folders = (f"{split}2017", split, "images", "")
    for file in (root / "annotations" / name for name in annotations):
        if file.is_file():
            return file, next(root / name for name in folders if (root / name).is_dir())
    return None


def read_coco_folder(
    root: Path, names: CategoryNames, limit: int | None = None, seed: int = 0
) -> tuple[dict[str, dict[str, Any]], list[Defect], list[Path]]:
    """Read train, val and, where it is annotated, test; else test is val, as COCO's test boxes are secret.

    Args:
        root: the folder.
        names: categories to keep.
        limit: keep so many images of each split, chosen by ``seed``.
        seed: see ``limit``.

    Returns:
        Documents by split with ``file_name`` relative to ``root``, defects, and the files read.

    Raises:
        DatasetError: train or val is missing, or they disagree about the categories.
    """
    documents: dict[str, dict[str, Any]] = {}
    defects: list[Defect] = []
    read: list[Path] = []
    for split in ("train", "val", "test"):
        found = find_coco_files(root, split)
        if found is None:
            if split != "test":
                raise DatasetError(
                    f"dataset.root: {root} has no annotations/instances_{split}2017.json (or "
                    f"instances_{split}.json, {split}.json). Name a folder in COCO's layout with "
                    "--set dataset.root=PATH, or get it with `mutineck download coco --to PATH`"
                )
            documents["test"] = documents["val"]
            continue
        file, folder = found
        name = file.relative_to(root).as_posix()
        try:
            content = file.read_bytes()
        except OSError as error:
            raise DatasetError(f"{file}: cannot be read ({error})") from error
        document, problems = read_coco(content, name, names)
        del content  # 448 MB for COCO's train split.
        if documents:
            _agree(document, name, documents["train"], read[0].relative_to(root).as_posix())
        read.append(file)
        if limit is not None:
            chosen = set(first_by_hash([image["file_name"] for image in document["images"]], limit, seed))
            document = keep_images(document, lambda image, chosen=chosen: image["file_name"] in chosen)  # type: ignore[misc]
        problems += _check_pictures(document, folder, root, name)
        usable = keep_images(document, lambda image: image["width"] > 0)
        problems += fit_to_images(usable, name)
        documents[split] = usable
        defects += problems
    return documents, defects, read


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
