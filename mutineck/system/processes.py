"""Processes: how a job ends with whoever started it, and how a folder is kept to one run at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

LOCK = ".lock"
PATIENCE = 15.0
"""Seconds that a notebook waits for a folder: those of a run that was killed take some to end."""
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class BusyError(RuntimeError):
    """Another process works in the same folder; the message has its process id."""


_held: dict[Path, contextlib.AbstractContextManager[int]] = {}


@contextlib.contextmanager
def exclusive(root: Path, what: str, patience: float = 0.0) -> Iterator[int]:
    """Hold the folder ``root`` for the block, and yield the lock's file descriptor.

    The lock is the kernel's (`flock`): it vanishes with its holders, also when they are killed. A child that
    is given the descriptor (`pass_fds`) holds it too. The file's text only tells others who that is.

    Args:
        root: folder to hold; made if missing.
        what: what the holder does, e.g. `mutineck run shapes`.
        patience: seconds to wait for another holder.

    Raises:
        BusyError: another process holds it.
    """
    root.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(root / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    deadline = time.monotonic() + patience
    try:
        while not _locked(descriptor):
            if time.monotonic() >= deadline:
                holder = os.pread(descriptor, 400, 0).decode(errors="replace").strip() or "a process that gave no name"
                raise BusyError(f"{root} is in use by {holder}; wait for it, or end it, and start again")
            time.sleep(0.1)
        os.ftruncate(descriptor, 0)
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        os.pwrite(descriptor, f"process {os.getpid()} ({what}, since {since})\n".encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def hold(folder: Path, what: str) -> None:
    """Hold a folder until this process ends; to hold it again changes nothing.

    Raises:
        BusyError: another process holds it, and still does after some seconds.
    """
    folder = folder.resolve()
    if folder not in _held:
        lock = exclusive(folder, what, PATIENCE)
        lock.__enter__()
        _held[folder] = lock


@contextlib.contextmanager
def one_after_another(folder: Path) -> Iterator[None]:
    """Hold a folder for the block, after whoever holds it now: for writers whose second finds the first's work done."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def end_with_parent(interval: float = 0.5, ending: Callable[[int], None] | None = None) -> None:
    """End this process and all its descendants when its parent is gone, and on SIGINT, SIGTERM and SIGHUP.

    A killed run must not leave notebooks that go on writing into its folder: their kernels live in sessions
    of their own, where no signal to the group reaches them.

    Args:
        interval: seconds between two checks of the parent.
        ending: called with the signal's number in the place of `end`.
    """
    ending = ending or end
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(interval)
        ending(signal.SIGTERM)

    threading.Thread(target=watch, name="end with parent", daemon=True).start()
    on_signals(ending)


def on_signals(action: Callable[[int], None]) -> None:
    """Call ``action`` with the signal's number on SIGINT, SIGTERM and SIGHUP, except where one is ignored."""
    for number in STOPPING:
        # `nohup` ignores SIGHUP, and means it.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda received, _frame: action(received))


class Stopped(KeyboardInterrupt):
    """SIGTERM or SIGHUP came."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextlib.contextmanager
def raised_signals() -> Iterator[None]:
    """Raise `Stopped` on SIGTERM and SIGHUP in the block, as Python raises KeyboardInterrupt on SIGINT."""

    def stop(number: int, _frame: object) -> None:
        raise Stopped(number)

    own = [number for number in STOPPING if number != signal.SIGINT and signal.getsignal(number) is signal.SIG_DFL]
    for number in own:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in own:
            signal.signal(number, signal.SIG_DFL)


def end(number: int) -> None:
    """Kill every descendant of this process, and leave at once with the exit status of that signal."""
    end_children()
    sys.stdout.flush()
    os._exit(128 + number)


def end_children() -> None:
    """Kill every descendant of this process."""
    import psutil

    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
