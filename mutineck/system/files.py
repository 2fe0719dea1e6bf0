"""Atomic writes and content hashes: the one owner of how this project puts a file on disk."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mutineck.system.remedies import NO_ROOM, is_full


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str], *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that replaces it if the block succeeds and vanishes if it fails.

    The parent folder is made. Readers see the old file or the whole new one, never a part; without ``durable`` (and
    without its wait for the disk) that holds unless the machine itself stops.

    Raises:
        OSError: it could not be written; unlike those of writers that only saw the temporary file, or torch's, it
            names ``path``.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # The suffix is kept in front of nothing: writers such as torch.save or matplotlib look at it.
    handle, name = tempfile.mkstemp(prefix=f".{target.stem}.", suffix=target.suffix, dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        if durable:
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
        temporary.chmod(0o644)
        os.replace(temporary, target)
    except (OSError, RuntimeError) as error:
        number = getattr(error, "errno", None) or (errno.ENOSPC if is_full(target.parent) else None)
        if number in NO_ROOM:
            raise OSError(number, os.strerror(number), str(target)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: str | os.PathLike[str], content: bytes | memoryview) -> Path:
    """Write bytes atomically and return the path."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
    return Path(path)


def write_text(path: str | os.PathLike[str], content: str) -> Path:
    """Write UTF-8 text atomically and return the path."""
    return write_bytes(path, content.encode("utf-8"))


def write_json(path: str | os.PathLike[str], content: Any, *, indent: int | None = 1) -> Path:
    """Write JSON atomically; NaN and infinities are refused, because JSON has no word for them.

    Raises:
        ValueError: ``content`` holds a non-finite number; the message names the file.
    """
    try:
        text = json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise ValueError(f"{path}: not written, it would hold a number that JSON cannot: {error}") from error
    return write_text(path, text + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not JSON; the message names file, line and column.
    """
    try:
        return json.loads(Path(path).read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_path(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file; of a folder, that of the names and contents of all files below it."""
    path = Path(path)
    if not path.is_dir():
        return sha256_file(path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return sha256_json([(file.relative_to(path).as_posix(), sha256_file(file)) for file in files])


def sha256_json(content: Any) -> str:
    """Return the SHA-256 of a JSON-able value, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
