"""Errors of a machine that lacks something: each raised for real, each with what to do about it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mutineck.study.experiment_file import repository
from mutineck.system.remedies import is_full, remedy


def too_much_for_python() -> None:
    bytearray(1 << 60)


def too_much_for_torch() -> None:
    import torch

    torch.empty(1 << 60)


class Deadly:
    """A data set whose worker does not survive it."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)


def a_worker_that_dies() -> None:
    from torch.utils.data import DataLoader

    next(iter(DataLoader(Deadly(), num_workers=1)))  # type: ignore[arg-type]


def no_room_for_bytes() -> None:
    with open("/dev/full", "wb", buffering=0) as file:
        file.write(b"x")


def no_room_for_weights() -> None:
    import torch

    torch.save({"w": torch.zeros(10)}, "/dev/full")


@pytest.mark.parametrize(
    ("fail", "advice"),
    [
        pytest.param(too_much_for_python, "smaller batch", id="python's memory"),
        pytest.param(too_much_for_torch, "smaller batch", id="torch's memory"),
        pytest.param(a_worker_that_dies, "smaller batch", id="a worker that dies"),
        pytest.param(no_room_for_bytes, "make room there", id="bytes on a full disk"),
        pytest.param(no_room_for_weights, "make room there", id="weights on a full disk"),
    ],
)
def test_what_the_machine_lacks_is_known_by_its_error(fail: Callable[[], None], advice: str, tmp_path: Path) -> None:
    with pytest.raises((MemoryError, RuntimeError, OSError)) as caught:
        fail()
    assert advice in remedy(f"{type(caught.value).__name__}: {caught.value}", tmp_path)


def test_a_fault_of_the_program_has_no_such_remedy(tmp_path: Path) -> None:
    assert remedy("ValueError: expected 3 categories, got 4", tmp_path) == ""
    assert remedy("OSError: [Errno 30] Read-only file system: '/x'", tmp_path / "new").startswith(
        f"Allow this user to write below {tmp_path}, "
    )
    assert not is_full(tmp_path)


LIMITED = """
import resource, sys
from mutineck.system.files import write_bytes
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
if sys.argv[2] == "bytes":
    write_bytes(sys.argv[1], b"x" * 100_000)
else:
    import torch
    from mutineck.detection.loading import write_checkpoint
    write_checkpoint(sys.argv[1], {"weights": torch.zeros(100_000)})
"""


@pytest.mark.parametrize("what", ["bytes", "weights"])
def test_a_file_that_may_not_grow_is_named_and_the_old_one_stays(what: str, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    path.write_text("old")
    command = [sys.executable, "-c", LIMITED, str(path), what]
    done = subprocess.run(command, capture_output=True, text=True, cwd=repository(), check=False)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and remedy(last, tmp_path), done.stderr
    assert last == f"OSError: [Errno 27] File too large: '{path}'"
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
