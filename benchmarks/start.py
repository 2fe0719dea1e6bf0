"""How long one waits for nothing: help, status, a run with nothing to do, the first cell of each notebook."""

from __future__ import annotations

import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbformat.v4 import new_notebook

from benchmarks.table import Row, Target
from mutineck.running.job_run import notebook_of
from mutineck.study.experiment import STAGES, Experiment, load_experiment
from mutineck.study.experiment_file import repository
from mutineck.study.jobs import jobs
from mutineck.study.stage import Study, write_experiment

EXPERIMENT = "shapes"


def rows() -> list[Row]:
    """Measure the commands on a study whose jobs are all done."""
    with tempfile.TemporaryDirectory() as folder:
        outputs = Path(folder)
        finished_study(load_experiment(EXPERIMENT), outputs)
        mutineck = [sys.executable, "-m", "mutineck"]
        study = [EXPERIMENT, "--outputs", str(outputs)]
        found = [
            _waited("`mutineck --help`", [*mutineck, "--help"], most=0.5),
            _waited(f"`mutineck status` of {EXPERIMENT}", [*mutineck, "status", *study], most=3),
            _waited("`make run` with nothing to do", ["make", "run", f"EXPERIMENT={shlex.join(study)}"], most=15),
        ]
        return found + [
            _waited(f"first cell of {notebook_of(stage)}", [sys.executable, "-c", first_cell(stage, outputs)], most=8)
            for stage in STAGES
        ]


def finished_study(experiment: Experiment, outputs: Path) -> Path:
    """Write what makes every job of an experiment count as done, and nothing else; return the study's folder."""
    root = outputs / experiment.name
    write_experiment(experiment, root)
    for job in jobs(experiment):
        study = Study(experiment, root, job)
        study.finish()
        for path in job.outputs[1:]:
            nbformat.write(new_notebook(), root / path)
    return root


def first_cell(stage: str, outputs: Path) -> str:
    """Return the code of a notebook up to its first cell after the parameters."""
    notebook = nbformat.read(repository() / "notebooks" / notebook_of(stage), as_version=4)
    parameters, first = [cell.source for cell in notebook.cells if cell.cell_type == "code"][:2]
    return f"{parameters}\noutputs = {str(outputs)!r}\n{first}"


def _waited(name: str, command: Sequence[str], *, most: float, rounds: int = 5) -> Row:
    """Return the row of a command, by the wall clock."""
    seconds, worked = [], []
    for _ in range(rounds):
        before, started = os.times(), time.perf_counter()
        done = subprocess.run(command, cwd=repository(), capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{shlex.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
        seconds.append(time.perf_counter() - started)
        after = os.times()
        worked.append(after.children_user + after.children_system - before.children_user - before.children_system)
    note = f"{statistics.median(worked):.2f} s of it processor time"
    return Row(name, statistics.median(seconds), "s", target=Target("at most", most), note=note)
