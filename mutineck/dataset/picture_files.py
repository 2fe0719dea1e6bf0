"""The picture files of a folder, found by whatever a labelling tool wrote in the place of their path."""

from __future__ import annotations

import contextlib
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from mutineck.dataset.images import PICTURE_SUFFIXES
from mutineck.dataset.records import printable

NOT_DATA = ("__MACOSX",)
"""Folders that archives of macOS carry beside the data."""
UPLOADED = re.compile(r"[0-9a-f]{8}-(?=.)")
"""What Label Studio puts before the name of a file that is uploaded."""
SERVED = ("/data/local-files/", "/data/upload/")
"""How addresses begin that Label Studio gives without its host."""
SHOWN = 3


class Found(NamedTuple):
    """Where a picture lies that an annotation names.

    Attributes:
        file: path relative to the folder, with forward slashes; empty if there is none, or if several could be meant.
        moved: whether folders, an address or a prefix that was written had to be passed over to find it.
        problem: why there is none, or empty.
    """

    file: str
    moved: bool = False
    problem: str = ""


def data_files(folder: Path, suffixes: Sequence[str], *, below: bool = True) -> list[str]:
    """Return the files with one of the endings (small letters) in a folder, sorted, as paths relative to it.

    Hidden files, among them the ``._`` ones of macOS, and hidden folders are no data. With ``below`` false, sub-folders
    are not searched.
    """
    found = []
    for base, folders, names in os.walk(folder, followlinks=True):
        here = os.path.realpath(base) + os.sep
        folders[:] = [
            name
            for name in folders
            if below
            and not name.startswith(".")
            and name not in NOT_DATA
            # A link to a folder that it lies in itself would never end
            and not (
                os.path.islink(link := os.path.join(base, name)) and here.startswith(os.path.realpath(link) + os.sep)
            )
        ]
        within = Path(base).relative_to(folder).as_posix()
        prefix = "" if within == "." else within + "/"
        found += [prefix + name for name in names if name.lower().endswith(tuple(suffixes)) and name[0] != "."]
    return sorted(found)


def alike(name: str) -> str:
    """Return what two spellings of one file name have in common: Unicode's composed form, in small letters."""
    return unicodedata.normalize("NFC", name).casefold()


def written_parts(written: str) -> tuple[str, ...]:
    """Return the folders and the name that a path or address of any system is made of, ``.`` and ``..`` apart.

    Of an address the query's path counts (``?d=folder%2Fname.jpg``, as Label Studio serves local files), else what
    stands before the query.
    """
    if "://" in written or written.startswith(SERVED):
        with contextlib.suppress(ValueError):  # no address after all: "http://["
            address = urlsplit(written)
            written = parse_qs(address.query).get("d", [unquote(address.path)])[0]
    parts = [part for part in re.split(r"[/\\]", written) if part not in ("", ".")]
    leading = max((index + 1 for index, part in enumerate(parts) if part == ".." or part.endswith(":")), default=0)
    return tuple(parts[leading:])


class PictureFiles:
    """The pictures below a folder.

    Args:
        root: the folder; names are relative to it.
        below: whether sub-folders are searched.

    Attributes:
        files: their paths, sorted; without names that UTF-8 cannot write, which ``unwritable`` holds.
    """

    def __init__(self, root: Path, *, below: bool = True) -> None:
        self.root = root
        names = data_files(root, PICTURE_SUFFIXES, below=below)
        self.files = [name for name in names if printable(name) == name]
        self.unwritable = [name for name in names if printable(name) != name]
        self._exact = set(self.files)
        self._named: dict[str, list[str]] = {}
        self._stems: dict[str, list[str]] = {}
        for file in self.files:
            name = alike(file.rpartition("/")[2])
            self._named.setdefault(name, []).append(file)
            self._stems.setdefault(name.rpartition(".")[0], []).append(file)

    def find(self, written: str, bases: Sequence[str] = ("",), within: str = "") -> Found:
        """Return the picture that an annotation calls ``written``.

        The name is looked for in the folders of ``bases`` in turn (relative to the root, ``""`` is the root itself).
        Then as many of its leading folders as need be are passed over, and at last the prefix of an upload: the
        picture is found if below ``within`` one alone is called so, or one alone in the first of the bases that has
        any. Whatever is written, nothing outside the root is found.
        """
        parts = written_parts(written)
        if not parts:
            return Found("", problem="no file name")
        plain = [part for part in re.split(r"[/\\]", written) if part not in ("", ".")] == list(parts)
        moved = not plain or written[0] in "/\\"
        for path in (written, "/".join(parts)):
            for base in bases:
                file = f"{base}/{path}" if base else path
                if file in self._exact:
                    return Found(file, moved)
        for name, uploaded in ((parts[-1], False), (UPLOADED.sub("", parts[-1], count=1), True)):
            candidates = [file for file in self._named.get(alike(name), []) if _is_below(file, within)]
            for start in range(len(parts)):
                matching = [file for file in candidates if _ends_with(file, (*parts[start:-1], name))]
                for chosen in _narrowed(matching, name, bases):
                    if len(chosen) == 1:
                        return Found(chosen[0], moved or uploaded or start > 0)
                if matching:
                    break
            if candidates:
                return Found("", problem=f"several pictures could be meant: {', '.join(candidates[:SHOWN])}")
        return Found("", problem="no picture of that name")

    def with_stem(self, stem: str) -> tuple[list[str], list[str]]:
        """Return the pictures of a path without its ending (``cam1/0001``): those there, and all of that name."""
        folder, _, name = stem.rpartition("/")
        anywhere = self._stems.get(alike(name), [])
        there = [file for file in anywhere if alike(file.rpartition("/")[0]) == alike(folder)]
        exact = [file for file in there if file.rpartition("/")[2].rpartition(".")[0] == name]
        return exact or there, anywhere


def _is_below(file: str, folder: str) -> bool:
    return not folder or file.startswith(f"{folder}/")


def _ends_with(file: str, tail: Sequence[str]) -> bool:
    parts = alike(file).split("/")
    return len(parts) >= len(tail) and parts[-len(tail) :] == [alike(part) for part in tail]


def _narrowed(files: list[str], name: str, bases: Sequence[str]) -> Iterator[list[str]]:
    """Yield the files, and where they are several narrower choices: in one of the bases, then of the same spelling."""
    yield files
    for base in bases:
        if base and (inside := [file for file in files if _is_below(file, base)]):
            yield inside
            files = inside
            break
    composed = unicodedata.normalize("NFC", name)
    yield [file for file in files if unicodedata.normalize("NFC", file.rpartition("/")[2]) == composed]
    yield [file for file in files if file.rpartition("/")[2] == name]
