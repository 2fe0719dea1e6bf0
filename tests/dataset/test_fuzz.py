"""What the fuzzer is fed with, and that it says what it lacks. `make fuzz` runs it."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys

import pytest

from mutineck.dataset.coco import read_coco
from mutineck.dataset.voc_xml import read_voc_xml
from mutineck.study.experiment_file import repository
from tests.dataset import fuzz


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz, "WORK", tmp_path)
    return tmp_path


def test_seeds_are_sound_files_of_the_right_kind(work, tmp_path):
    (tmp_path / "more").mkdir()
    many = [{"id": n, "file_name": f"{n}.jpg"} for n in range(900)]
    (tmp_path / "more" / "a.json").write_bytes(
        fuzz.json.dumps({"images": many, "annotations": [], "categories": [{"id": 1, "name": "a"}]}).encode()
    )
    voc = list(fuzz.seed_files("voc", []))
    assert len(voc) > 10 and sum(read_voc_xml(content)[0] is not None for content in voc) > 10
    *_, last = fuzz.seed_files("coco", [tmp_path / "more"])
    assert len(read_coco(last, "x")[0]["images"]) == 2


def test_the_dictionary_is_as_libfuzzer_reads_it():
    lines = fuzz.dictionary().splitlines()
    assert len(lines) > 50 and all(re.fullmatch(r'"(\\x[0-9a-f]{2})+"', line) for line in lines)


@pytest.mark.parametrize("target", fuzz.TARGETS)
def test_every_target_takes_any_bytes(target):
    for data in (b"", b"\0", bytes(range(256))):
        fuzz.reader(target)(data)


def test_without_atheris_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["fuzz"])
    assert fuzz.main() == 1
    assert "not in this environment" in capsys.readouterr().err


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed")
def test_a_planted_fault_is_found(work):
    """The loop that `fuzz` starts notices an exception, and leaves the input that raised it."""
    program = "import sys, atheris\ndef test(data):\n    if data[:2] == b'ab': raise KeyError(data)\n"
    program += "atheris.Setup(sys.argv, atheris.instrument_func(test))\natheris.Fuzz()"
    command = [sys.executable, "-c", program, "-runs=200000", f"-artifact_prefix={work}/"]
    done = subprocess.run(command, capture_output=True, cwd=repository(), check=False)
    assert done.returncode and b"KeyError" in done.stderr + done.stdout
    assert next(work.iterdir()).read_bytes().startswith(b"ab")
