"""Detectors of mmdet beyond the seven families: which teach, which are taught, and why others are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.study import random_study
from mutineck.detectors.loaders import evaluation_loader
from mutineck.study.experiment import DetectorSpec, Experiment
from tests.scripts import load

zoo = load("zoo")


def test_each_folder_of_mmdet_gives_one_config() -> None:
    chosen = zoo.chosen_configs()
    assert len({config.parent for config in chosen}) == len(chosen) > 80
    assert Path("yolox/yolox_l_8x8_300e_coco.py") in chosen and Path("gfl/gfl_r50_fpn_1x_coco.py") in chosen


def test_the_table_says_how_many_can_and_why_others_cannot() -> None:
    rows = [(Path("a/b.py"), ["yes, strides 8", "no | way <here>"]), (Path("c/d.py"), ["no", "no"])]
    page = zoo.written(rows, "abc")
    assert (
        f"A config of 2 of the {len(zoo.chosen_configs())} folders" in page and "1 can teach, 0 can be taught" in page
    )
    assert "| `a/b.py` | yes, strides 8 | no / way &lt;here> |" in page and "Revision abc." in page


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "teaches", "learns"),
    [
        ("yolox", "yes, strides 8, 16, 32", "yes"),
        ("paa", "yes, strides 8, 16, 32, 64, 128", "yes"),
        ("sparse_rcnn", "yes, strides 4, 8, 16, 32", "yes"),
        (
            "ssd",
            "SingleStageDetector: the maps of its neck have 256, 512, 1024 channels",
            "SingleStageDetector: the maps",
        ),
        ("detr", "DETR has no neck, whose maps are what is taught", "DETR has no neck"),
    ],
)
def test_detectors_that_the_issue_names_teach_and_are_taught_or_say_why_not(
    folder: str, teaches: str, learns: str, tmp_path: Path
) -> None:
    zoo.register()
    study = random_study(Experiment.model_validate(zoo.STUDY), tmp_path / "study")
    batch = next(iter(evaluation_loader(study, "train", batch=2)))
    answers, _ = zoo.ask(zoo.chosen_configs([folder])[0], batch, study)
    assert answers[0].startswith(teaches) and answers[1].startswith(learns)


def test_another_family_goes_with_a_config() -> None:
    assert DetectorSpec(family="other", config="yolox/yolox_s_8x8_300e_coco.py").config
    with pytest.raises(ValueError, match="family: other goes with a `config`; the families built here are faster_rcnn"):
        DetectorSpec(family="other")
