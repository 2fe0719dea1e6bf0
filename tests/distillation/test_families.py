"""Every family as the student of a mixture of teachers; levels meet by stride."""

from __future__ import annotations

from pathlib import Path

import pytest

from mutineck.detection.specs import FAMILIES
from mutineck.study.stage import Study
from mutineck.system.errors import ExperimentError
from mutineck.teachers.intermediate import prepare_intermediate
from tests.detection.tiny import derive
from tests.distillation.tiny import build, plant_centroids, step

MIXTURES = {
    "faster_rcnn": ("faster_rcnn", "retinanet"),
    "mask_rcnn": ("mask_rcnn", "fcos", "gfl"),
    "cascade_rcnn": ("cascade_rcnn", "atss"),
    "retinanet": ("retinanet", "faster_rcnn", "fcos"),
    "fcos": ("fcos", "mask_rcnn"),
    "atss": ("atss", "cascade_rcnn"),
    "gfl": ("gfl", "retinanet", "faster_rcnn"),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_student_of_every_family_learns_from_a_mixture(tiny: Study, tmp_path: Path, family: str) -> None:
    arms = ("mutineck", "mutineck-intermediate")
    study = derive(
        tiny,
        tmp_path / "s",
        *MIXTURES[family],
        student=family,
        arms=arms,
        inherit=True,
        intermediate={"mode": "prior", "gate": 1.0, "alignment_images": 4},
        distillation={"centroid_cosine": -1.0, "logits": 1.0},
        evaluation={"splits": [], "report": "val", "batch": 8},
    )
    prepare_intermediate(study.at("teachers", "intermediate"))
    plant_centroids(study)
    for arm in arms:
        distiller = build(study, arm)
        distiller.epoch = 1.0
        losses = step(distiller, study)
        assert {"loss_kd_centre", "loss_kd_direction", "loss_kd_attention"} <= set(losses)
        for name, value in losses.items():
            for part in value if isinstance(value, list) else [value]:
                assert part.isfinite().all(), (arm, name)
        assert not [name for name, p in distiller.named_parameters() if p.requires_grad and p.grad is None], arm
        # The first of the mixture is of the student's own family and has all its levels.
        assert distiller.guidance.teacher_losses[0].levels.compared == (
            (4, 8, 16, 32, 64) if "rcnn" in family else (8, 16, 32, 64, 128)
        )
        # Pictures without any object, in all of a batch.
        for name, value in step(distiller, study, empty=True).items():
            for part in value if isinstance(value, list) else [value]:
                assert part.isfinite().all(), (arm, name)
        assert all(p.grad.isfinite().all() for p in distiller.parameters() if p.grad is not None)


def test_the_merged_map_has_the_anchors_levels(tiny: Study, tmp_path: Path) -> None:
    """A one-stage student of a two-stage anchor shares strides 8 to 64 with it."""
    study = derive(
        tiny,
        tmp_path / "s",
        "faster_rcnn",
        "retinanet",
        student="retinanet",
        arms=["fgd:intermediate"],
        intermediate={"mode": "prior", "gate": 1.0, "alignment_images": 4},
    )
    prepare_intermediate(study.at("teachers", "intermediate"))
    assert build(study, "fgd:intermediate").guidance.teacher_losses[0].levels.compared == (8, 16, 32, 64)


def test_regions_are_drawn_on_levels_that_the_anchor_lacks(tiny: Study, tmp_path: Path) -> None:
    """Stride 128 is the second teacher's alone; the anchor's maps cannot say how large it is."""
    study = derive(
        tiny, tmp_path / "s", "faster_rcnn", "retinanet", student="retinanet", arms=["mutineck-intermediate"]
    )
    plant_centroids(study)
    distiller = build(study, "mutineck-intermediate")
    assert [loss.levels.compared for loss in distiller.guidance.teacher_losses] == [
        (8, 16, 32, 64),
        (8, 16, 32, 64, 128),
    ]
    assert "loss_kd_centre" in step(distiller, study)


def test_a_mask_student_without_masks_is_refused(tiny: Study, tmp_path: Path) -> None:
    from mutineck.distillation import distil
    from mutineck.system.files import read_json, write_json

    study = derive(tiny, tmp_path / "s", student="mask_rcnn")
    (study.root / "dataset").unlink()
    description = read_json(tiny.path("dataset", "dataset.json"))
    write_json(study.path("dataset", "dataset.json"), description | {"masks": "none"})
    for split in ("train", "val"):
        study.path("dataset", f"{split}.json").symlink_to(tiny.path("dataset", f"{split}.json"))
    with pytest.raises(
        ExperimentError, match=r"student/seed0: .*mask for every box; here none.*faster_rcnn instead of mask_rcnn"
    ):
        distil(study.at("distillation", "student/seed0"))
