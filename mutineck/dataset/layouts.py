"""What a folder was taken for: the parts of a data set, and the words by which folders and files name its splits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a data set as it lies in a folder.

    Attributes:
        split: ``train``, ``val`` or ``test`` where the data set says so, else empty: it is to be divided.
        name: what it is called there, such as ``valid``, ``VOC2007``.
        annotations: file or folder of its annotations.
        pictures: folders that its pictures may lie in, the likeliest first, or a list of pictures.
        deep: whether sub-folders belong to it.
    """

    split: str
    name: str
    annotations: Path
    pictures: tuple[Path, ...]
    deep: bool = True


@dataclass(frozen=True, slots=True)
class Layout:
    """What a folder was taken for.

    Attributes:
        format: ``voc``, ``coco``, ``yolo`` or ``pictures``.
        title: what people call it, such as ``Roboflow's COCO export``.
        parts: its parts: one undivided or several, or at most one for each split.
        base: the folder itself; it may lie below the data set's root.
        classes: file that holds the categories, where they are in one of their own.
        remarks: sentences about what is there and not read, or named and not there.
    """

    format: Literal["voc", "coco", "yolo", "pictures"]
    title: str
    parts: tuple[Part, ...]
    base: Path
    classes: Path | None = None
    remarks: tuple[str, ...] = ()


SPLITS = ("train", "val", "test")
SPLIT_WORDS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
"""What the splits are called, in small letters."""


def split_of(word: str) -> str:
    """Return the split that a word names, in any case, or an empty string."""
    return next((split for split, words in SPLIT_WORDS.items() if word.lower() in words), "")


def split_words(*splits: str) -> tuple[str, ...]:
    """Return what some splits, or all, are called as folders are, small and with a capital."""
    words = (word for split in splits or SPLITS for word in SPLIT_WORDS[split])
    return tuple(form for word in words for form in (word, word.capitalize()))


def split_folders(base: Path) -> Iterator[tuple[Path, str]]:
    """Yield the folders that are called as a split is, and which: train, val, test in turn."""
    if base.is_dir():
        found = [(path, split_of(path.name)) for path in sorted(base.iterdir()) if path.is_dir()]
        yield from sorted((each for each in found if each[1]), key=lambda each: SPLITS.index(each[1]))
