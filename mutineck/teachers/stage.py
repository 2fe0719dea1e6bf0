"""The teachers stage: get each teacher (zoo, checkpoint, or training), check it, measure it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mutineck.dataset.usable import refuse_small
from mutineck.detection.configs import detector_imports, has_masks, model_config, own_config_files
from mutineck.detection.evaluation import device_of
from mutineck.detection.frozen import Normalisation, common_names
from mutineck.detection.protocols import Detector
from mutineck.detection.specs import DetectorSpec, ScheduleSpec
from mutineck.detection.training import finish_training, save_detector, train
from mutineck.detectors.folders import input_normalisation, weights_of
from mutineck.detectors.given import GivenDetector, detector_of_study, read_given
from mutineck.detectors.measuring import measure_detector
from mutineck.detectors.named_files import find_config, locate
from mutineck.detectors.training import data_identity, detector_training
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
        DatasetError: in the network's input every box is too small for a vector.
        TooWeak: see `check_teacher`.
    """
    spec = study.experiment.teacher(study.item or "")
    refuse_small(study)
    given = None if spec.detector else _given_teacher(study, spec)
    categories = given.categories if given else _own_categories(study, spec)
    common_names(f"teacher {spec.name!r}", categories, study.dataset.categories, spec.aliases, alias_field(spec))
    config: Any = None
    normalisation: Normalisation | None = None
    if spec.detector is not None:
        model, config = _train_teacher(study, spec, spec.detector, categories)
    elif given is not None:
        model, normalisation = _load_teacher(study, spec, given), given.normalisation
    rows = measure_detector(
        study, model, categories, labels={"name": spec.name}, aliases=spec.aliases, normalisation=normalisation
    )
    check_teacher(study, rows)
    if config is not None:
        # Not before all is well: with its state kept, a refused teacher need not be trained again.
        finish_training(config, study.folder)
    return rows


def _own_categories(study: Study, spec: TeacherSpec) -> tuple[str, ...]:
    """Return the categories that a teacher is trained on: those that the experiment names for it, or its source's."""
    own = study.dataset.of_source(spec.source)
    for name in spec.categories or ():
        if name not in own:
            raise ExperimentError(f"teachers.{spec.name}.categories: " + unknown("category", name, own))
    if not own:
        raise ExperimentError(
            f"teachers.{spec.name}.source: the pictures of {spec.source} are labelled for no category, so nothing can "
            "be learned from them: name another source"
        )
    return tuple(spec.categories or own)


def alias_field(spec: TeacherSpec) -> str:
    """Return how an experiment gives a teacher's aliases."""
    return f"teachers.{spec.name}.aliases: {{teacher's name: data set's name}}"


def _given_teacher(study: Study, spec: TeacherSpec) -> GivenDetector:
    """Return a teacher from the zoo, of one's own or of another study; its files outside the study are noted."""
    field = f"teachers.{spec.name}"
    if spec.zoo:
        entry = find_in_zoo(spec.zoo)
        config, weights = entry.config, fetch_weights(entry)
    elif spec.study:
        folder = _folder_in_other_study(study, spec)
        config, weights = folder / "config.py", weights_of(folder)
        study.note(weights, config)
    else:
        config = find_config(study.experiment, f"{field}.config", spec.config or "")
        weights = study.experiment.find(f"{field}.checkpoint", spec.checkpoint or "")
        study.note(weights, *own_config_files(config))
    if not spec.zoo:
        print(f"teacher {spec.name!r}: reading {config} (an mmdet config is Python code and is executed)")
    given = read_given(
        config,
        weights,
        owner=field,
        remedies={
            "categories": f"set {field}.categories to the names in label order",
            "normalisation": f"set {field}.normalisation to {{mean: [...], std: [...], to_rgb: true}}",
        },
        categories=spec.categories,
        normalisation=Normalisation.of_fields(said.model_dump()) if (said := spec.normalisation) else None,
    )
    if given.config.model.type == "IntermediateTeacher":
        raise ExperimentError(
            f"{field}: {config} is an intermediate teacher: a neck over other teachers' maps, which lie elsewhere. "
            "Name one of those teachers, or a student of its study (`teacher: ARM/seedN`)"
        )
    return given


def _folder_in_other_study(study: Study, spec: TeacherSpec) -> Path:
    """Return the folder of a teacher that another study made."""
    field = f"teachers.{spec.name}.study"
    root = study.experiment.find(field, spec.study or "")
    if root.resolve() == study.root.resolve():
        raise ExperimentError(f"{field}: {root} is this study itself; name another one, or a `detector` to be trained")
    return detector_of_study(root, spec.teacher or spec.name, field)


def _train_teacher(
    study: Study, spec: TeacherSpec, detector: DetectorSpec, categories: Sequence[str]
) -> tuple[Detector, Any]:
    """Train a teacher and store it; return it and its training config."""
    detector, files = locate(detector, study.experiment, f"teachers.{spec.name}.detector")
    study.note(*files)
    model_dict, imports = model_config(detector, len(categories)), detector_imports(detector)
    schedule = spec.schedule or ScheduleSpec()
    annotations = training_annotations(study)
    config = detector_training(
        study,
        model_dict,
        categories,
        schedule,
        seed=study.experiment.seed_of(spec),
        masks=has_masks(model_dict),
        annotations=annotations,
        modules=imports,
    )
    identity = {"train": sha256_file(annotations)} | data_identity(study)
    model = train(config, device=device_of(study.experiment.resources.device), identity=identity, root=study.root)
    save_detector(
        study.folder,
        model,
        model_dict,
        categories=categories,
        normalisation=input_normalisation(study),
        imports=imports,
    )
    return model, config


def _load_teacher(study: Study, spec: TeacherSpec, given: GivenDetector) -> Detector:
    """Load a published or given teacher strictly, and put it into the study's own layout."""
    model, report = given.load()
    print(f"teacher {spec.name!r}: {report}")
    fields = given.normalisation.fields
    if fields != input_normalisation(study):
        print(
            f"teacher {spec.name!r}: normalises with {fields}, the student with {input_normalisation(study)}; "
            "pictures are converted to its normalisation"
        )
    save_detector(
        study.folder,
        model,
        given.config.model.to_dict(),
        categories=given.categories,
        normalisation=fields,
        imports=given.imports,
    )
    return model
