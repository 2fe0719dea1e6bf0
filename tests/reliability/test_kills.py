"""The script that kills studies, on one that does nothing; and that it would notice what it looks for."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from mutineck.study.experiment import load_experiment
from mutineck.study.jobs import Job
from mutineck.study.stage import Study
from mutineck.system.files import read_json
from tests.reliability import kills
from tests.reliability.studies import MARK, Run, differing, partial
from tests.stand_ins import EXPERIMENT, write_notebooks


@pytest.fixture
def experiment_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(EXPERIMENT, sort_keys=False))
    return path


def finished(experiment_file: Path, root: Path, content: str) -> Path:
    study = Study(load_experiment(experiment_file), root, Job("dataset"))
    for name in ("notebook.ipynb", "train.json"):
        (study.folder / name).write_text(content)
    study.finish(writes=[study.folder / "train.json"])
    return root


def test_what_is_not_whole_is_noticed(experiment_file: Path, tmp_path: Path) -> None:
    experiment = load_experiment(experiment_file)
    root = finished(experiment_file, tmp_path / "a", "{}")
    assert partial(experiment, root) == []
    (root / "dataset" / "train.json").write_text("{")
    (root / "dataset" / "notebook.ipynb").write_text('{"cells": [')
    first, second = partial(experiment, root)
    assert first == "dataset: dataset/train.json is not what its manifest says"
    assert second.startswith("dataset: dataset/notebook.ipynb: ")
    (root / "dataset" / "manifest.json").write_text("{")
    assert "cannot be read" in partial(experiment, root)[0]


def test_what_differs_is_noticed(experiment_file: Path, tmp_path: Path) -> None:
    experiment = load_experiment(experiment_file)
    one, same, other = (
        finished(experiment_file, tmp_path / name, text) for name, text in zip("abc", "{{[", strict=True)
    )
    assert differing(experiment, one, same) == (1, [])
    assert differing(experiment, one, other) == (1, ["dataset/train.json"])
    assert differing(experiment, one, other, apart=["*/train.*"]) == (0, [])


@pytest.mark.slow
def test_a_study_is_killed_and_stopped_and_ends_alike(
    experiment_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kills, "START", 1.0)
    notebooks = tmp_path / "notebooks"
    notebooks.mkdir()
    write_notebooks(notebooks, "import time; time.sleep(1)\n(study.folder / 'train.json').write_text('{}')")
    arguments = ["--count", "1", "--work", str(tmp_path / "work"), "--report", str(tmp_path / "kills.json")]
    arguments += [str(experiment_file), "--notebooks", str(notebooks), "--until", "dataset"]
    assert kills.main(arguments) == 0
    report = read_json(tmp_path / "kills.json")
    assert report["kills"] == 1 == sum(report["how"].values()) and report["starts"] >= report["studies"] + 3
    assert sum(report["stops"].values()) == 1 and 0 < report["slowest_stop"] < kills.OBEYS
    assert report["files_compared"] == report["studies"] and not report["files_differing"] and not report["faults"]


def test_what_goes_on_after_a_kill_is_seen(tmp_path: Path) -> None:
    run = Run(["--help"], tmp_path / "log")
    run.process.wait()
    with subprocess.Popen(["sleep", "60"], env=os.environ | {MARK: run.mark}, start_new_session=True) as other:
        assert [process.pid for process in run.wait_until_gone(0.3)] == [other.pid]
        run.kill(run.members())
    assert run.wait_until_gone(5) == []
