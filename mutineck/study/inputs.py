"""What a job reads from outside its study's folder: noted in its manifest when it is read, compared later.

Settings say where a data set or a checkpoint lies, not what is in it: corrected at the same path, it would pass for the
one that the results are of.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from mutineck.system.files import sha256_file, sha256_json

INPUTS = "inputs"
"""Key of a manifest; one written before there was this key has none, and nothing is compared."""


class ExternalInput(NamedTuple):
    """Something outside a study's folder that results depend on.

    Attributes:
        path: a file or folder. It need not be there: what comes to be there later is a change.
        of: what counts of it: the `file`; of a folder, the `content` of the files below it, their `names` alone, the
            names of those `beside` each other directly in it, or of the `folders` there.
        like: how the names end that count, in small letters; of `folders`, how they begin. Hidden ones never count.
    """

    path: str
    of: Literal["file", "content", "names", "beside", "folders"] = "file"
    like: tuple[str, ...] = ("",)

    def _listing(self) -> list[str]:
        if self.of == "folders":
            with os.scandir(self.path) as entries:
                return sorted(entry.name for entry in entries if entry.is_dir() and entry.name.startswith(self.like))
        found = []
        for base, folders, names in os.walk(self.path):
            folders[:] = [name for name in folders if self.of != "beside" and not name.startswith(".")]
            within = "" if base == self.path else os.path.relpath(base, self.path) + "/"
            counting = (name for name in names if name.lower().endswith(self.like) and not name.startswith("."))
            found += [within + name for name in counting]
        return sorted(found)

    def stamp(self) -> Any:
        """Return what changes with the input and costs little: sizes and times; None if nothing is there."""
        try:
            if self.of == "file":
                found = os.stat(self.path)
                return [found.st_size, found.st_mtime_ns]
            names: list[Any] = self._listing()
        except (FileNotFoundError, NotADirectoryError):
            return None
        if self.of == "content":
            stats = [os.stat(os.path.join(self.path, name)) for name in names]
            names = [(name, each.st_size, each.st_mtime_ns) for name, each in zip(names, stats, strict=True)]
        return sha256_json(names) if names else None

    def digest(self) -> str:
        """Return the hash of what counts, which copying and touching leave as it is."""
        if self.of == "file":
            return sha256_file(self.path)
        names: list[Any] = self._listing()
        if self.of == "content":
            names = [(name, sha256_file(os.path.join(self.path, name))) for name in names]
        return sha256_json(names)

    def note(self) -> dict[str, Any]:
        """Return what a manifest keeps of the input."""
        stamp = self.stamp()  # first: what changes in between is then compared by its content
        known = {"stamp": stamp, "sha256": None if stamp is None else self.digest()}
        return known if self.of == "file" else {"of": self.of, "like": list(self.like), **known}


def external_input(path: str | os.PathLike[str] | ExternalInput) -> ExternalInput:
    """Return an input as one: a file, or with all files below it a folder.

    Symbolic links are kept, so that one that is turned to another file is a change.
    """
    if isinstance(path, ExternalInput):
        return path._replace(path=os.path.abspath(path.path))
    return ExternalInput(os.path.abspath(path), "content" if Path(path).is_dir() else "file")


def changed_inputs(manifest: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Return which inputs of a finished job are others now, and which are there no more or cannot be read.

    The first make the job stale, the second do not: a finished study may be moved to where its pictures are not, and
    there is nothing to do it again from. A folder that has lost all that counts of it is such an input; one that has
    lost a part has changed. Where size and time of change are those that were noted, the content is taken to be.
    """
    changed, missing = [], []
    for path, noted in manifest.get(INPUTS, {}).items():
        now = ExternalInput(path, noted.get("of", "file"), tuple(noted.get("like", ("",))))
        try:
            stamp = now.stamp()
            if stamp == noted["stamp"]:
                continue
            if stamp is not None:
                if now.digest() != noted["sha256"]:
                    changed.append(path)
                continue
        except OSError:
            pass
        missing.append(path)
    return changed, missing
