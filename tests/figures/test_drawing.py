"""Every figure: from stored results alone, the same bytes each time, and named when it cannot be drawn."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from mutineck.figures import curves, draw, draw_all, names, per_category
from mutineck.figures.registry import FIGURES, SECTIONS, load
from mutineck.figures.style import read_index, save_figure
from mutineck.study.jobs import Job
from mutineck.study.stage import Study
from mutineck.system.errors import ExperimentError
from mutineck.system.files import write_json
from tests.figures.tiny import make_experiment

OWN = [name for name in names() if FIGURES[name][0] != "clusters"]


@pytest.mark.parametrize("name", OWN)
def test_same_bytes_when_drawn_again(name: str, finished: Study) -> None:
    first, again = [], []
    for contents in (first, again):
        drawing = load(name)(finished)
        path = save_figure(
            finished,
            name,
            drawing.figure,
            drawing.data,
            title=drawing.title,
            caption=drawing.caption,
            alt=drawing.alt,
        )
        contents += [path.with_suffix(suffix).read_bytes() for suffix in (".png", ".pdf", ".csv")]
    assert first == again
    assert first[0].startswith(b"\x89PNG") and first[1].startswith(b"%PDF")
    assert b"CreationDate" not in first[1]
    assert b"/Type3" not in first[1]  # text as text, not as drawn outlines
    assert len(pd.read_csv(finished.path("figures", f"{name}.csv")))
    entry = next(item for item in read_index(finished) if item["name"] == name)
    assert len(entry["caption"]) > 40 and len(entry["alt"]) > 20 and entry["title"]


def test_the_figure_of_costs_shows_the_student_in_onnxruntime_beside_pytorch(finished: Study) -> None:
    drawing = load("costs")(finished)
    assert "Open circles: the student exported to ONNX, 9 ms in onnxruntime." in drawing.caption
    points = drawing.figure.axes[2].lines
    assert [line for line in points if line.get_markerfacecolor() == "none" and list(line.get_xdata()) == [9.0]]
    students = drawing.data[drawing.data["detector"] == "student"]
    assert (students["onnx_milliseconds"] == 9.0).all()


def test_every_figure_has_a_section() -> None:
    assert {section for section, _ in FIGURES.values()} == set(SECTIONS)


def test_figure_shows_itself_in_a_notebook(finished: Study) -> None:
    from mutineck.figures.gallery import draw_gallery

    assert draw_gallery(finished, "val", 3)._repr_png_().startswith(b"\x89PNG")


def test_nothing_there_is_said_not_hidden(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = Study(make_experiment(), tmp_path / "tiny", Job("figures"))
    drawn = draw_all(study).found
    assert [item.name for item in drawn] == names()
    assert all(item.path is None and "mutineck run" in item.reason for item in drawn)
    assert capsys.readouterr().out.count("skipped: an input is missing") == len(drawn)


def test_unknown_name_has_near_matches(finished: Study) -> None:
    with pytest.raises(ExperimentError, match="did you mean 'gallery'"):
        draw(finished, ["galery"])


def test_missing_picture_is_named(finished: Study, tmp_path: Path) -> None:
    root = shutil.copytree(finished.root, tmp_path / "tiny")
    (root / "dataset" / "images" / "train_000.png").unlink()
    (drawn,) = draw(Study(finished.experiment, root, Job("figures")), ["gallery"])
    assert drawn.path is None and "train_000.png" in drawn.reason


def test_single_seed_is_drawn_and_said(finished: Study) -> None:
    alone = Study(make_experiment(seeds=[1]), finished.root, Job("figures"))
    assert "One seed: no interval" in load("arms")(alone).caption


def test_arm_without_results_is_named_in_the_caption(finished: Study) -> None:
    more = make_experiment(arms={"student": None, "fgd:mean": None, "fgd:retina": None, "mutineck": None})
    drawing = load("arms")(Study(more, finished.root, Job("figures")))
    assert "Not there yet: fgd:retina seed 0" in drawing.caption


@pytest.mark.parametrize("name", ["detections", "precision", "errors", "confusion"])
def test_detector_that_finds_nothing(name: str, finished: Study, tmp_path: Path) -> None:
    root = shutil.copytree(finished.root, tmp_path / "tiny")
    for split in ("val", "test"):
        write_json(root / "distillation" / "student" / "seed0" / f"predictions_{split}.json", [])
    assert len(load(name)(Study(finished.experiment, root, Job("figures"))).data)


def test_a_category_that_no_single_teacher_knows_is_nobodys(finished: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    nan = float("nan")
    table = pd.DataFrame(
        {"disc": [0.5, 0.4, 0.6], "ring": [nan, nan, 0.3]}, ["teacher:red", "teacher:white", "teacher:intermediate"]
    )
    monkeypatch.setattr(per_category, "by_category", lambda *_: table)
    drawing = per_category.knowledge(finished)
    assert "is red on 1 and white on 0 of the 1 categories that any knows" in drawing.caption
    assert len(drawing.figure.axes[0].patches) == 1


def test_the_detection_loss_holds_no_term_of_distillation() -> None:
    terms = ("loss_cls", "loss_bbox", "loss_kd_attention", "share/loss_cls")
    data = pd.DataFrame([{"arm": arm, "term": term} for arm in ("fgd:mean", "mutineck") for term in terms])
    assert curves._common_terms(data) == ["loss_cls", "loss_bbox"]


def test_loss_shares_are_of_the_gradient_and_of_the_loss_where_an_arm_did_not_measure_it(
    finished: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawing = curves.loss_shares(finished)
    assert drawing.figure.axes[0].get_ylabel() == "share of gradient, %"
    rows = drawing.data.set_index(["arm", "term", "iteration"]).percent
    assert rows["mutineck", "loss_kd_region", 41] == pytest.approx(100 * 0.7 / 2.6)
    assert "all distillation terms of an arm together is 31 %" in drawing.caption  # 0.8 of 2.6
    every = curves.read_curves(finished)
    unmeasured = every[~((every.arm == "student") & every.term.str.startswith("gradient/"))]
    monkeypatch.setattr(curves, "read_curves", lambda study: unmeasured)
    drawing = curves.loss_shares(finished)
    assert drawing.figure.axes[0].get_ylabel() == "share of loss, %"
    assert "the gradient was not measured in every arm" in drawing.caption


def test_thresholds_are_chosen_on_val_where_test_alone_is_listed(finished: Study) -> None:
    """`evaluation.splits: [test]` adds to what is measured; val is measured in any case, and chooses."""
    from mutineck.figures.detections import threshold
    from mutineck.figures.matching import best_threshold, match_split
    from mutineck.figures.split_data import Split, prediction_file

    spec = finished.experiment.evaluation.model_copy(update={"splits": ("test",)})
    listed = finished.experiment.model_copy(update={"evaluation": spec})
    assert listed.evaluation.measured == ("val", "test")
    best = {}
    for name in ("val", "test"):
        split = Split(finished, name)
        best[name] = best_threshold(match_split(split, split.predictions(prediction_file(finished, "faster", name))))
    assert best["val"] != best["test"]
    assert threshold(Study(listed, finished.root, Job("figures")), "faster") == best["val"]
