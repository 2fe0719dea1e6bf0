"""The script that runs studies for hours, on ones that do nothing; and that it would notice what grows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from mutineck.system.files import read_json
from tests.reliability import soak
from tests.stand_ins import EXPERIMENT, write_notebooks

STEADY = {"memory_mib": 300.0, "open_files": 9, "processes": 0, "temporary_files": 0, "seconds": 200, "faults": []}


def rounds(**last: Any) -> list[dict[str, Any]]:
    return [STEADY | {"memory_mib": 100.0, "open_files": 5}, STEADY, STEADY, STEADY | last]


@pytest.mark.parametrize(
    ("last", "grown"),
    [
        pytest.param({}, [], id="steady"),
        pytest.param({"memory_mib": 314.0, "seconds": 900}, [], id="within bounds"),
        pytest.param({"memory_mib": 316.0}, ["memory_mib: 300.0 -> 316.0"], id="memory"),
        pytest.param({"open_files": 10}, ["open_files: 9 -> 10"], id="open files"),
        pytest.param({"processes": 1}, ["processes: 0 -> 1"], id="a process left"),
        pytest.param({"temporary_files": 1}, ["temporary_files: 0 -> 1"], id="a temporary file left"),
    ],
)
def test_what_grows_is_noticed(last: dict[str, Any], grown: list[str]) -> None:
    assert soak.returned(rounds(**last)) == grown


def test_two_rounds_tell_nothing() -> None:
    assert "too few" in soak.returned(rounds()[:2])[0]


@pytest.mark.slow
def test_rounds_are_run_counted_and_cleared_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TMPDIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setattr(soak.tempfile, "tempdir", None)
    monkeypatch.setattr(soak, "WARM", 1)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(EXPERIMENT, sort_keys=False))
    (tmp_path / "notebooks").mkdir()
    write_notebooks(tmp_path / "notebooks", "(study.folder / 'train.json').write_text('{}')")
    arguments = ["--hours", "0", "--experiment", str(tmp_path / "tiny.yaml"), "--until", "dataset"]
    arguments += ["--notebooks", str(tmp_path / "notebooks")]
    arguments += ["--work", str(tmp_path / "work"), "--report", str(tmp_path / "soak.json")]
    soak.main(arguments)
    report = read_json(tmp_path / "soak.json")
    assert len(report["rounds"]) == 2 and not (tmp_path / "work").exists()
    for each in report["rounds"]:
        assert each["processes"] == each["output_files"] == each["temporary_files"] == 0
    # The jobs after the first were not asked for.
    assert {fault.split(": ")[-1] for fault in report["faults"]} == {"not run yet"}
