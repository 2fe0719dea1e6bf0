"""Division of what was read into train, val and test: as published, by VOC's lists, or stratified by category."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mutineck.dataset.coco import keep_images
from mutineck.dataset.layouts import SPLITS
from mutineck.dataset.records import DatasetError, Reading
from mutineck.dataset.split import stratified_split
from mutineck.dataset.voc_folder import official_split

Shares = tuple[float, float, float]


def divided(
    reading: Reading, root: Path, shares: Shares | None, seed: int, together: Mapping[str, str]
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Return documents of train, val and test (which may be missing), and how they came about.

    Published splits stay as they are. All else is divided.

    Args:
        reading: what was read.
        root: its folder, for messages.
        shares: of train, val and test; None keeps VOC's lists.
        seed: see `stratified_split`.
        together: see there.

    Raises:
        DatasetError: there is nothing to train with, or nothing that divides it.
    """
    found = reading.documents
    if found.keys() >= {"train", "val"}:
        documents = {split: found[split] for split in SPLITS if split in found}
        return documents, {"split": "as published" + ", test is val" * ("test" not in found)}
    if len(found) > 1 and "train" not in found:
        raise DatasetError(f"{root}: pictures of {' and '.join(found)}, and none to train with")
    (_, document), *rest = found.items()
    if shares is None:
        if rest or not reading.lists:
            raise DatasetError(
                f"dataset.split: null keeps published splits, and {root} has "
                f"{' and '.join(filter(None, found)) or 'none'}: divide anew, --set dataset.split=[8,1,1]"
            )
        file_names = [image["file_name"] for image in document["images"]]
        parts = official_split(reading.lists, file_names)
        notes: dict[str, Any] = {"split": "ImageSets/Main"}
    else:
        if rest:
            # A published test split stays; val is taken from train in the proportion that the shares have
            shares = (shares[0], shares[1], 0)
        labels = _labels(document)
        if not labels:
            raise DatasetError(f"{root}: no usable image in it")
        parts = stratified_split(labels, shares, seed, {each: together[each] for each in labels})
        notes = {"split": list(shares)}
    documents = {}
    for index, split in enumerate(SPLITS):
        chosen = {file_name for file_name, part in parts.items() if part == index}
        documents[split] = keep_images(document, chosen)
    return documents | dict(rest), notes | {"seed": seed}


def _labels(document: Mapping[str, Any]) -> dict[str, set[str]]:
    """Return the categories that occur in each picture."""
    categories = {row["id"]: row["name"] for row in document["categories"]}
    files = {image["id"]: image["file_name"] for image in document["images"]}
    labels: dict[str, set[str]] = {file_name: set() for file_name in files.values()}
    for item in document["annotations"]:
        labels[files[item["image_id"]]].add(categories[item["category_id"]])
    return labels


def joined(documents: Sequence[Mapping[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Return one document for each split that any of several sources has."""
    whole: dict[str, dict[str, Any]] = {}
    for split in SPLITS:
        parts = [each[split] for each in documents if split in each]
        if parts:
            whole[split] = parts[0] | {
                key: [row for part in parts for row in part[key]] for key in ("images", "annotations")
            }
    return whole
