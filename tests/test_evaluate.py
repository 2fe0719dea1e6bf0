"""Measuring a detector: in one process, or by several that `torchrun` started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mutineck.engine import write_experiment
from mutineck.experiment_file import repository
from mutineck.stage import Study
from mutineck.storage import read_json
from mutineck.teachers.frozen import load_model
from mutineck.teachers.stage import dataset_categories, measure_split

RECORDING = """
import os, sys
from mutineck.cli import main
from mutineck.storage import write_json
from mutineck.teachers import stage

def recording(annotations, predictions, names, measure=stage.measure):
    write_json(f"{os.environ['RANK']}.json", predictions)
    return measure(annotations, predictions, names)

stage.measure = recording
sys.exit(main())
"""


@pytest.mark.slow
def test_two_processes_measure_as_one_does(tiny: Study, tmp_path: Path) -> None:
    (tmp_path / tiny.experiment.name).symlink_to(tiny.root)
    experiment = write_experiment(tiny.experiment, tmp_path)
    (tmp_path / "recording.py").write_text(RECORDING)
    detector = "teachers/faster_rcnn"
    model, _ = load_model(tiny.path(detector))
    expected, rows = measure_split(tiny, model, dataset_categories(tiny), split="train")
    command = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2", "recording.py", "evaluate"]
    command += [str(experiment), detector, "--split", "train", "--outputs", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(repository()), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", *command], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(done.stdout.splitlines()) == len(rows), "one process prints"
    first, second = read_json(tmp_path / "0.json"), read_json(tmp_path / "1.json")
    assert first == second and len(first) == len(expected) > 100
    for ours, one in zip(first, expected, strict=True):
        assert (ours["image_id"], ours["category_id"]) == (one["image_id"], one["category_id"])
        assert [*ours["bbox"], ours["score"]] == pytest.approx([*one["bbox"], one["score"]], abs=0.02)
