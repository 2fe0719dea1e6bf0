"""The teachers stage: get each teacher (zoo, checkpoint, or training), check it, measure it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mutineck.detection.configs import (
    has_masks,
    model_config,
    own_config_files,
    read_config,
)
from mutineck.detection.evaluation import device_of
from mutineck.detection.frozen import Normalisation, build_model, common_names, detector_categories
from mutineck.detection.loading import LoadReport, load_strictly
from mutineck.detection.specs import DetectorSpec, ScheduleSpec
from mutineck.detection.training import finish_training, save_detector, train
from mutineck.detectors.folders import input_normalisation
from mutineck.detectors.measuring import measure_detector
from mutineck.detectors.training import detector_training
from mutineck.study.experiment import TeacherSpec
from mutineck.study.stage import Study
from mutineck.system.errors import ExperimentError, unknown
from mutineck.system.files import sha256_file
from mutineck.teachers.checks import check_teacher
from mutineck.teachers.training_subset import training_annotations
from mutineck.teachers.zoo import fetch_weights, find_in_zoo


def prepare_teacher(study: Study) -> list[dict[str, Any]]:
    """Make the teacher `study.item` ready in its folder: weights, config, predictions, metrics.

    Returns:
        Its metrics, one row a number.

    Raises:
        ExperimentError: unknown zoo name or category.
        CheckpointError: weights that do not fit the config.
        TooWeak: see `check_teacher`.
    """
    spec = study.experiment.teacher(study.item or "")
    if spec.config and spec.checkpoint:
        study.note(Path(spec.checkpoint).expanduser(), *own_config_files(spec.config))
    categories = teacher_categories(study, spec)
    config: Any = None
    normalisation: Normalisation | None = None
    if spec.detector is not None:
        model, config = _train_teacher(study, spec, spec.detector, categories)
    else:
        model, normalisation = _load_teacher(study, spec, categories)
    rows = measure_detector(
        study, model, categories, labels={"name": spec.name}, aliases=spec.aliases, normalisation=normalisation
    )
    check_teacher(study, rows)
    if config is not None:
        # Not before all is well: with its state kept, a refused teacher need not be trained again.
        finish_training(config, study.folder)
    return rows


def teacher_categories(study: Study, spec: TeacherSpec) -> list[str]:
    """Return a teacher's own categories in its label order.

    Those that the experiment names; for a zoo or checkpoint teacher those of its checkpoint or config; else the
    study's.

    Raises:
        ExperimentError: unknown zoo name or category, a teacher that does not say its categories, or one that shares
            none with the data set.
    """
    own = study.dataset.categories
    if spec.categories:
        for name in spec.categories:
            if spec.detector is not None and name not in own:
                raise ExperimentError(f"teachers.{spec.name}.categories: " + unknown("category", name, own))
        categories = list(spec.categories)
    elif spec.detector is not None:
        return list(own)
    else:
        source, weights = _files_of(spec)
        categories = detector_categories(
            read_config(source),
            weights,
            owner=f"teachers.{spec.name}",
            remedy=f"set teachers.{spec.name}.categories to the names in label order",
        )
    common_names(f"teacher {spec.name!r}", categories, own, spec.aliases, alias_field(spec))
    return categories


def alias_field(spec: TeacherSpec) -> str:
    """Return how an experiment gives a teacher's aliases."""
    return f"teachers.{spec.name}.aliases: {{teacher's name: data set's name}}"


def _files_of(spec: TeacherSpec) -> tuple[Path, Path]:
    """Return config and weights of a teacher from the zoo or of one's own."""
    if spec.zoo:
        entry = find_in_zoo(spec.zoo)
        return entry.config, fetch_weights(entry)
    return Path(spec.config or ""), Path(spec.checkpoint or "").expanduser()


def _train_teacher(
    study: Study, spec: TeacherSpec, detector: DetectorSpec, categories: Sequence[str]
) -> tuple[torch.nn.Module, Any]:
    """Train a teacher and store it; return it and its training config."""
    model_dict = model_config(detector, len(categories))
    schedule = spec.schedule or ScheduleSpec()
    annotations = training_annotations(study)
    config = detector_training(
        study, model_dict, categories, schedule, seed=spec.seed, masks=has_masks(model_dict), annotations=annotations
    )
    identity = {"train": sha256_file(annotations)}
    model = train(config, device=device_of(study.experiment.resources.device), identity=identity, root=study.root)
    save_detector(study.folder, model, model_dict, categories=categories, normalisation=input_normalisation(study))
    return model, config


def _load_teacher(study: Study, spec: TeacherSpec, categories: Sequence[str]) -> tuple[torch.nn.Module, Normalisation]:
    """Load a published or given teacher strictly, and put it into the study's own layout."""
    source, weights = _files_of(spec)
    if not spec.zoo:
        print(f"teacher {spec.name!r}: reading {source} (an mmdet config is Python code and is executed)")
    config = read_config(source)
    config.model.pop("pretrained", None)
    config.model.backbone.init_cfg = None
    model = build_model(config)
    report: LoadReport = load_strictly(model, weights)
    print(f"teacher {spec.name!r}: {report}")
    normalisation = Normalisation.of(config.data.test.pipeline, f"teacher {spec.name!r}")
    fields = {"mean": list(normalisation.mean), "std": list(normalisation.std), "to_rgb": normalisation.to_rgb}
    if fields != input_normalisation(study):
        print(
            f"teacher {spec.name!r}: normalises with {fields}, the student with {input_normalisation(study)}; "
            "its input is brought over by a fixed affine"
        )
    save_detector(study.folder, model, config.model.to_dict(), categories=categories, normalisation=fields)
    return model, normalisation
