"""Folders with Pascal VOC's annotations: which pictures they hold, and what is wrong with their files."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
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
    WRONG_SIZE,
    PictureHealth,
    changed_since,
    inspect_picture,
    upright_bbox,
)
from mutineck.dataset.layouts import Layout, Part
from mutineck.dataset.masks import MIN_OVERLAP, box_overlap, encode_mask, read_object_masks
from mutineck.dataset.picture_files import PictureFiles, alike, data_files, written_parts
from mutineck.dataset.records import (
    KEPT,
    LEFT_OUT,
    REPAIRED,
    CategoryNames,
    DatasetError,
    Defect,
    Picture,
    Reading,
    turned_hint,
)
from mutineck.dataset.voc import documents_of, picture_from_voc
from mutineck.dataset.voc_layout import LISTS, MASKS, list_file, part_folder
from mutineck.dataset.voc_xml import UNREADABLE_XML, VocImage, read_voc_xml

ELSEWHERE = "filename points elsewhere"
OTHER_NAME = "filename of another image"
DUPLICATE = "duplicate name"
NO_ANNOTATION = "image without an annotation"
NO_MASK = "unusable mask"
LISTED = re.compile(r"(?P<name>.*?)(?:\s+[-+]?\d+)?\s*")
"""A line of a list: a name, and in lists of one category 1, 0 or -1."""


def read_voc(root: Path, layout: Layout, names: CategoryNames, offset: int = 1) -> Reading:
    """Read every annotated picture of a layout into one document, or one for each of its splits.

    See `read_pictures` for the arguments.

    Raises:
        DatasetError: no picture can be used, or no object of a category that is wanted.
    """
    pictures, reading = read_pictures(root, layout, names, offset)
    reading.documents = documents_of(pictures, _categories(pictures, names, root, reading.defects))
    return reading


def read_pictures(root: Path, layout: Layout, names: CategoryNames, offset: int = 1) -> tuple[list[Picture], Reading]:
    """Return every annotated picture of a layout, by name, and what else was found.

    Where ImageSets/Main names pictures, those alone are read: VOC2012 holds others that are annotated for
    people only.

    Args:
        root: the data set's root, which names are given relative to.
        layout: what `find_voc` has found.
        names: which names are categories.
        offset: see `mutineck.dataset.boxes.corners_to_bbox`.
    """
    pictures: list[Picture] = []
    reading = Reading({})
    digest = hashlib.sha256()
    not_listed = 0
    counts: Counter[str] = Counter()
    for part in layout.parts:
        reader = VocFolder(root, part, names, offset)
        stems = reader.stems()
        not_listed += reader.not_listed
        for stem in tqdm(stems, desc=f"reading {part.name}", unit="file", disable=None):
            picture = reader.read(stem, digest)
            if picture is not None:
                pictures.append(picture)
                for split in reader.lists_of(stem):
                    reading.lists.setdefault(split, set()).add(picture.file_name)
        reader.add_unannotated()
        reading.defects += reader.defects
        reading.found += reader.found
        counts += reader.counts
    reading.notes = {"sha256": digest.hexdigest(), "not_listed": not_listed}
    reading.hints = _hints(counts, offset)
    if not_listed:
        reading.hints.append(f"{not_listed} annotation files are named in no list of ImageSets/Main: they are not read")
    return sorted(pictures, key=lambda picture: picture.file_name), reading


def _categories(pictures: list[Picture], names: CategoryNames, root: Path, defects: list[Defect]) -> tuple[str, ...]:
    if not pictures:
        raise DatasetError(f"{root}: no usable image in it", defects)
    found = {name for picture in pictures for name in picture.categories()}
    categories = names.order(found)
    absent = [name for name in categories if name not in found]
    if absent or not found:
        raise DatasetError(
            f"dataset.categories: no object of {', '.join(absent) or 'any category'} in {root}; "
            f"it has {', '.join(sorted(found)) or 'none'}",
            defects,
        )
    return categories


def _hints(counts: Counter[str], offset: int) -> list[str]:
    hints = []
    if counts["from zero"] and offset:
        hints.append(
            f"{counts['from zero']} of {counts['boxes']} boxes begin at 0, where Pascal VOC's pixels count from 1: "
            "if the tool counts from 0, --set dataset.voc_offset=0"
        )
    if counts["turned"]:
        hints.append(turned_hint(counts["turned"]))
    return hints


class VocFolder:
    """One part in VOC's layout; collects defects while it is read.

    Args:
        root: folder that names are given relative to.
        part: its annotations and pictures.
        names: which names are categories.
        offset: 1 or 0, see `mutineck.dataset.boxes.corners_to_bbox`.

    Attributes:
        counts: boxes, and those of them that are turned, or begin at coordinate 0.
        found: ``images`` and ``objects`` that are there, those that are left out included.
    """

    def __init__(self, root: Path, part: Part, names: CategoryNames, offset: int) -> None:
        self.root, self.part, self.names, self.offset = root, part, names, offset
        self.folder = part_folder(part)
        self.defects: list[Defect] = []
        self.counts: Counter[str] = Counter()
        self.found: Counter[str] = Counter()
        self.not_listed = 0
        self.annotations = self._by_stem(part.annotations, ".xml")
        self.pictures = PictureFiles(part.pictures[0], below=part.deep)
        self.masks = self._by_stem(self.folder / MASKS, ".png", ".bmp", ".tif", ".tiff")
        self.lists = {name: self._list(name) for name in LISTS}
        self._taken: dict[str, str] = {}
        self._names = Counter(stem.rpartition("/")[2] for stem in self.annotations)

    def _by_stem(self, folder: Path, *suffixes: str) -> dict[str, str]:
        """Return path without ending -> path, relative to the folder; of two of one name the first counts."""
        files: dict[str, str] = {}
        for name in data_files(folder, suffixes, below=self.part.deep):
            if _stem(name) in files:
                detail = f"{files[_stem(name)]} has the same name"
                self._add(folder / name, "file", DUPLICATE, LEFT_OUT, detail)
            else:
                files[_stem(name)] = name
        return files

    def _list(self, name: str) -> set[str]:
        """Return the annotations (paths without ending) that a list names, and of other lines what may be meant."""
        path = list_file(self.part, name)
        if not path.is_file():
            return set()
        known: dict[str, str] = {}
        ambiguous: set[str] = set()
        for stem in (*self.annotations, *map(_stem, self.pictures.files)):
            for key in dict.fromkeys((stem, alike(stem), alike(stem.rpartition("/")[2]))):
                if known.setdefault(key, stem) != stem:
                    ambiguous.add(key)
        for key in ambiguous - set(self.annotations):
            del known[key]
        found = set()
        for line in filter(None, map(str.strip, path.read_text(encoding="utf-8-sig", errors="replace").splitlines())):
            readings = [*_list_readings(line)]
            stems = (known[key] for reading in readings for key in (reading, alike(reading)) if key in known)
            found.add(next(stems, readings[-1]))
        return found

    def lists_of(self, stem: str) -> list[str]:
        """Return the official lists that name a picture."""
        return [name for name, stems in self.lists.items() if stem in stems]

    def stems(self) -> list[str]:
        """Return the names to read, sorted: those with an annotation, and listed, if there are lists."""
        listed = set().union(*self.lists.values())
        self.not_listed = len(set(self.annotations) - listed) if listed else 0
        self.found["images"] += len(listed or self.annotations)
        for stem in sorted(listed - set(self.annotations)):
            if not self.pictures.with_stem(stem)[0]:
                detail = "named in ImageSets/Main, not there"
                self._add(self.part.annotations / f"{stem}.xml", "file", NO_ANNOTATION, LEFT_OUT, detail)
        return sorted(set(self.annotations) & listed if listed else self.annotations)

    def add_unannotated(self) -> None:
        """Make a defect of every (listed) picture that no annotation has named; call it last."""
        listed = set().union(*self.lists.values())
        self.found["images"] += len(self.pictures.unwritable)
        for file in self.pictures.unwritable:
            self._add(self._picture(file), "file", UNREADABLE, LEFT_OUT, "its name is not UTF-8")
        for file in self.pictures.files:
            stem = _stem(file)
            if file in self._taken or (listed and stem not in listed):
                continue
            twin = next((each for each in self.pictures.with_stem(stem)[0] if each in self._taken), None)
            self.found["images"] += twin is not None or (stem not in self.annotations and not listed)
            if twin is not None:
                self._add(self._picture(file), "file", DUPLICATE, LEFT_OUT, f"{twin} has the same name")
            elif stem not in self.annotations:
                self._add(self._picture(file), "file", NO_ANNOTATION, LEFT_OUT)

    def read(self, stem: str, digest: Any = None) -> Picture | None:
        """Read one annotation and its picture; None, with a defect, if either cannot be used."""
        file = self.part.annotations / self.annotations[stem]
        try:
            content = file.read_bytes()
        except OSError as error:
            self._add(file, "file", UNREADABLE_XML, LEFT_OUT, type(error).__name__)
            return None
        if digest is not None:
            label = file.relative_to(self.folder).as_posix()
            digest.update(f"{label}\0{len(content)}\0".encode("utf-8", "surrogatepass") + content)
        record, found = read_voc_xml(content, self._name(file))
        self.defects += found
        self.found["objects"] += sum(defect.field.startswith("object[") for defect in found)
        if record is not None:
            unwanted = sum(self.names.resolve(item.name) == (None, "") for item in record.objects)
            self.found["objects"] += len(record.objects) - unwanted
        name = self._picture_name(record, stem, file) if record is not None else None
        if record is None or name is None:
            return None
        health = inspect_picture(self._picture(name))
        if health.problem:
            self._add(self._picture(name), "file", UNREADABLE, LEFT_OUT, health.problem)
            return None
        sized = self._at_true_size(record, health, file)
        if sized is None:
            return None
        self._count(sized)
        picture, found = picture_from_voc(
            sized,
            self._name(self._picture(name)),
            health.width,
            health.height,
            self.names,
            self.offset,
            file=self._name(file),
        )
        picture.split = self.part.split
        self.defects += found
        self._add_masks(picture, stem, health)
        return picture

    def _count(self, record: VocImage) -> None:
        self.counts["boxes"] += len(record.objects)
        self.counts["turned"] += sum(item.rotation % 180 != 0 for item in record.objects)
        self.counts["from zero"] += sum(0 in item.corners[:2] for item in record.objects)

    def _picture_name(self, record: VocImage, stem: str, file: Path) -> str | None:
        """Return the picture's name: the annotation's own first, as VOC has it, then its `filename`.

        Of several pictures of the annotation's name, `filename` says which.
        """
        parts = written_parts(record.filename)
        written = parts[-1] if parts else ""
        own, of_name = self.pictures.with_stem(stem)
        if not own and len(of_name) == 1 and self._names[stem.rpartition("/")[2]] == 1:
            own = of_name  # in another folder, where no other annotation is called so
        said = self.pictures.find(record.filename).file
        if not said and written:
            of_written = self.pictures.with_stem(_stem(written))[1]
            said = of_written[0] if len(of_written) == 1 else ""
        name = said if said in own or not own else own[0]
        if len(own) > 1 and said not in own:
            detail = f"{', '.join(own[:3])}: which is meant? filename is {record.filename[:100]!r}"
            self._add(file, "filename", DUPLICATE, LEFT_OUT, detail)
            return None
        if not name:
            where = self._name(self.part.pictures[0])
            detail = f"neither {stem}.* nor {written[:100]!r} in {where}/"
            self._add(file, "filename", MISSING, LEFT_OUT, detail)
            return None
        whole = "/" + self._name(self._picture(name))
        if re.search(r"[/\\]", record.filename) and not whole.endswith("/" + record.filename):
            detail = f"read as {self._name(self._picture(name))}: {record.filename}"
            self._add(file, "filename", ELSEWHERE, REPAIRED, detail)
        elif own and said and said != name:
            detail = f"{written} written, {name} used as the file's own name says"
            self._add(file, "filename", OTHER_NAME, REPAIRED, detail)
        owner = _stem(name) if not own and _stem(name) in self.annotations else None
        if name in self._taken or owner is not None:
            annotated = self._taken.get(name) or self.annotations[owner or stem]
            self._add(file, "filename", DUPLICATE, LEFT_OUT, f"{name} is annotated by {annotated} already")
            return None
        self._taken[name] = self._name(file)
        return name

    def _at_true_size(self, record: VocImage, health: PictureHealth, file: Path) -> VocImage | None:
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
        if 0 in written:
            self._add(file, "size", WRONG_SIZE, REPAIRED, detail)
            return replace(record, width=true[0], height=true[1])
        # Boxes refer to the size that is written; how they lie on the true one is unknown
        self._add(file, "size", WRONG_SIZE, LEFT_OUT, detail + changed_since(written, true))
        return None

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
        file = self.folder / MASKS / self.masks[stem]
        numbers, problem = read_object_masks(file, (health.width, health.height))
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

    def _picture(self, name: str) -> Path:
        return self.part.pictures[0] / name

    def _name(self, file: Path) -> str:
        return file.relative_to(self.root).as_posix()

    def _add(self, file: Path, field: str, reason: str, action: Any, detail: str = "") -> None:
        self.defects.append(Defect(self._name(file), field, reason, action, detail))


def _stem(name: str) -> str:
    """Return a path without its ending; ``a.b.jpg`` is ``a.b``."""
    head, dot, tail = name.rpartition(".")
    return head if dot and "/" not in tail else name


def _list_readings(line: str) -> Iterator[str]:
    """Yield what a line of a list may name: as it is, without the 1 or -1 behind it, in quotes, with an ending or path.

    The last is what a line names that fits nothing.
    """
    quoted = re.fullmatch(r'"(.*)"(?:\s+[-+]?\d+)?', line)
    match = LISTED.fullmatch(line)
    named = quoted.group(1) if quoted else match.group("name") if match else line
    for name in dict.fromkeys((line, named)):
        for path in (name, "/".join(written_parts(name))):
            has_ending = path.lower().endswith((".xml", *PICTURE_SUFFIXES))
            plain = _stem(path) if has_ending else path
            yield plain
            yield plain.rpartition("/")[2]


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
