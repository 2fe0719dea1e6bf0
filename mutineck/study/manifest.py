"""The manifest that says a job is finished: how it is read, and the state of the code that it is written with."""

from __future__ import annotations

import contextlib
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from mutineck.study.experiment_file import repository
from mutineck.study.jobs import Job
from mutineck.system.files import read_json

VERSIONS = ("torch", "torchvision", "mmcv-full", "mmdet", "numpy", "scikit-learn", "umap-learn", "papermill")
"""Packages that results depend on."""


def read_manifest(root: Path, job: Job) -> dict[str, Any] | None:
    """Return a finished job's manifest, or None if it is not finished.

    Raises:
        ValueError: it is no JSON.
    """
    path = Path(root) / job.manifest
    return read_json(path) if path.is_file() else None


def damage(root: Path, job: Job) -> str:
    """Return what keeps a finished job from being whole (a manifest that is no JSON, a file that is gone), or ''."""
    try:
        manifest = read_manifest(root, job)
    except ValueError as error:
        return f"its manifest cannot be read: {error}"
    gone = [name for name in (manifest or {"writes": ()})["writes"] if not (Path(root) / name).exists()]
    return f"{gone[0]} is gone" + (f", and {len(gone) - 1} more" if gone[1:] else "") if gone else ""


def revision() -> dict[str, Any]:
    """Return the repository's git revision and whether the working tree differs from it."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):

        def git(*words: str) -> str:
            command = ["git", "-C", str(repository()), *words]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

        return {"git": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
    return {"git": None, "dirty": None}


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that results depend on, and torch's set of CPU instructions."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    if "torch" in sys.modules:  # a stage that does without it does not wait for it here
        found["instructions"] = sys.modules["torch"].backends.cpu.get_cpu_capability()
    for package in VERSIONS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found
