"""Several folders as one data set: each labelled for its own categories, the same picture in two of them merged."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from mutineck.dataset.detect import FINDERS, find_layout, layout_inputs, read_layout
from mutineck.dataset.layouts import Layout
from mutineck.dataset.records import CategoryNames, DatasetError, Reading, same_but_for_marks
from mutineck.dataset.repeats import same_content
from mutineck.detection.labelled import LABELLED
from mutineck.study.dataset import SOURCES
from mutineck.study.experiment_file import places
from mutineck.study.sources import SourceSpec
from mutineck.study.stage import Study

FIELD = re.compile(r"dataset\.(root|format|categories|aliases|voc_offset|split)\b")
SAME_BOX = 0.5
"""Overlap (IoU) from which two boxes of a category are one object that was drawn twice."""
ALIKE = 0.85
"""Similarity of two names, 0 to 1, from which it is asked whether they are one category."""
MOST_NAMED = 5


@dataclass
class Collected:
    """A source as it was read; names of pictures are relative to the folder that all sources lie in.

    Attributes:
        spec: its settings.
        layout: what its folder was taken for.
        reading: its documents, whose annotations carry the `category`'s name until all sources have one list of ids.
        labelled: names of the categories that its pictures are labelled for.
        files: picture -> as its own source names it.
    """

    spec: SourceSpec
    layout: Layout
    reading: Reading
    labelled: tuple[str, ...]
    files: dict[str, str]

    @property
    def images(self) -> Iterator[dict[str, Any]]:
        """Its image records, of all splits."""
        return (image for document in self.reading.documents.values() for image in document["images"])


def collect(study: Study) -> tuple[Path, list[Collected], dict[str, str], tuple[str, ...]]:
    """Read every source, merge what is the same, and number pictures, objects and categories through.

    Returns:
        The folder that all lie in, the sources with their documents still to be divided, picture -> the one with the
        same bytes (see `same_content`), and the categories.

    Raises:
        DatasetError: a source cannot be read, names of categories are mistaken, or the labels of a picture contradict
            each other.
    """
    spec = study.experiment.dataset
    roots = [_folder(study, source) for source in spec.folders]
    common = Path(os.path.commonpath([root.resolve() for root in roots]))
    found = [_read(study, source, root, common) for source, root in zip(spec.folders, roots, strict=True)]
    _refuse_lookalikes(found)
    names = list(dict.fromkeys(image["file_name"] for each in found for image in each.images))
    copies = same_content(common, names)
    _merge_pictures(found, copies)
    categories = spec.categories or tuple(dict.fromkeys(name for each in found for name in each.labelled))
    if not categories:
        raise DatasetError(
            "dataset.categories: no source has labels, so nothing says which categories there are: name those that the "
            "teachers know, --set 'dataset.categories=[NAME, NAME]'"
        )
    _number(found, categories)
    return common, found, copies, categories


def _folder(study: Study, source: SourceSpec) -> Path:
    looked_at = places(source.root, study.experiment.relative_to)
    root = next((path for path in looked_at if path.is_dir()), None)
    if root is None:
        where = " and ".join(map(str, looked_at))
        raise DatasetError(
            f"dataset.sources.{source.name}.root: {source.root} is no folder (looked for {where}). "
            f"Name one with --set dataset.sources.{source.name}.root=PATH"
        )
    return root


def _read(study: Study, source: SourceSpec, root: Path, common: Path) -> Collected:
    """Return a source as it is in its folder; what its readers say names its own settings."""
    spec = study.experiment.dataset
    wanted = source.categories
    if wanted and spec.categories and (strange := [name for name in wanted if name not in spec.categories]):
        raise DatasetError(
            f"dataset.sources.{source.name}.categories: {', '.join(strange)} is not among dataset.categories: "
            f"{', '.join(spec.categories)}"
        )
    names = CategoryNames(wanted, {**spec.aliases, **source.aliases})
    offset = spec.voc_offset if source.voc_offset is None else source.voc_offset
    try:
        layout = find_layout(root, source.format)
        study.note(*layout_inputs(layout))
        reading = read_layout(root, layout, names, offset=offset)
    except DatasetError as error:
        error.args = (_own(source, str(error)),)
        raise
    prefix = root.resolve().relative_to(common).as_posix()
    prefix = "" if prefix == "." else f"{prefix}/"
    # In the documents' order, which is that of the source's files.
    order = dict.fromkeys(name for document in reading.documents.values() for name in _names(document))
    labelled = tuple(name for name in order if spec.categories is None or name in spec.categories)
    if order and not labelled:
        raise DatasetError(
            f"dataset.sources.{source.name}: it is labelled for {', '.join(order)}, and none of them is among "
            f"dataset.categories: {', '.join(spec.categories or ())}"
        )
    files: dict[str, str] = {}
    for document in reading.documents.values():
        files |= _take_over(document, source.name, labelled, prefix)
    reading.lists = {split: {prefix + name for name in listed} for split, listed in reading.lists.items()}
    reading.defects = [
        replace(each, file=prefix + each.file, detail=_own(source, each.detail)) for each in reading.defects
    ]
    reading.hints = [f"{source.name}: {_own(source, hint)}" for hint in (*layout.remarks, *reading.hints)]
    if source.format == "pictures" and (others := [each for find in FINDERS.values() for each in find(root)]):
        reading.hints.append(
            f"{source.name}: {root} could be read as {others[0].title}; its labels are not read "
            f"(--set dataset.sources.{source.name}.format={others[0].format} reads them)"
        )
    return Collected(source, layout, reading, labelled, files)


def _own(source: SourceSpec, text: str) -> str:
    """Return what a reader says with the source's own settings in the place of the data set's."""
    return FIELD.sub(rf"dataset.sources.{source.name}.\1", text)


def _names(document: Mapping[str, Any]) -> list[str]:
    return [category["name"] for category in document["categories"]]


def _take_over(document: dict[str, Any], source: str, labelled: Sequence[str], prefix: str) -> dict[str, str]:
    """Give a document's pictures their source, labels and name in the common folder, and objects their category's name.

    Returns:
        Picture -> its name in the source.
    """
    names = {category["id"]: category["name"] for category in document["categories"]}
    files = {}
    for image in document["images"]:
        files[prefix + image["file_name"]] = image["file_name"]
        image |= {"file_name": prefix + image["file_name"], SOURCES: [source], LABELLED: list(labelled)}
    items = [item | {"category": names[item["category_id"]]} for item in document["annotations"]]
    document["annotations"] = [item for item in items if item["category"] in labelled]
    return files


def _refuse_lookalikes(found: Sequence[Collected]) -> None:
    """Refuse categories of two sources that differ in case or marks alone, and ask about those that are alike.

    Raises:
        DatasetError: there are such; the message has the setting to type.
    """
    for here, there in combinations(found, 2):
        for one in here.labelled:
            for other in there.labelled:
                if one in there.labelled or other in here.labelled:
                    continue
                alias = f"--set 'dataset.sources.{there.spec.name}.aliases={{{other}: {one}}}'"
                if same_but_for_marks(one, other):
                    raise DatasetError(
                        f"dataset.sources: {one!r} of {here.spec.name} and {other!r} of {there.spec.name} differ in "
                        f"case or marks alone. If they are one category, {alias}; if not, give one another name alike"
                    )
                if difflib.SequenceMatcher(None, one.casefold(), other.casefold()).ratio() >= ALIKE:
                    there.reading.hints.append(
                        f"{one!r} of {here.spec.name} and {other!r} of {there.spec.name} are read as two categories. "
                        f"If they are one, {alias}"
                    )


class _Owner(NamedTuple):
    """The source that a picture is of, its record, and its objects."""

    source: Collected
    image: dict[str, Any]
    objects: list[dict[str, Any]]

    def __str__(self) -> str:
        return f"{self.source.files[self.image['file_name']]} of {self.source.spec.name}"


def _merge_pictures(found: Sequence[Collected], copies: Mapping[str, str]) -> None:
    """Merge a picture that two sources have into the first one's, in place.

    Raises:
        DatasetError: both are labelled for a category, and their boxes of it differ.
    """
    owners: dict[str, _Owner] = {}
    problems: list[str] = []
    objects = [(document, _by_image(document)) for each in found for document in each.reading.documents.values()]
    grouped = {id(document): rows for document, rows in objects}
    for each in found:
        own: dict[str, _Owner] = {}
        merged = 0
        for document in each.reading.documents.values():
            rows = grouped[id(document)]
            kept = []
            for image in document["images"]:
                here = _Owner(each, image, rows[image["id"]])
                content = copies.get(image["file_name"], image["file_name"])
                if content in owners:
                    problems += _merge(owners[content], here)
                    del rows[image["id"]]
                    merged += 1
                else:
                    own.setdefault(content, here)
                    kept.append(image)
            document["images"] = kept
        owners |= own
        if merged:
            each.reading.hints.append(
                f"{merged} pictures of {each.spec.name} are in an earlier source, too: each is one picture with the "
                "labels of both, on the earlier one's side of the division"
            )
    if problems:
        more = f" (and {len(problems) - MOST_NAMED} more)" if problems[MOST_NAMED:] else ""
        raise DatasetError(
            f"dataset.sources: {'; '.join(problems[:MOST_NAMED])}{more}. Correct one of the two, take it out, or leave "
            "the category out of one source's `categories`"
        )
    for document, rows in objects:
        document["annotations"] = [item for items in rows.values() for item in items]


def _by_image(document: Mapping[str, Any]) -> dict[int, list[dict[str, Any]]]:
    """Return image id -> its annotations, of every image of a document."""
    rows: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in document["images"]}
    for item in document["annotations"]:
        rows[item["image_id"]].append(item)
    return rows


def _merge(first: _Owner, second: _Owner) -> list[str]:
    """Add a picture's labels to the same picture of an earlier source, in place; return how they contradict its own."""
    problems = []
    for name in (name for name in second.image[LABELLED] if name in first.image[LABELLED]):
        ours, theirs = ([item for item in each.objects if item["category"] == name] for each in (first, second))
        if not _same_boxes(ours, theirs):
            problems.append(
                f"{first} and {second} are the same picture and contradict each other in {name}: {len(ours)} and "
                f"{len(theirs)} boxes"
            )
    added = [name for name in second.image[LABELLED] if name not in first.image[LABELLED]]
    first.image[LABELLED] += added
    first.image[SOURCES] += second.image[SOURCES]
    moved = (item for item in second.objects if item["category"] in added)
    first.objects.extend(item | {"image_id": first.image["id"]} for item in moved)
    return problems


