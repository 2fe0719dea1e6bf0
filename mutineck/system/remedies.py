"""What to do when the machine is at fault: a full disk, a folder that may not be written, too little memory."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

ROOM = 1 << 20
"""Bytes; a disk with less to spare is full."""
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SYMPTOMS = {
    # torch does not say why it could not write.
    "room": r"No space left on device|Disk quota exceeded|File too large"
    r"|PytorchStreamWriter failed|unexpected pos \d+|iostream error",
    "rights": r"Read-only file system|Permission denied|Operation not permitted",
    "shared memory": r"bus error|unable to (open|write to|mmap).*shm|torch_\d+_\d+.*No space|shared memory \(shm\)",
    "memory": r"MemoryError|[Cc]annot allocate memory|can't allocate memory|out of memory|OutOfMemory|bad_alloc"
    r"|DataLoader worker .*(killed|exited)",
    "files": r"Too many open files",
}


def is_full(folder: Path) -> bool:
    """Return whether the disk that holds a folder has no room left: neither bytes nor files."""
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize < ROOM or (disk.f_files > 0 and disk.f_favail == 0)


def remedy(error: str, folder: str | os.PathLike[str]) -> str:
    """Return what to do about an error whose cause is the machine, as a sentence; nothing if it seems not to be.

    Args:
        error: what was raised, with its type's name.
        folder: where was to be written; the disk's own state counts more than the error's words.
    """
    place = _existing(Path(folder))
    kind = next((name for name, symptom in _SYMPTOMS.items() if re.search(symptom, error)), "")
    if kind != "shared memory" and is_full(place):
        kind = "room"
    if kind == "room":
        disk = os.statvfs(place)
        free = disk.f_bavail * disk.f_frsize / (1 << 20)
        return (
            f"The disk that holds {place} has {free:.0f} MiB to spare: make room there, or name another folder with "
            "--outputs, and start again. What was finished stays."
        )
    if kind == "rights":
        return f"Allow this user to write below {place}, or name another folder with --outputs."
    if kind == "shared memory":
        return "Loader processes hand pictures over in /dev/shm: enlarge it, or set resources.workers=0."
    if kind == "memory":
        fewer = "run fewer jobs at once (--cores; on a GPU resources.jobs_per_gpu)"
        return f"Give the stage a smaller batch, or {fewer}; what was finished stays."
    if kind == "files":
        return "Raise the bound on open files (ulimit -n), or set resources.workers=0."
    return ""


def _existing(path: Path) -> Path:
    """Return the path, or the nearest folder above it that is there."""
    path = path.absolute()
    return next(each for each in (path, *path.parents) if each.exists())
