"""What a study costs on paper: counted FLOPs against published ones and closed forms, hours by hand."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import full_scale, paper
from benchmarks.flops import Counts, Teacher, batch_normalised, count, flops, forward
from benchmarks.paper import Assumptions, Item, exchange_seconds, hours, items, looks, study_hours
from benchmarks.study import zoo_config
from mutineck.detection.frozen import build_model
from mutineck.study.experiment import load_experiment
from mutineck.system.files import read_json, write_json

COUNTS = Counts(
    experiment="coco", size=(800, 1344), student=1e12, training=3e12, merge=1e11, intermediate=1e12, weights=25_000_000,
    cells=1000, channels=256, teachers={"faster_r101": Teacher(5e11, 1e11, 10), "mask_r101": Teacher(7e11, 2e11, 10)},
)  # fmt: skip
ASSUMED = Assumptions(rate=1e13, memory=1e12, link=1e11, network=1e10)


def test_the_flops_of_a_convolution() -> None:
    layers = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5)).to("meta")
    image = torch.empty(2, 3, 7, 11, device="meta")
    once = 2 * (2 * 7 * 11) * 5 * (3 * 3 * 3)
    assert flops(partial(layers, image)) == once
    assert flops(partial(layers, image), backward=True) == 2 * once, (
        "its weights' gradient; nobody asks for the picture's"
    )
    assert batch_normalised(partial(layers, image), layers) == 2 * 5 * 7 * 11


def test_a_published_detector_is_counted_as_published() -> None:
    """mmdet's model zoo says 207.07 G multiply-adds at 1280x800, with 1000 regions."""
    model = build_model(zoo_config("faster_rcnn_r50_fpn_1x_coco")).to("meta").eval()
    found = flops(partial(forward, model, torch.empty(1, 3, 800, 1280, device="meta"), 1000))
    assert found / 2e9 == pytest.approx(207.07, rel=0.01)


def test_what_is_kept_is_what_is_counted() -> None:
    kept = read_json(paper.RESULTS / "coco.json")["counts"]
    assert Counts.of(kept) == count(load_experiment("coco"))


@pytest.mark.parametrize(
    ("arm", "looking"),
    [("student", 0.0), ("fgd:mask_r101", 7e11), ("fgd:mean", 12e11), ("mutineck", 16e11)],
)
def test_an_arm_looks_at_the_teachers_that_it_learns_from(arm: str, looking: float) -> None:
    assert looks(COUNTS, load_experiment("coco"), arm) == pytest.approx(looking)


def test_the_intermediate_teacher_is_trained_and_looked_at() -> None:
    found = {item.name: item for item in items(COUNTS, load_experiment("coco"))}
    assert found["intermediate teacher"].flops == pytest.approx(1e12 + 12e11)
    hearing = {item.name: item for item in items(COUNTS, load_experiment("coco", ["intermediate.prior=true"]))}
    assert hearing["intermediate teacher"].looking == pytest.approx(12e11 + 3e11), "the proposals' quality as a prior"
    assert found["features"].flops == pytest.approx(12e11 + 13e11)
    assert found["`mutineck`"].passes == 12
    without = items(COUNTS, load_experiment("coco", ["arms={student: , 'fgd:mean': }"]))
    assert [item.name for item in without] == ["features", "`student`", "`fgd:mean`"]
    assert without[0].flops == pytest.approx(12e11)


def test_hours_by_hand() -> None:
    item = Item("`a`", 2, own=3e12, looking=1e12, most=8)
    assert hours(item, COUNTS, 900, 9, 1, ASSUMED) == pytest.approx(2 * 900 * 0.4 / 3600)
    assert exchange_seconds(COUNTS, 8, ASSUMED) == pytest.approx(2 * 7 / 8 * 1e8 / 1e11)
    assert exchange_seconds(COUNTS, 64, ASSUMED) == pytest.approx(2 * 63 / 64 * 1e8 / 1e10)
    eight = (2 * 900 * 0.4 / 8 + 200 * exchange_seconds(COUNTS, 8, ASSUMED)) / 3600
    assert hours(item, COUNTS, 900, 9, 8, ASSUMED) == hours(item, COUNTS, 900, 9, 64, ASSUMED) == pytest.approx(eight)


def test_arms_run_side_by_side_where_there_are_gpus_for_it() -> None:
    parts = [Item(name, 1, 1.0, 0.0, 8) for name in ("features", "`a`", "`b`", "`c`")]
    took = {"features": 1.0, "`a`": 2.0, "`b`": 3.0, "`c`": 4.0}
    assert study_hours(parts, took, 8) == 10.0
    assert study_hours(parts, took, 16) == 1.0 + 5.0
    assert study_hours(parts, took, 64) == 1.0 + 4.0


def test_the_section_says_what_was_assumed_and_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "coco.json"
    monkeypatch.setattr(paper, "count", lambda *_: COUNTS)
    paper.main(["coco", "--results", str(tmp_path), "--rate", "1e14"])
    told = paper.section(path)
    assert "a GPU sustains 100 TFLOP/s" in told and "**Measured**" not in told and "(measured)" not in told
    write_json(path, read_json(path) | {"loading_seconds": 0.05})
    text = paper.section(path, 1.25)
    assert "takes 50 ms of a core (measured)" in text and "1.25 times as fast (measured)" in text


def test_what_a_gpu_sustains_is_taken_from_a_step_on_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paper, "count", lambda *_: COUNTS)
    rows = {"coco": {"input": [2, 3, 800, 1216], "seconds": 0.5}}
    write_json(tmp_path / "cpu-2.json", {"machine": {"gpu": None}, "rows": rows})
    assert paper.measured_step(load_experiment("coco"), tmp_path) is None
    write_json(tmp_path / "gpu.json", {"machine": {"gpu": "a GPU"}, "rows": rows})
    step = paper.measured_step(load_experiment("coco"), tmp_path)
    assert step is not None and step.rate == pytest.approx(2 * (3e12 + 1e12 + 15e11) / 0.5)
    monkeypatch.setattr(paper, "measured_step", lambda _: step)
    paper.main(["coco", "--results", str(tmp_path / "kept")])
    text = paper.section(tmp_path / "kept" / "coco.json")
    assert (
        "**Measured** on one a GPU: a step of 2 pictures of 1216x800" in text and "takes 500 ms, so 22 TFLOP/s" in text
    )
    assert "a GPU sustains" not in text


def test_a_step_at_full_scale_is_told_as_it_was_measured(tmp_path: Path) -> None:
    row = {
        "teachers": ["r101", "fcos"],
        "student": "faster_rcnn/faster_rcnn_r50_fpn_1x_coco.py",
        "input": [2, 3, 384, 640],
        "categories": 80,
        "parameters": 41_760_000,
        "seconds": 12.34,
        "clock": "processor",
        "peak_gib": 7.26,
    }
    write_json(
        tmp_path / "cpu-2.json",
        {"machine": {"class": "cpu-2", "gpu": None, "processor": "a processor"}, "rows": {"coco_fcos": row}},
    )
    told = "| `coco_fcos` | r101 and fcos | faster_rcnn_r50_fpn_1x_coco | 41.8 M | 80 | 640x384 | 12.3 s of processor time | 7.3 GiB |"
    assert told in full_scale.section(tmp_path / "cpu-2.json").splitlines()


def test_every_full_scale_experiment_has_been_measured() -> None:
    found = {name for path in full_scale.RESULTS.glob("*.json") for name in read_json(path)["rows"]}
    assert found == set(full_scale.EXPERIMENTS)
