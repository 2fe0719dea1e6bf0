"""Folders of pictures that nobody has labelled."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from mutineck.dataset.images import PICTURE_SUFFIXES, UNREADABLE, inspect_picture
from mutineck.dataset.layouts import Layout, Part
from mutineck.dataset.picture_files import PictureFiles
from mutineck.dataset.records import LEFT_OUT, DatasetError, Defect, Picture, Reading
from mutineck.dataset.voc import documents_of
from mutineck.study.inputs import ExternalInput


def pictures_layout(root: Path) -> Layout:
    """Return a folder as pictures without labels, whatever else lies in it."""
    return Layout("pictures", "pictures without labels", (Part("", root.name, root, (root,)),), root)


def pictures_inputs(layout: Layout) -> Iterator[ExternalInput]:
    """Yield what counts of the folder: the names of its pictures."""
    yield ExternalInput(str(layout.base), "names", PICTURE_SUFFIXES)


def read_pictures_layout(root: Path, layout: Layout) -> Reading:
    """Read every picture of a folder and of the folders in it into one document without categories.

    Raises:
        DatasetError: no picture can be used.
    """
    reading = Reading({})
    pictures: list[Picture] = []
    files = PictureFiles(layout.base)
    for name in tqdm([*files.files, *files.unwritable], desc=f"reading {root.name}", unit="file", disable=None):
        health = inspect_picture(root / name)
        problem = "its name is not UTF-8" if name in files.unwritable else health.problem
        if problem:
            reading.defects.append(Defect(name, "file", UNREADABLE, LEFT_OUT, problem))
        else:
            pictures.append(Picture(name, health.width, health.height))
    if not pictures:
        raise DatasetError(
            f"{root}: no usable picture in it (endings that are read: {' '.join(PICTURE_SUFFIXES)})", reading.defects
        )
    reading.documents = documents_of(pictures, ())
    return reading
