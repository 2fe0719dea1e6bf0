"""Notebooks that stand for the stages: they do what a test wants in the place of work, and finish."""

from __future__ import annotations

from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_notebook

from mutineck.running.job_run import notebook_of
from mutineck.study.experiment import STAGES
from mutineck.study.jobs import PARAMETERS

DETECTOR = {"family": "faster_rcnn"}
EXPERIMENT = {
    "name": "tiny",
    "dataset": {"format": "shapes"},
    "teachers": [{"name": "a", "detector": DETECTOR}, {"name": "b", "detector": DETECTOR}],
    "student": {"detector": DETECTOR, "inherit": True},
    "arms": {"student": None, "fgd:b": None, "fgd:mean": None, "mutineck": None, "mutineck-intermediate": None},
    "seeds": [0, 1],
}
# It notes that it ran, waits or fails as the test wants.
WORK = """
import time
outputs = study.root.parent
with open(outputs / "ran", "a") as file:
    print(study.stage, study.item, file=file)
if (outputs / "fail").exists() and (outputs / "fail").read_text() == str(study.item):
    raise ValueError("the picture 7.jpg is empty")
if (outputs / "nap").exists():
    time.sleep(float((outputs / "nap").read_text()))
"""


def write_notebooks(folder: Path, work: str = WORK, end: str = "manifest = study.finish()") -> Path:
    """Write a notebook for each stage, with ``work`` as its third cell and ``end`` as its last, and return the folder."""
    for stage in STAGES:
        names = "\n".join(
            f"{name} = {[] if name == 'overrides' else 0 if name == 'seed' else ''!r}" for name in PARAMETERS[stage]
        )
        cells = [
            new_code_cell(names, metadata={"tags": ["parameters"]}),
            new_code_cell(f"from mutineck.study.stage import begin\nstudy = begin({stage!r}, globals())"),
            new_code_cell(work),
            new_code_cell(end),
        ]
        nbformat.write(new_notebook(cells=cells), folder / notebook_of(stage))
    return folder
