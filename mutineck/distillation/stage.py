"""The distillation stage: one arm, one seed, from configs to a plain student."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mutineck.detection.configs import custom_imports, detector_imports, has_masks, model_config, read_config
from mutineck.detection.evaluation import device_of
from mutineck.detection.protocols import Module
from mutineck.detection.training import finish_training, save_detector, train
from mutineck.detectors.cache import cache_settings
from mutineck.detectors.folders import detector_config, input_normalisation, sha256_config
from mutineck.detectors.measuring import measure_detector
from mutineck.detectors.named_files import locate
from mutineck.detectors.training import data_identity, detector_training
from mutineck.study.arms import ArmSpec
from mutineck.study.experiment import INTERMEDIATE, DetectorSpec, DistillationSpec
from mutineck.study.stage import Outcome, Study
from mutineck.study.starts import donors
from mutineck.system.files import sha256_file
from mutineck.teachers.intermediate import START

STUDENT = "student.pth"
MODULES = ("mutineck.distillation.distiller",)
"""What registers the distiller and its hook with mmdet, and with them the intermediate teacher."""
HOOKS = ({"type": "DistillationHook", "priority": "VERY_HIGH"},)


def arm_weights(experiment_weights: DistillationSpec, arm: ArmSpec) -> DistillationSpec:
    """Return the experiment's loss weights with the arm's overrides.

    Raises:
        ValidationError: an override that is no field, or of a wrong type.
    """
    return DistillationSpec.model_validate(experiment_weights.model_dump(by_alias=True) | dict(arm.weights))


def teaching_files(study: Study, arm: ArmSpec) -> dict[str, Path]:
    """Return every file of earlier stages that an arm's training reads, by a name for it."""
    files: dict[str, Path] = {"train": study.need("dataset", "train.json")}
    names = [t.name for t in study.experiment.teachers]
    merged = [INTERMEDIATE] if arm.needs_intermediate else []
    for name in dict.fromkeys((*arm.teacher_names(names), *merged, *donors(study.experiment, arm))):
        files[f"teacher {name}"] = study.need("teachers", name, "checkpoint.pth")
        files[f"config of {name}"] = study.need("teachers", name, "config.py")
    if arm.centroids:
        for source in centroid_sources(study, arm):
            files[f"centroids {source}"] = study.need("clusters", "centroids", f"{source}.safetensors")
    return files


def centroid_sources(study: Study, arm: ArmSpec) -> tuple[str, ...]:
    """Return whose centroids an arm needs: those of the maps that teach."""
    return (INTERMEDIATE,) if arm.needs_intermediate else arm.teacher_names([t.name for t in study.experiment.teachers])


def student_detector(study: Study) -> DetectorSpec:
    """Return the student's record with the files that it names where they lie; they are noted as inputs."""
    detector, files = locate(study.experiment.student.detector, study.experiment, "student.detector")
    study.note(*files)
    return detector


def distiller_config(study: Study) -> dict[str, Any]:
    """Return the `model` dict of the distiller of this arm and seed."""
    experiment = study.experiment
    arm = experiment.arm(study.job.arm)
    categories = study.dataset.categories
    return {
        "type": "Distiller",
        "student": model_config(student_detector(study), len(categories)),
        "categories": list(categories),
        "normalisation": input_normalisation(study),
        "seed": study.job.seed,
        "start": [teacher_folder(study, donor) for donor in donors(experiment, arm)],
        "start_is_asked_for": arm.start is not None,
        "guidance": guidance_config(study, arm) if arm.taught else None,
    }


def teacher_folder(study: Study, name: str) -> dict[str, Any]:
    """Return name, folder and aliases of a teacher, the intermediate one too: what `load_folder` takes."""
    aliases = {} if name == INTERMEDIATE else dict(study.experiment.teacher(name).aliases)
    return {"name": name, "folder": str(study.path("teachers", name).resolve()), "aliases": aliases}


