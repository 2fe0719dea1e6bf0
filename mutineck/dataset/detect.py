"""What a folder is: the layout of which tool, found or refused, and read as that."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from mutineck.dataset.coco_folder import read_coco_layout
from mutineck.dataset.coco_layout import coco_inputs, find_coco
from mutineck.dataset.layouts import Layout
from mutineck.dataset.pictures_folder import pictures_inputs, pictures_layout, read_pictures_layout
from mutineck.dataset.records import CategoryNames, DatasetError, Reading
from mutineck.dataset.voc_folder import read_voc
from mutineck.dataset.voc_layout import find_voc, voc_inputs
from mutineck.dataset.yolo_folder import read_yolo_layout
from mutineck.dataset.yolo_layout import find_yolo, yolo_inputs
from mutineck.study.inputs import ExternalInput

FINDERS: dict[str, Callable[[Path], list[Layout]]] = {"voc": find_voc, "coco": find_coco, "yolo": find_yolo}
INPUTS: dict[str, Callable[[Layout], Iterator[ExternalInput]]] = {
    "voc": voc_inputs,
    "coco": coco_inputs,
    "yolo": yolo_inputs,
    "pictures": pictures_inputs,
}
EXPECTED = {
    "voc": "Annotations/ beside JPEGImages/, in it or in VOC2007/, VOC2012/, or XML beside the pictures",
    "coco": "annotations/instances_train2017.json and instances_val2017.json, one JSON of all pictures, or "
    "_annotations.coco.json in train/ and valid/",
    "yolo": "data.yaml, or images/ beside labels/ with classes.txt",
}
"""What is looked for, by format."""
DEEPEST = 3
"""Folders in which there is little but one other folder, as archives have them, that are gone through."""
MOST_BESIDE = 3
"""Such a folder's entries at most: the archive itself may lie there, and a file to be read first."""


def find_layout(root: Path, form: Literal["auto", "voc", "coco", "yolo", "pictures"]) -> Layout:
    """Return what a folder, or the only folder in it, is.

    Args:
        root: the folder.
        form: the format to look for, or ``auto`` for any.

    Raises:
        DatasetError: it is nothing that is known here, or could be several things; the message names them.
    """
    if form == "pictures":
        return pictures_layout(root)
    forms: list[str] = [*FINDERS] if form == "auto" else [form]
    base = root
    for _ in range(DEEPEST):
        found = [layout for each in forms for layout in FINDERS[each](base)]
        if len(found) == 1:
            return found[0]
        if found:
            raise DatasetError(_several(base, found))
        inside = [path for path in base.iterdir() if not path.name.startswith(".") and path.name != "__MACOSX"]
        folders = [path for path in inside if path.is_dir()]
        if len(folders) != 1 or len(inside) > MOST_BESIDE:
            break
        base = folders[0]
    others = [layout for each in FINDERS if each not in forms for layout in FINDERS[each](root)]
    raise DatasetError(_nothing(root, forms, others))


def _several(root: Path, found: list[Layout]) -> str:
    readings = [f"{layout.title}: {_where(layout)}" for layout in found]
    formats = list(dict.fromkeys(layout.format for layout in found))
    if len(formats) == len(found):
        remedy = f"Choose with --set dataset.format={' or --set dataset.format='.join(formats)}"
    elif all(not part.split for layout in found for part in layout.parts):
        remedy = "Move all but one out of the folder, or call them train.json and val.json if they are splits"
    else:
        remedy = "Move all but one of them out of the folder"
    return f"dataset.root: {root} can be read in {len(found)} ways: {'; or as '.join(readings)}. {remedy}"


def _where(layout: Layout) -> str:
    places = [part.annotations for part in layout.parts]
    return ", ".join(dict.fromkeys(place.relative_to(layout.base).as_posix() for place in places))


def _nothing(root: Path, forms: list[str], others: list[Layout]) -> str:
    names = sorted(path.name + "/" * path.is_dir() for path in root.iterdir() if not path.name.startswith("."))
    holds = f"It holds {', '.join(names[:8])}{' ...' if names[8:] else ''}" if names else "It is empty"
    looked = "; ".join(f"{EXPECTED[form]} ({form})" for form in forms)
    remedy = "Name the folder that holds them with --set dataset.root=PATH"
    if others:
        remedy = f"It seems to be {others[0].title}: --set dataset.format={others[0].format}"
    elif len(forms) == 1:
        remedy += f", or get the published data with `mutineck download {forms[0]} --to PATH`" * (forms[0] != "yolo")
    return f"dataset.root: {root} has no {looked}. {holds}. {remedy}"


def layout_inputs(layout: Layout) -> Iterator[ExternalInput]:
    """Yield which files of a data set its conversion depends on: changed, the study's data set is stale."""
    yield from INPUTS[layout.format](layout)


def read_layout(
    root: Path, layout: Layout, names: CategoryNames, *, offset: int = 1, limit: int | None = None, seed: int = 0
) -> Reading:
    """Read what `find_layout` has found (see the readers of each format).

    Args:
        root: the data set's root, which names are given relative to.
        layout: what lies there.
        names: which names are categories.
        offset: first pixel's coordinate in VOC's XML.
        limit, seed: keep so many images of each split of COCO's, chosen by ``seed``.
    """
    if layout.format == "voc":
        return read_voc(root, layout, names, offset)
    if layout.format == "pictures":
        return read_pictures_layout(root, layout)
    if layout.format == "coco":
        return read_coco_layout(root, layout, names, limit, seed)
    return read_yolo_layout(root, layout, names)
