"""Studies at the smallest size that still trains: generated scenes, detectors of random weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.study import speak
from mutineck.detection.specs import FAMILIES, DetectorSpec
from mutineck.study.experiment import Experiment
from mutineck.study.jobs import Job
from mutineck.study.stage import Study
from mutineck.system.files import write_json

SIZE = (128, 96)
SCHEDULE = {"epochs": 1, "batch": 4, "learning_rate": 0.005, "warmup": 0}


def detector(family: str, **changes: Any) -> dict[str, Any]:
    """Return the fields of a detector of a family at its smallest (GroupNorm's 32 groups bound the neck)."""
    smallest = {"depth": 18, "base_channels": 8, "neck_channels": 32, "head_channels": 32, "anchor_scale": 4}
    return {"family": family, **smallest, **changes}


def experiment_of(
    teachers: Sequence[str] = ("faster_rcnn", "retinanet"),
    *,
    student: str | Mapping[str, Any] = "faster_rcnn",
    arms: Mapping[str, Any] | Sequence[str] = ("student",),
    inherit: bool = False,
    schedule: Mapping[str, Any] = SCHEDULE,
    **changes: Any,
) -> Experiment:
    """Return an experiment whose teachers are called like their families."""
    fields = {
        "name": "tiny",
        "dataset": {"format": "shapes", "shapes": {"images": 20, "size": list(SIZE), "max_objects": 4}},
        "input": {"scale": list(SIZE)},
        "teachers": [{"name": name, "detector": detector(name)} for name in teachers],
        "student": {
            "detector": detector(student) if isinstance(student, str) else dict(student),
            "schedule": dict(schedule),
            "inherit": inherit,
        },
        "arms": dict(arms) if isinstance(arms, Mapping) else dict.fromkeys(arms),
        "intermediate": {"gate": 1.0, "alignment_images": 4, "schedule": dict(SCHEDULE)},
        "evaluation": {"splits": ["val"], "report": "val", "batch": 4},
        "resources": {"device": "cpu"},
    }
    return Experiment.model_validate(fields | changes)


def derive(tiny: Study, root: Path, *teachers: str, **fields: Any) -> Study:
    """Return a study in a folder of its own that shares the tiny study's data set and teachers."""
    experiment = experiment_of(teachers or ("faster_rcnn", "retinanet"), **fields)
    (root / "teachers").mkdir(parents=True)
    (root / "dataset").symlink_to(tiny.path("dataset"))
    for teacher in experiment.teachers:
        (root / "teachers" / teacher.name).symlink_to(tiny.path("teachers", teacher.name))
    return Study(experiment, root, Job("distillation", None))


def random_detector(
    family: str, num_classes: int, *, box_per_category: bool = False, **changes: Any
) -> tuple[torch.nn.Module, dict[str, Any]]:
    """Return a detector that has learnt nothing, yet whose scores, boxes and running statistics differ, and its config."""
    from mutineck.detection.configs import model_config
    from mutineck.detection.frozen import build_model
    from mutineck.system.seeding import derive_seed, seeded

    config = model_config(DetectorSpec(**detector(family, **changes)), num_classes)
    if box_per_category:
        config["roi_head"]["bbox_head"]["reg_class_agnostic"] = False
    with seeded(derive_seed("tiny", family)):
        return speak(build_model(config)), config


def write_teachers(study: Study, families: Sequence[str] = FAMILIES) -> None:
    """Write a random detector of each family into the study, in the layout of the teachers stage."""
    from mutineck.detection.training import save_detector
    from mutineck.detectors.folders import input_normalisation

    categories = study.dataset.categories
    for family in families:
        model, config = random_detector(family, len(categories))
        folder = study.path("teachers", family)
        folder.mkdir(parents=True)
        save_detector(folder, model, config, categories=categories, normalisation=input_normalisation(study))
        row = {"name": family, "split": "val", "metric": "bbox_mAP", "category": "", "value": 0.0}
        write_json(folder / "metrics.json", [row])
        write_json(folder / "predictions_val.json", [])


def first_batch(study: Study, images: int = 2, split: str = "train") -> dict[str, Any]:
    """Return the arguments of mmdet's `forward_train` for the split's first pictures with targets, crowd left out."""
    from mutineck.detectors.loaders import evaluation_loader

    batch = next(iter(evaluation_loader(study, split, batch=images)))
    return {
        "img": batch.image,
        "img_metas": batch.metas,
        "gt_bboxes": [b[~crowd] for b, crowd in zip(batch.boxes, batch.crowd, strict=True)],
        "gt_labels": [v[~crowd] for v, crowd in zip(batch.labels, batch.crowd, strict=True)],
    }


def total(losses: Mapping[str, Any]) -> torch.Tensor:
    """Return the sum of the terms that mmdet optimises: those with `loss` in their names."""
    terms = [v if isinstance(v, list | tuple) else [v] for name, v in losses.items() if "loss" in name]
    return torch.stack([value.mean() for values in terms for value in values]).sum()