def guidance_config(study: Study, arm: ArmSpec) -> dict[str, Any]:
    """Return the teaching part of an arm's distiller: arm, weights, and the files of teachers and centroids."""
    experiment = study.experiment
    wanted = arm.teacher_names([t.name for t in experiment.teachers])
    joint = None
    if arm.needs_intermediate and experiment.intermediate.mode == "joint":
        joint = detector_config(study.need("teachers", INTERMEDIATE, "config.py").resolve()).model.to_dict()
        joint["start"] = str(study.need("teachers", INTERMEDIATE, START).resolve())
    return {
        # mmcv writes configs as Python calls, and `lambda` is no name there: the weights go by field names.
        "arm": arm.model_dump(exclude={"weights"}),
        "weights": arm_weights(experiment.distillation, arm).model_dump(exclude={"shares_every"}),
        "teachers": [teacher_folder(study, name) for name in wanted],
        "intermediate": str(study.path("teachers", INTERMEDIATE).resolve()) if arm.needs_intermediate else None,
        "joint": joint,
        "centroids": {
            source: str(study.need("clusters", "centroids", f"{source}.safetensors").resolve())
            for source in (centroid_sources(study, arm) if arm.centroids else ())
        },
        "cache": cache_settings(study),
    }


def distil(study: Study) -> Outcome[list[dict[str, Any]]]:
    """Train the student of `study.item` (`ARM/seedN`); write `student.pth`, config, curves, predictions, metrics.

    Returns:
        Found: its metrics, one row a number, with `arm` and `seed`.

    Raises:
        FileNotFoundError: an earlier stage has not been run; the message names the command.
    """
    name, seed = study.experiment.arm_name(study.job.arm), study.job.seed
    categories = study.dataset.categories
    distiller, config = train_student(study)
    save_student(study, distiller.student, categories)
    rows = measure_detector(study, distiller.student, categories, labels={"name": name, "arm": name, "seed": seed})
    finish_training(config, study.folder)
    return Outcome(
        rows,
        reads=list(teaching_files(study, study.experiment.arm(study.job.arm)).values()),
        writes=[study.folder / name for name in (STUDENT, "config.py", "metrics.json", "curves.csv")],
        results={row["split"]: row["value"] for row in rows if row["metric"] == "bbox_mAP"},
    )


def train_student(study: Study) -> tuple[Any, Any]:
    """Train the distiller of `study.item`, going on where an earlier call was stopped; return it and its config.

    Under `torchrun` each process takes its share of every batch. What is reached stays in the stage's folder until
    `distil` has made a student of it.

    Raises:
        FileNotFoundError: an earlier stage has not been run; the message names the command.
    """
    experiment = study.experiment
    arm = experiment.arm(study.job.arm)
    files = teaching_files(study, arm)
    model_dict = distiller_config(study)
    schedule = experiment.student.schedule
    if arm.epochs:
        schedule = schedule.model_copy(update={"epochs": arm.epochs})
    masks = has_masks(model_dict["student"])
    categories = study.dataset.categories
    modules = [*MODULES, *detector_imports(student_detector(study))]
    if arm.needs_intermediate and experiment.intermediate.mode == "joint":
        modules += custom_imports(read_config(study.need("teachers", INTERMEDIATE, "config.py")))
    hooks = [{**HOOKS[0], "interval": experiment.distillation.shares_every}, *HOOKS[1:]]
    config = detector_training(
        study, model_dict, categories, schedule, seed=study.job.seed, masks=masks, hooks=hooks, modules=modules
    )
    identity = {key: (sha256_config if path.suffix == ".py" else sha256_file)(path) for key, path in files.items()}
    identity |= data_identity(study)
    device = device_of(experiment.resources.device)
    return train(config, device=device, identity=identity, root=study.root), config


def save_student(study: Study, student: Module, categories: Sequence[str]) -> None:
    """Write the plain student: mmdet's layout, no teacher, no adapter."""
    detector = student_detector(study)
    save_detector(
        study.folder,
        student,
        model_config(detector, len(categories)),
        categories=categories,
        normalisation=input_normalisation(study),
        checkpoint=STUDENT,
        imports=detector_imports(detector),
    )
