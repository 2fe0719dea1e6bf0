"""From the folder of a labelling tool to the report, by the one command that the README names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mutineck.system.files import read_json
from tests.dataset import exports

TINY = (
    "input.scale=[128,96]",
    "teachers=[{name: faster, detector: {family: faster_rcnn, depth: 18, base_channels: 8, neck_channels: 32, "
    "head_channels: 64, anchor_scale: 2}, schedule: {epochs: 1, batch: 4, optimizer: adamw, learning_rate: 0.001}}]",
    "student.detector.base_channels=8",
    "student.detector.neck_channels=32",
    "student.detector.head_channels=64",
    "student.schedule.epochs=1",
    "clusters.sample_per_category=10",
    "arms={student: }",
)
"""Nothing is learned: what counts is that every stage takes such data."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("write", "title"),
    [(exports.yolo_roboflow, "Roboflow's YOLO export"), (exports.label_studio, "Label Studio's COCO export")],
    ids=["yolo", "coco"],
)
def test_an_export_goes_to_its_report(write, title, tmp_path: Path) -> None:
    truth, pixels = exports.drawn_scenes(20)
    write(tmp_path / "export", truth)
    exports.paint(tmp_path / "export", pixels)
    words = ["run", "own", "--outputs", str(tmp_path / "outputs"), "--set", f"dataset.root={tmp_path / 'export'}"]
    for setting in TINY:
        words += ["--set", setting]
    done = subprocess.run(
        [sys.executable, "-m", "mutineck", *words], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"read as {title}: " in done.stdout
    study = tmp_path / "outputs" / "own"
    page = (study / "report.html").read_text(encoding="utf-8")
    assert all(name in page for name in read_json(study / "dataset" / "dataset.json")["categories"])
