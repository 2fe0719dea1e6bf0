"""The same picture twice: by name, by content, or as augmented copies of one photograph."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mutineck.dataset.layouts import SPLITS
from mutineck.dataset.records import KEPT, Defect
from mutineck.system.files import sha256_file

IN_TWO_SPLITS = "picture in two splits"
REPEATED = "picture there twice"
AUGMENTED = re.compile(r"(?:.*/)?([^/]+)\.rf\.[0-9A-Za-z_-]{4,}\.\w+")
"""Roboflow's names of the augmented copies of a photograph: ``NAME_jpg.rf.HASH.jpg``."""
TAIL = 4096
"""Last bytes of a file that are compared before the whole is: of two photographs they never agree."""


def photograph(name: str) -> str:
    """Return what a picture is a copy of by its name: itself, or the photograph that Roboflow augmented."""
    found = AUGMENTED.fullmatch(name)
    return found.group(1) if found else name


def same_content(root: Path, names: Iterable[str]) -> dict[str, str]:
    """Return picture -> the first picture (by name) with the same bytes, for those that are not the first.

    Only files of equal size are opened, and only those with equal ends read whole.

    Args:
        root: folder that the names are relative to.
        names: pictures that can be read.
    """
    sizes: dict[Any, list[str]] = {}
    for name in sorted(set(names)):
        sizes.setdefault(os.path.getsize(root / name), []).append(name)
    ends: dict[Any, list[str]] = {}
    for size, alike in sizes.items():
        for name in alike if len(alike) > 1 else ():
            ends.setdefault((size, _end(root / name)), []).append(name)
    first: dict[Any, str] = {}
    copies = {}
    for alike in ends.values():
        for name in alike if len(alike) > 1 else ():
            original = first.setdefault(sha256_file(root / name), name)
            if original != name:
                copies[name] = original
    return copies


def _end(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, os.path.getsize(path) - TAIL))
        return hashlib.sha256(file.read()).hexdigest()


def find_repeats(
    documents: Mapping[str, Mapping[str, Any]], copies: Mapping[str, str]
) -> tuple[list[Defect], list[str]]:
    """Return a defect for each picture that is in two splits or twice in one, and a sentence for each kind.

    Args:
        documents: COCO documents of the splits; one that stands for two splits counts once.
        copies: picture -> the one with the same bytes, see `same_content`.
    """
    defects: list[Defect] = []
    shared: dict[tuple[str, str], list[str]] = {}
    twice: list[str] = []
    seen: dict[str, tuple[str, str]] = {}
    originals: dict[str, tuple[str, str]] = {}
    for split in SPLITS:
        if split == "test" and documents["test"] is documents["val"]:
            continue
        here: list[tuple[str, str]] = []
        for image in documents[split]["images"]:
            name = image["file_name"]
            original = copies.get(name, name)
            there = seen.get(original) or originals.get(photograph(original))
            if original in seen and seen[original][1] == split:
                twice.append(name)
                defects.append(Defect(name, "file", REPEATED, KEPT, f"the same bytes as {seen[original][0]}"))
            elif there is not None and there[1] != split:
                shared.setdefault((split, there[1]), []).append(name)
                what = "the same bytes as" if original in seen else "from the same photograph as"
                detail = f"in {split}, {what} {there[0]} in {there[1]}"
                defects.append(Defect(name, "file", IN_TWO_SPLITS, KEPT, detail))
            seen.setdefault(original, (name, split))
            here.append((photograph(original), name))
        for key, name in here:
            originals.setdefault(key, (name, split))
    hints = [
        f"{len(names)} of {len(documents[split]['images'])} pictures of {split} are in {other}, too, such as "
        f"{names[0]}: what is measured on {split} says little about new pictures"
        for (split, other), names in shared.items()
    ]
    if twice:
        hints.append(f"{len(twice)} pictures are there twice, such as {twice[0]}; both stay, on the same side")
    return defects, hints