def _same_boxes(ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]) -> bool:
    """Whether every box of one list is, but for the drawing, a box of the other."""
    if len(ours) != len(theirs):
        return False
    boxes = [np.array([item["bbox"] for item in items], float).reshape(-1, 4) for items in (ours, theirs)]
    free = [*range(len(theirs))]
    overlap = np.asarray(coco_mask.iou(*boxes, np.zeros(len(theirs), np.uint8))) if len(ours) else np.zeros((0, 0))
    for row in overlap:
        best = max(free, key=lambda place: row[place])
        if row[best] < SAME_BOX:
            return False
        free.remove(best)
    return True


def _number(found: Sequence[Collected], categories: Sequence[str]) -> None:
    """Number pictures, objects and categories of all sources through from 1, in place."""
    ids = {name: number for number, name in enumerate(categories, start=1)}
    rows = [{"id": number, "name": name} for name, number in ids.items()]
    images = annotations = 0
    for each in found:
        for document in each.reading.documents.values():
            numbers = {image["id"]: images + n for n, image in enumerate(document["images"], start=1)}
            images += len(numbers)
            for image in document["images"]:
                labelled = sorted(ids[name] for name in image.pop(LABELLED))
                image["id"] = numbers[image["id"]]
                if len(labelled) < len(ids):
                    image[LABELLED] = labelled
            for n, item in enumerate(document["annotations"], start=1):
                category = ids[item.pop("category")]
                item |= {"id": annotations + n, "image_id": numbers[item["image_id"]], "category_id": category}
            annotations += len(document["annotations"])
            document["categories"] = rows
