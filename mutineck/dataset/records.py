"""What the readers of annotation files hand on: pictures with objects, and the defects met on the way."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

REPAIRED: Literal["repaired"] = "repaired"
LEFT_OUT: Literal["left out"] = "left out"
KEPT: Literal["kept"] = "kept"
LONGEST_DETAIL = 200


@dataclass(frozen=True, slots=True)
class Defect:
    """One thing wrong with the data as it came, and what was done about it: one line of plain text.

    What a line or UTF-8 cannot hold is written as escapes, and a long detail is cut.

    Attributes:
        file: file that holds it, relative to the data set's root.
        field: where in the file, such as ``object[3].bndbox``.
        reason: short fixed phrase to count by.
        action: ``repaired`` where the repair is certain, else ``left out``; ``kept`` where it may be right as it is.
        detail: what exactly was found.
    """

    file: str
    field: str
    reason: str
    action: Literal["repaired", "left out", "kept"]
    detail: str = ""

    def __post_init__(self) -> None:
        for name, longest in (("file", None), ("field", None), ("detail", LONGEST_DETAIL)):
            object.__setattr__(self, name, one_line(getattr(self, name))[:longest])

    @property
    def place(self) -> str:
        """Where it is, and what was found there."""
        return f"{self.file}: {self.field}" + (f" ({self.detail})" if self.detail else "")

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}: {self.action}"


class DatasetError(ValueError):
    """A data set that cannot be used as it is; the message names file, field and remedy.

    Args:
        message: one or more sentences.
        defects: what was wrong with the data so far: the message ends with them, by reason.
    """

    def __init__(self, message: str, defects: Sequence[Defect] = ()) -> None:
        super().__init__("\n".join([message, *grouped(defects)]))
        self.defects = list(defects)


def refuse_defects(defects: Sequence[Defect]) -> None:
    """Raise if there is any defect: what `dataset.strict` asks for.

    Raises:
        DatasetError: how many there are, by reason.
    """
    if not defects:
        return
    raise DatasetError(
        f"dataset.strict: {len(defects)} defects in the data set, of which none is accepted "
        "(mend the files, or set dataset.strict=false to repair or leave out):",
        defects,
    )


def grouped(defects: Iterable[Defect], shown: int = 5) -> list[str]:
    """Return a line for each reason, the most frequent first: how many, what was done, and which is the first."""
    groups: dict[tuple[str, str], list[Defect]] = {}
    for defect in defects:
        groups.setdefault((defect.reason, defect.action), []).append(defect)
    ordered = sorted(groups.items(), key=lambda group: -len(group[1]))
    lines = [
        f"  {len(found)} {action}: {reason}, first {found[0].place}" for (reason, action), found in ordered[:shown]
    ]
    more = sum(len(found) for _, found in ordered[shown:])
    return [*lines, f"  {more} of other reasons"] if more else lines


def lookalikes(categories: Iterable[str]) -> list[str]:
    """Return a sentence for the categories that differ in case, spaces or marks alone, with the setting to type."""
    groups: dict[str, list[str]] = {}
    for name in categories:
        groups.setdefault(_without_marks(name), []).append(name)
    alike = [names for names in groups.values() if len(names) > 1]
    if not alike:
        return []
    aliases = ", ".join(f"{name}: {names[0]}" for names in alike for name in names[1:])
    return [
        f"categories that differ in case or marks alone: {'; '.join(', '.join(names) for names in alike)}. "
        f"Where they are one, --set 'dataset.aliases={{{aliases}}}'"
    ]


def same_but_for_marks(name: str, other: str) -> bool:
    """Whether two names of categories differ in case, spaces or marks alone."""
    return name != other and _without_marks(name) == _without_marks(other)


def _without_marks(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold()) or name


def marked_hint(documents: Iterable[Mapping[str, Any]], treated: str) -> list[str]:
    """Return a sentence about the objects that are marked not to be learned, if there are any, and the setting to type.

    Args:
        documents: COCO documents.
        treated: `dataset.crowd`, what such objects are taken for.
    """
    items = [item for document in documents for item in document["annotations"]]
    marked = sum(item["iscrowd"] for item in items)
    what = f"{marked} of {len(items)} objects are marked difficult (VOC), or iscrowd or ignore (COCO)"
    means = {
        "ignored": "neither learned nor counted",
        "background": "background in training, not counted in evaluation",
        "objects": "learned and counted as any other, as dataset.crowd says",
    }
    remedy = "" if treated == "objects" else ". To take them as any other, --set dataset.crowd=objects"
    return [f"{what}: {means[treated]}{remedy}"] if marked else []


def turned_hint(count: int) -> str:
    """Return what is said of boxes that a tool keeps turned."""
    return f"{count} boxes are turned (attribute rotation): each is read as the upright box around it"


@dataclass(frozen=True, slots=True)
class CategoryNames:
    """Which category a name in the files stands for.

    Attributes:
        wanted: categories to keep, in order; None keeps every name that occurs.
        aliases: name in the files -> category; an empty category drops the name on purpose.
    """

    wanted: tuple[str, ...] | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.wanted is not None:
            object.__setattr__(self, "wanted", tuple(map(category_name, self.wanted)))
        aliases = {category_name(name): category_name(category) for name, category in self.aliases.items()}
        object.__setattr__(self, "aliases", aliases)

    def resolve(self, name: str) -> tuple[str | None, str]:
        """Return the category of a name, or None and why: '' if dropped on purpose, or the defect."""
        name = category_name(name)
        category = self.aliases.get(name, name)
        if not category:
            return None, ""
        if self.wanted is None or category in self.wanted:
            return category, ""
        close = difflib.get_close_matches(category, self.wanted, n=3)
        hint = f", close to {', '.join(close)}: see dataset.aliases" if close else ", not in dataset.categories"
        return None, f"{category!r}{hint}"

    def order(self, found: Iterable[str]) -> tuple[str, ...]:
        """Return the final categories: those wanted, or all found, sorted."""
        return self.wanted if self.wanted is not None else tuple(sorted(set(found)))


@dataclass(slots=True)
class Picture:
    """One picture and its objects, whatever format they came in.

    Attributes:
        file_name: path relative to the data set's root, with forward slashes.
        width, height: pixels as a training sees them, that is after EXIF rotation.
        objects: COCO annotations without ``id``, ``image_id`` and ``category_id``; ``category`` holds the
            name; ``bbox`` is ``[x, y, w, h]``, 0-based, ``x + w`` exclusive.
        extra: further keys for the COCO image record.
        split: ``train``, ``val`` or ``test`` where the data set is divided, else empty.
    """

    file_name: str
    width: int
    height: int
    objects: list[dict[str, Any]] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)
    split: str = ""

    def categories(self) -> set[str]:
        """Return the names of the categories that occur."""
        return {item["category"] for item in self.objects}


@dataclass(slots=True)
class Reading:
    """A data set as read, whatever its format.

    Attributes:
        documents: COCO documents by split; under the empty name one that is still to be divided. Names of pictures
            are relative to the data set's root.
        defects: in the order of the files.
        hints: sentences about what may be meant otherwise, each with the setting to type.
        lists: name of a list that comes with the data -> pictures in it (ImageSets of Pascal VOC).
        notes: for ``dataset.json``.
        found: how many ``images`` and ``objects`` there are, those that are left out included, and without the
            categories that the experiment does not want; nothing where that is not known.
        files: annotation files that were read, for the manifest; none where they are many.
    """

    documents: dict[str, dict[str, Any]]
    defects: list[Defect] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)
    lists: dict[str, set[str]] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    found: Counter[str] = field(default_factory=Counter)
    files: list[Path] = field(default_factory=list)

    def read(self) -> dict[str, int]:
        """Return how many ``images`` and ``objects`` were read."""
        return {
            key: sum(len(document[rows]) for document in self.documents.values())
            for key, rows in (("images", "images"), ("objects", "annotations"))
        }


@dataclass(slots=True)
class Source:
    """A data set as it leaves the stage: COCO documents by split, and what was wrong with it.

    Attributes:
        image_root: folder that ``file_name`` is relative to.
        splits: ``train``, ``val``, ``test`` -> COCO document.
        defects: in the order of the files.
        hints: see `Reading`.
        counts: how many ``images`` and ``objects`` were ``read``, and ``found``.
        notes: how the splits came about, for ``dataset.json``.
        hidden: split -> COCO document of the labels that the experiment hides in it.
    """

    image_root: str
    splits: dict[str, dict[str, Any]]
    defects: list[Defect]
    hints: list[str] = field(default_factory=list)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    hidden: dict[str, dict[str, Any]] = field(default_factory=dict)


def defect_rows(defects: Iterable[Defect]) -> list[dict[str, str]]:
    """Return defects as JSON-able rows."""
    return [asdict(defect) for defect in defects]


def category_name(text: str) -> str:
    """Return a category's name as it is compared and kept: Unicode's composed form, single spaces, printable."""
    return printable(" ".join(unicodedata.normalize("NFC", text).split()))


def printable(text: str) -> str:
    """Return text with lone surrogates, which UTF-8 cannot write, as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def one_line(text: str) -> str:
    """Return text whose control characters, line breaks and lone surrogates are escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
