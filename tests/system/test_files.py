"""Files appear whole or not at all."""

import os
import signal
import subprocess
import sys
import time

import pytest

from mutineck.study.experiment_file import repository
from mutineck.system.files import (
    atomic_path,
    read_json,
    sha256_file,
    sha256_json,
    write_bytes,
    write_json,
    write_text,
)


def test_round_trips(tmp_path):
    path = write_json(tmp_path / "new" / "a.json", {"ä": [1, 2.5, None]})
    assert read_json(path) == {"ä": [1, 2.5, None]}
    assert write_text(tmp_path / "t", "é\n").read_bytes() == "é\n".encode()
    assert write_bytes(tmp_path / "b", b"\x00").read_bytes() == b"\x00"
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("number", [float("nan"), float("inf")], ids=str)
def test_numbers_that_json_cannot_hold(tmp_path, number):
    with pytest.raises(ValueError, match=r"a\.json: not written"):
        write_json(tmp_path / "a.json", {"x": [number]})
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert (tmp_path / "a.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_the_temporary_file_lies_beside_and_keeps_the_ending(tmp_path):
    with atomic_path(tmp_path / "a.png") as temporary:
        assert temporary.parent == tmp_path and temporary.suffix == ".png"
        temporary.write_bytes(b"x")
        assert not (tmp_path / "a.png").exists()
    assert (tmp_path / "a.png").read_bytes() == b"x"


def test_a_killed_writer_never_leaves_a_part(tmp_path):
    code = (
        "import sys; from mutineck.system.files import write_text\n"
        "for n in range(10**9): write_text(sys.argv[1], str(n % 10) * 200_000)"
    )
    path = tmp_path / "a.txt"
    environment = os.environ | {"PYTHONPATH": str(repository())}
    for delay in (0.0, 0.013, 0.031):
        process = subprocess.Popen([sys.executable, "-c", code, str(path)], env=environment)
        deadline = time.monotonic() + 30
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        text = path.read_text()
        assert len(text) == 200_000 and len(set(text)) == 1
        path.unlink()


@pytest.mark.parametrize("content", [b"{", b"\xff", b""], ids=["cut", "no text", "empty"])
def test_what_is_no_json_is_named(tmp_path, content):
    path = write_bytes(tmp_path / "a.json", content)
    with pytest.raises(ValueError, match=r"a\.json: not valid JSON"):
        read_json(path)


def test_hashes(tmp_path):
    path = write_bytes(tmp_path / "a", b"abc")
    assert sha256_file(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_json({"a": 1, "b": 2}) == sha256_json({"b": 2, "a": 1}) != sha256_json({"a": 2, "b": 1})
