"""Labels that an experiment hides from a complete data set, as if several teams had labelled a part of it each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mutineck.dataset.records import DatasetError
from mutineck.dataset.split import stratified_split
from mutineck.detection.labelled import LABELLED, labelled_categories, of_labelled
from mutineck.study.dataset import SOURCES
from mutineck.study.sources import HideSpec, PartSpec
from mutineck.system.errors import unknown


def hide_labels(
    document: Mapping[str, Any], spec: HideSpec, together: Mapping[str, str] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Divide the pictures of a split into parts, and hide what a part is not labelled for.

    Args:
        document: COCO's, labelled for all categories.
        spec: the parts, and the seed of the division.
        together: see `stratified_split`.

    Returns:
        What stays visible, and what is hidden: two documents of the same pictures, each saying which categories it has
        the labels of.

    Raises:
        DatasetError: a part is to be labelled for a category that there is not, or there are fewer pictures than parts.
    """
    ids = {category["name"]: category["id"] for category in document["categories"]}
    kept = {part.name: _ids(part, ids) for part in spec.parts}
    parts = _divide(document, spec, together or {})
    images, hidden = [], []
    for image in document["images"]:
        part = parts[image["file_name"]]
        own = {**image, SOURCES: [part]}
        images.append(own if len(kept[part]) == len(ids) else own | {LABELLED: sorted(kept[part])})
        hidden.append(own | {LABELLED: sorted({*ids.values()} - kept[part])})
    visible = {**document, "images": images}
    truth = {**document, "images": hidden}
    for each in (visible, truth):
        each["annotations"] = of_labelled(document["annotations"], labelled_categories(each))
    return visible, truth


def labelled_for(spec: HideSpec, categories: list[str]) -> dict[str, list[str]]:
    """Return part -> names of the categories that its pictures are labelled for, in the data set's order."""
    return {
        part.name: [name for name in categories if part.categories is None or name in part.categories]
        for part in spec.parts
    }


def _ids(part: PartSpec, ids: Mapping[str, int]) -> set[int]:
    """Return the ids of the categories that a part stays labelled for."""
    for name in part.categories or ():
        if name not in ids:
            raise DatasetError(f"dataset.hide.parts.{part.name}.categories: " + unknown("category", name, ids))
    return {*ids.values()} if part.categories is None else {ids[name] for name in part.categories}


def _divide(document: Mapping[str, Any], spec: HideSpec, together: Mapping[str, str]) -> dict[str, str]:
    """Return file name -> the part that a picture is of; every part has its share of every category."""
    files = {image["id"]: image["file_name"] for image in document["images"]}
    categories: dict[str, set[str]] = {file: set() for file in files.values()}
    for item in document["annotations"]:
        categories[files[item["image_id"]]].add(str(item["category_id"]))
    if len(files) < len(spec.parts):
        raise DatasetError(f"dataset.hide.parts: {len(spec.parts)} parts of {len(files)} pictures: name fewer")
    shares = [part.share for part in spec.parts]
    found = stratified_split(categories, shares, spec.seed, {file: together.get(file, file) for file in categories})
    return {file: spec.parts[index].name for file, index in found.items()}
