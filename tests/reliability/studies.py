"""Whole studies as processes: started, watched, ended in every way; and whether their folders keep their word."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path

import psutil

from mutineck.study.experiment import Experiment
from mutineck.study.experiment_file import repository
from mutineck.study.jobs import jobs
from mutineck.study.manifest import read_manifest
from mutineck.study.staleness import inspect
from mutineck.system.files import sha256_path

MARK = "MUTINECK_RELIABILITY"
"""Environment variable that every process of a run inherits, whatever session it is in."""
_STARTED = re.compile(r"\[\d+/\d+\] (.+) \.\.\.$")
_DONE = re.compile(r"  (.+) done in ")


class Run:
    """A `mutineck run` in processes of its own.

    Args:
        arguments: what follows `mutineck run`.
        log: file for what it prints.
        environment: variables beside this process's own.
    """

    def __init__(self, arguments: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
        self.mark = uuid.uuid4().hex
        self.log = log
        environment = os.environ | dict(environment or {}) | {MARK: self.mark, "PYTHONPATH": str(repository())}
        with open(log, "wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mutineck", "run", *arguments],
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    @property
    def ended(self) -> bool:
        """Whether `mutineck run` itself has ended."""
        return self.process.poll() is not None

    def said(self) -> str:
        """Return what it has printed."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    @property
    def running(self) -> list[str]:
        """Jobs that it says to have started and not to have done."""
        begun: list[str] = []
        for line in self.said().splitlines():
            if found := _STARTED.match(line):
                begun.append(found.group(1))
            elif (found := _DONE.match(line)) and found.group(1) in begun:
                begun.remove(found.group(1))
        return begun

    def members(self) -> list[psutil.Process]:
        """Return every process of the run that is alive, itself among them."""
        return list(_marked(self.mark))

    def kill(self, victims: Sequence[psutil.Process]) -> None:
        """SIGKILL processes, all at once as far as that goes."""
        for victim in victims:
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.kill()

    def wait_until_gone(self, seconds: float) -> list[psutil.Process]:
        """Wait for the last of its processes; return those that are still there."""
        deadline = time.monotonic() + seconds
        while (left := self.members()) and time.monotonic() < deadline:
            self.process.poll()
            time.sleep(0.2)
        self.process.poll()
        return left


def _marked(mark: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == mark:
                yield process


def partial(experiment: Experiment, root: Path) -> list[str]:
    """Return what passes for finished in a study's folder and is not whole: nothing, if it keeps its word."""
    found = []
    for state in inspect(experiment, root):
        if any("cannot be read" in reason for reason in state.reasons):
            found.append(f"{state.job}: {state.reasons[0]}")
        if not state.done:
            continue
        manifest = read_manifest(root, state.job)
        assert manifest is not None
        for name, digest in manifest["writes"].items():
            if not (root / name).exists() or sha256_path(root / name) != digest:
                found.append(f"{state.job}: {name} is not what its manifest says")
        for path in state.job.outputs:
            try:
                json.loads((root / path).read_bytes())
            except ValueError as error:
                found.append(f"{state.job}: {path}: {error}")
    return found


def differing(experiment: Experiment, first: Path, second: Path, apart: Sequence[str] = ()) -> tuple[int, list[str]]:
    """Compare what two finished studies have written, byte for byte.

    Args:
        experiment: of both.
        first, second: their folders, each of which was at the same path when it was written: configs name paths.
        apart: files that are not compared, as patterns such as `figures/costs*`.

    Returns:
        How many files (folders count as one) were compared, and the names of those that differ.
    """
    count, found = 0, []
    for job in jobs(experiment):
        written = [(read_manifest(root, job) or {"writes": {}})["writes"] for root in (first, second)]
        for name in sorted({*written[0], *written[1]}):
            if not any(fnmatch(name, pattern) for pattern in apart):
                count += 1
                found += [name] if written[0].get(name) != written[1].get(name) else []
    return count, found
