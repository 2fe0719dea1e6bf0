"""Folders in Pascal VOC's layout: which pictures they hold, and what is wrong with their files."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mutineck.dataset.boxes import bbox_to_corners, corners_to_bbox, order_corners
from mutineck.dataset.images import (
    MISSING,
    PICTURE_SUFFIXES,
    TURN_UNSAID,
    UNREADABLE,
    PictureHealth,
    inspect_picture,
    upright_bbox,
)
from mutineck.dataset.masks import MIN_OVERLAP, box_overlap, encode_mask, read_object_masks
from mutineck.dataset.records import KEPT, LEFT_OUT, REPAIRED, CategoryNames, DatasetError, Defect, Picture
from mutineck.dataset.voc import picture_from_voc
from mutineck.dataset.voc_xml import UNREADABLE_XML, VocImage, read_voc_xml

ELSEWHERE = "filename points elsewhere"
OTHER_NAME = "filename of another image"
DUPLICATE = "duplicate name"
WRONG_SIZE = "wrong image size"
NO_ANNOTATION = "image without an annotation"
NO_MASK = "unusable mask"
LISTS = ("train", "val", "trainval", "test")
MASKS = "SegmentationObject"


def find_voc_folders(root: Path) -> list[Path]:
    """Return the folders with Annotations/ and JPEGImages/: the root itself, or VOC2007, VOC2012 ... in it.

    Raises:
        DatasetError: there is none.
    """
    for base in (root, root / "VOCdevkit"):
        candidates = [base, *sorted(base.glob("VOC*"))]
        found = [folder for folder in candidates if _has_layout(folder)]
        if found:
            return found
    raise DatasetError(
        f"dataset.root: {root} has no Annotations/ beside JPEGImages/, neither itself nor in VOC2007/, "
        "VOC2012/ or VOCdevkit/. Name such a folder with --set dataset.root=PATH"
    )


def _has_layout(folder: Path) -> bool:
    return (folder / "Annotations").is_dir() and (folder / "JPEGImages").is_dir()


def read_voc_folders(
    root: Path, names: CategoryNames, offset: int = 1
) -> tuple[list[Picture], list[Defect], dict[str, Any]]:
    """Read every annotated picture below a root, in the order of their names.

    Where ImageSets/Main names pictures, those alone are read: VOC2012 holds others that are annotated for
    people only.

    Args:
        root: folder in VOC layout, or one that holds several.
        names: which names are categories.
        offset: see :func:`mutineck.dataset.boxes.corners_to_bbox`.

    Returns:
        Pictures with ``file_name`` relative to ``root``, defects, and notes: the content's hash, the official
        lists.
    """
    pictures: list[Picture] = []
    defects: list[Defect] = []
    digest = hashlib.sha256()
    lists: dict[str, set[str]] = {}
    not_listed = 0
    for folder in find_voc_folders(root):
        reader = VocFolder(root, folder, names, offset)
        stems = reader.stems()
        not_listed += reader.not_listed
        for stem in tqdm(stems, desc=f"reading {folder.name}", unit="file", disable=None):
            picture = reader.read(stem, digest)
            if picture is not None:
                pictures.append(picture)
                for split in reader.lists_of(stem):
                    lists.setdefault(split, set()).add(picture.file_name)
        reader.add_unannotated()
        defects += reader.defects
    notes = {"sha256": digest.hexdigest(), "not_listed": not_listed, "lists": lists}
    return pictures, defects, notes


class VocFolder:
    """One folder in VOC layout; collects defects while it is read.

    Args:
        root: folder that names are given relative to.
        folder: the folder with Annotations/ and JPEGImages/.
        names: which names are categories.
        offset: 1 or 0, see :func:`mutineck.dataset.boxes.corners_to_bbox`.
    """

    def __init__(self, root: Path, folder: Path, names: CategoryNames, offset: int) -> None:
        self.root, self.folder, self.names, self.offset = root, folder, names, offset
        self.defects: list[Defect] = []
        self.not_listed = 0
        self.annotations = self._files("Annotations", (".xml",))
        self.pictures = self._files("JPEGImages", PICTURE_SUFFIXES)
        self.masks = self._files(MASKS, (".png", ".bmp", ".tif", ".tiff")) if (folder / MASKS).is_dir() else {}
        self.lists = {name: self._list(name) for name in LISTS}
        self._taken: dict[str, str] = {}

    def _files(self, folder: str, suffixes: Sequence[str]) -> dict[str, str]:
        """Return stem -> file name, hidden files apart; of two files of one stem the first counts."""
        files: dict[str, str] = {}
        for path in sorted((self.folder / folder).iterdir()):
            if path.name.startswith(".") or path.suffix.lower() not in suffixes:
                continue
            if path.stem in files:
                detail = f"{files[path.stem]} has the same name"
                self._add(f"{folder}/{path.name}", "file", DUPLICATE, LEFT_OUT, detail)
            else:
                files[path.stem] = path.name
        return files

    def _list(self, name: str) -> set[str]:
        path = self.folder / "ImageSets" / "Main" / f"{name}.txt"
        if not path.is_file():
            return set()
        lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
        return {words[0] for words in map(str.split, lines) if words}

    def lists_of(self, stem: str) -> list[str]:
        """Return the official lists that name a picture."""
        return [name for name, stems in self.lists.items() if stem in stems]

    def stems(self) -> list[str]:
        """Return the names to read, sorted: those with an annotation, and listed, if there are lists."""
        listed = set().union(*self.lists.values())
        self.not_listed = len(set(self.annotations) - listed) if listed else 0
        for stem in sorted(listed - set(self.annotations) - set(self.pictures)):
            detail = "named in ImageSets/Main, not there"
            self._add(f"Annotations/{stem}.xml", "file", NO_ANNOTATION, LEFT_OUT, detail)
        return sorted(set(self.annotations) & listed if listed else self.annotations)

    def add_unannotated(self) -> None:
        """Make a defect of every (listed) picture that no annotation has named; call it last."""
        listed = set().union(*self.lists.values()) or set(self.pictures)
        for stem in sorted(listed & set(self.pictures) - set(self.annotations)):
            if self.pictures[stem] not in self._taken:
                self._add(f"JPEGImages/{self.pictures[stem]}", "file", NO_ANNOTATION, LEFT_OUT)

    def read(self, stem: str, digest: Any = None) -> Picture | None:
        """Read one annotation and its picture; None, with a defect, if either cannot be used."""
        file = f"Annotations/{self.annotations[stem]}"
        try:
            content = (self.folder / file).read_bytes()
        except OSError as error:
            self._add(file, "file", UNREADABLE_XML, LEFT_OUT, type(error).__name__)
            return None
        if digest is not None:
            digest.update(f"{file}\0{len(content)}\0".encode("utf-8", "surrogatepass") + content)
        record, found = read_voc_xml(content, self._name(file))
        self.defects += found
        name = self._picture_name(record, stem, file) if record is not None else None
        if record is None or name is None:
            return None
        health = inspect_picture(self.folder / "JPEGImages" / name)
        if health.problem:
            self._add(f"JPEGImages/{name}", "file", UNREADABLE, LEFT_OUT, health.problem)
            return None
        sized = self._at_true_size(record, health, file)
        if sized is None:
            return None
        picture, found = picture_from_voc(
            sized,
            self._name(f"JPEGImages/{name}"),
            health.width,
            health.height,
            self.names,
            self.offset,
            file=self._name(file),
        )
        self.defects += found
        self._add_masks(picture, stem, health)
        return picture

    def _picture_name(self, record: VocImage, stem: str, file: str) -> str | None:
        """Return the picture's name: the annotation's own stem first, as VOC has it, then its `filename`."""
        parts = [part for part in re.split(r"[/\\]", record.filename) if part]
        if ".." in parts:
            self._add(file, "filename", ELSEWHERE, LEFT_OUT, record.filename)
            return None
        written = parts[-1] if parts else ""
        own = self.pictures.get(stem)
        exact = self.pictures.get(Path(written).stem)
        name = own or exact
        if name is None:
            self._add(file, "filename", MISSING, LEFT_OUT, f"neither {stem}.* nor {written[:100]!r} in JPEGImages/")
            return None
        if len(parts) > 1 or record.filename[:1] in ("/", "\\"):
            self._add(file, "filename", ELSEWHERE, REPAIRED, f"read as JPEGImages/{name}: {record.filename}")
        elif own and exact and exact != own:
            self._add(
                file,
                "filename",
                OTHER_NAME,
                REPAIRED,
                f"{written} written, {own} used as the file's own name says",
            )
        if name in self._taken:
            self._add(file, "filename", DUPLICATE, LEFT_OUT, f"{name} is annotated by {self._taken[name]} already")
            return None
        try:
            name.encode("utf-8")
        except UnicodeEncodeError:
            self._add(file, "filename", MISSING, LEFT_OUT, "the picture's name is not UTF-8")
            return None
        self._taken[name] = file
        return name

    def _at_true_size(self, record: VocImage, health: PictureHealth, file: str) -> VocImage | None:
        """Return the record at the picture's displayed size, or None where its boxes may refer to another."""
        true, stored = (health.width, health.height), health.stored_size
        written = (record.width, record.height)
        if written == true:
            if health.turn_unsaid:
                self._add(file, "size", TURN_UNSAID, KEPT, health.turn_unsaid)
            return record
        detail = f"{written[0]}x{written[1]} written, {true[0]}x{true[1]} in the file"
        if written == stored:
            self._add(file, "size", WRONG_SIZE, REPAIRED, f"{detail}: boxes turned as the picture's EXIF says")
            return self._upright(record, stored, health.orientation)
        if 0 not in written and self._is_rescaled(written, true):
            self._add(file, "size", WRONG_SIZE, LEFT_OUT, f"{detail}: resized after it was annotated?")
            return None
        if 0 not in written and any(
            max(item.corners[0::2]) > true[0] + 1 or max(item.corners[1::2]) > true[1] + 1 for item in record.objects
        ):
            self._add(file, "size", WRONG_SIZE, LEFT_OUT, f"{detail}, and boxes that do not fit the file")
            return None
        self._add(file, "size", WRONG_SIZE, REPAIRED, detail)
        return replace(record, width=true[0], height=true[1])

    @staticmethod
    def _is_rescaled(written: tuple[int, int], true: tuple[int, int]) -> bool:
        # Same shape up to rounding: the picture was resized, it seems; were its boxes?
        return abs(written[0] * true[1] - written[1] * true[0]) <= max(*written, *true)

    def _upright(self, record: VocImage, stored: tuple[int, int], orientation: int) -> VocImage:
        objects = []
        for item in record.objects:
            corners, _ = order_corners(item.corners)
            bbox = upright_bbox(corners_to_bbox(corners, self.offset), stored, orientation)
            turned = bbox_to_corners(bbox, self.offset)
            objects.append(replace(item, corners=(turned[0], turned[1], turned[2], turned[3])))
        return replace(record, width=record.height, height=record.width, objects=tuple(objects))

    def _add_masks(self, picture: Picture, stem: str, health: PictureHealth) -> None:
        if stem not in self.masks or not picture.objects:
            return
        file = f"{MASKS}/{self.masks[stem]}"
        numbers, problem = read_object_masks(self.folder / file, (health.width, health.height))
        if numbers is None:
            self._add(file, "file", NO_MASK, LEFT_OUT, problem)
            return
        for item in picture.objects:
            mask = np.asarray(numbers == item["index"])
            overlap = box_overlap(mask, item["bbox"])
            if overlap < MIN_OVERLAP:
                detail = f"box of mask and box of object overlap by {overlap:.2f}" if mask.any() else "no pixel"
                self._add(file, f"object[{item['index']}]", NO_MASK, LEFT_OUT, detail)
            else:
                item["segmentation"] = encode_mask(mask)
                item["area"] = int(mask.sum())

    def _name(self, file: str) -> str:
        return (self.folder / file).relative_to(self.root).as_posix()

    def _add(self, file: str, field: str, reason: str, action: Any, detail: str = "") -> None:
        self.defects.append(Defect(self._name(file), field, reason, action, detail))


def official_split(lists: dict[str, set[str]], names: Iterable[str]) -> dict[str, int]:
    """Return name -> 0, 1, 2 as the lists in ImageSets/Main divide them; what is in none of them is left out.

    Raises:
        DatasetError: a list is missing, empty, or shares pictures with another.
    """
    parts: dict[str, int] = {}
    for index, split in enumerate(("train", "val", "test")):
        if not lists.get(split):
            raise DatasetError(
                f"ImageSets/Main/{split}.txt is missing or empty: divide anew, --set dataset.split=[8,1,1]"
            )
        shared = parts.keys() & lists[split]
        if shared:
            raise DatasetError(
                f"ImageSets/Main/{split}.txt shares {len(shared)} images with another list: {min(shared)}"
            )
        parts |= dict.fromkeys(lists[split] & set(names), index)
    return parts
