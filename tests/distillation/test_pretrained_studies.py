"""The studies on photographs, from ImageNet's weights to a taught student, at the smallest size on generated pictures."""

from __future__ import annotations

from pathlib import Path

import pytest

from mutineck.dataset.shapes import write_shapes
from mutineck.dataset.stage import convert
from mutineck.distillation import distil
from mutineck.study.experiment import INTERMEDIATE, load_experiment
from mutineck.study.experiment_file import repository
from mutineck.study.jobs import Job
from mutineck.study.stage import Study
from mutineck.teachers.intermediate import prepare_intermediate
from mutineck.teachers.stage import prepare_teacher
from tests.distillation.tiny import plant_centroids

SHAPES = ("cross", "disc", "hexagon", "square", "star", "triangle")
CATEGORIES = {
    "voc_animals": ("cat", "cow", "dog", "horse", "person", "sheep"),
    "neu_det": ("crazing", "inclusion", "patches", "pitted_surface", "rolled-in_scale", "scratches"),
}
STUDIES = [f"{name}{kind}" for name in CATEGORIES for kind in ("", "_specialists")]


def small(name: str, folder: Path) -> Study:
    """Return a study of the repository at the smallest size, on pictures that are drawn into a folder."""
    categories = CATEGORIES[name.removesuffix("_specialists")]
    write_shapes(folder / "VOC", images=30, seed=0, size=(96, 64), max_objects=6)
    (folder / "list.txt").write_text("\n".join(path.stem for path in (folder / "VOC" / "JPEGImages").iterdir()))
    aliases = dict(zip(SHAPES, categories, strict=True)) | dict.fromkeys(("crescent", "diamond", "pill", "ring"), "")
    teachers = [teacher.name for teacher in load_experiment(name).teachers]
    schedules = [*(f"teachers.{teacher}" for teacher in teachers), "student", "intermediate"]
    changes = [f"dataset.root={folder / 'VOC'}", f"dataset.aliases={aliases}", "input.scale=[96,64]"]
    changes += [f"{record}.schedule.epochs=1" for record in schedules]
    changes += ["evaluation.splits=[val]", "evaluation.report=val", "resources.device=cpu", "intermediate.gate=1"]
    changes += [f"dataset.pictures={folder / 'list.txt'}"] * (load_experiment(name).dataset.pictures is not None)
    return Study(load_experiment(name, changes), folder / "study", Job("dataset"))


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_a_study_on_photographs_goes_from_first_weights_to_a_taught_student(name: str, tmp_path: Path) -> None:
    study = small(name, tmp_path)
    convert(study)
    assert set(study.dataset.categories) == set(CATEGORIES[name.removesuffix("_specialists")])
    for teacher in study.experiment.teachers:
        prepare_teacher(study.at("teachers", teacher.name))
    prepare_intermediate(study.at("teachers", INTERMEDIATE))
    plant_centroids(study, 64)
    for arm in ("student@intermediate", "mutineck@intermediate"):
        rows = distil(study.at("distillation", f"{arm}/seed0")).found
        assert any(row["metric"] == "bbox_mAP" for row in rows)


@pytest.mark.parametrize("name", STUDIES)
def test_every_arm_but_the_student_alone_starts_alike(name: str) -> None:
    from mutineck.study.starts import start_of

    experiment = load_experiment(name)
    starts = {arm: start_of(experiment, spec) for arm, spec in experiment.arms.items()}
    assert (
        starts.pop("student") == "own" and set(starts.values()) == {INTERMEDIATE} and "mutineck@intermediate" in starts
    )
    detectors = [teacher.detector for teacher in experiment.teachers]
    assert {d.backbone for d in detectors if d} == {"efficientnet_lite2"}
    assert experiment.student.detector.backbone == "efficientnet_lite0"


def test_the_list_of_pictures_with_animals_is_of_voc_2012() -> None:
    names = (repository() / "experiments" / "lists" / "voc_animals.txt").read_text().split()
    assert len(names) == len(set(names)) == 3426 and names == sorted(names)
    assert all(len(name) == 11 and name[4] == "_" and 2007 <= int(name[:4]) <= 2012 for name in names)
