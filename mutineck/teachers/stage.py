"""The teachers stage: get each teacher (zoo, checkpoint, or training), check it, measure it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mutineck.detection.configs import (
    dataset_config,
    has_masks,
    model_config,
    own_config_files,
    pipelines,
    read_config,
    training_config,
    write_config,
)
from mutineck.detection.distributed import ALONE, Processes
from mutineck.detection.evaluation import category_ids, device_of, evaluation_loader, measure, picture_folder, predict
from mutineck.detection.frozen import Normalisation, build_model, common_names, detector_categories, renormaliser
from mutineck.detection.loading import LoadReport, load_strictly
from mutineck.detection.specs import DetectorSpec, ScheduleSpec
from mutineck.detection.training import finish_training, save_detector, train
from mutineck.detectors.folders import input_normalisation, normalisation_of
from mutineck.detectors.outputs import training_annotations
from mutineck.study.experiment import TeacherSpec
from mutineck.study.stage import Study
from mutineck.system.errors import ExperimentError, unknown
from mutineck.system.files import read_json, sha256_file, write_json
from mutineck.teachers.checks import check_teacher
from mutineck.teachers.zoo import fetch_weights, find_in_zoo

TRAINING_CONFIG = "training_config.py"


def dataset_categories(study: Study) -> list[str]:
    """Return the data set's categories, in label order."""
    return list(read_json(study.need("dataset", "dataset.json"))["categories"])


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
    own = dataset_categories(study)
    if spec.categories:
        for name in spec.categories:
            if spec.detector is not None and name not in own:
                raise ExperimentError(f"teachers.{spec.name}.categories: " + unknown("category", name, own))
        categories = list(spec.categories)
    elif spec.detector is not None:
        return own
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


def split_config(
    study: Study,
    split: str,
    categories: Sequence[str],
    *,
    masks: bool,
    test: bool,
    seed: int = 0,
    annotations: Path | None = None,
) -> dict[str, Any]:
    """Return mmdet's data config of a split, or of other `annotations` on the same pictures."""
    train_pipeline, test_pipeline = pipelines(study.experiment.input, masks=masks)
    return dataset_config(
        (annotations or study.need("dataset", f"{split}.json")).resolve(),
        picture_folder(study).resolve(),
        categories,
        test_pipeline if test else train_pipeline,
        seed=seed,
        test=test,
    )


def detector_training(
    study: Study,
    model: Mapping[str, Any],
    categories: Sequence[str],
    schedule: ScheduleSpec,
    *,
    seed: int,
    masks: bool = False,
    hooks: Sequence[Mapping[str, Any]] = (),
    modules: Sequence[str] = (),
    annotations: Path | None = None,
    evaluate_every: int | None = None,
) -> Any:
    """Return the training config of a detector in `study.folder`, and write it there for `tools/train.py`.

    It learns from the training split, or from other `annotations` on its pictures; `modules` register what `model` and
    `hooks` name. It is evaluated after every so many epochs, a quarter of them if none are named.
    """
    if masks and (given := read_json(study.need("dataset", "dataset.json"))["masks"]) != "all":
        raise ExperimentError(
            f"{study.item}: a detector with a mask branch needs a mask for every box; here {given} have one. "
            "Use faster_rcnn instead of mask_rcnn"
        )
    config = training_config(
        model=dict(model),
        train=split_config(study, "train", categories, masks=masks, test=False, seed=seed, annotations=annotations),
        val=split_config(study, "val", categories, masks=masks, test=True),
        schedule=schedule,
        workers=study.experiment.resources.workers,
        modules=modules,
        seed=seed,
        work_dir=study.folder.resolve() / "training",
        evaluate_every=evaluate_every or max(1, schedule.epochs // 4),
        hooks=[dict(hook) for hook in hooks],
    )
    write_config(study.folder / TRAINING_CONFIG, config)
    return config


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


def measure_detector(
    study: Study,
    model: torch.nn.Module,
    categories: Sequence[str],
    *,
    labels: Mapping[str, Any],
    aliases: Mapping[str, str] | None = None,
    normalisation: Normalisation | None = None,
) -> list[dict[str, Any]]:
    """Predict and measure on every split of the experiment; write predictions and metrics.json.

    A detector is measured on the categories that it shares with the data set.

    Args:
        study: at the stage and item whose folder is written to.
        model: an mmdet detector.
        categories: its own, in label order.
        labels: added to each row.
        aliases: detector's category -> data set's.
        normalisation: what the detector expects, if not the experiment's.

    Returns:
        Tidy rows: `labels`, `split`, `metric`, `category`, `value`.
    """
    rows: list[dict[str, Any]] = []
    for split in study.experiment.evaluation.measured:
        predictions, found = measure_split(
            study, model, categories, split=split, aliases=aliases, normalisation=normalisation
        )
        write_json(study.folder / f"predictions_{split}.json", predictions, indent=None)
        rows += [{**labels, **row} for row in found]
    model.cpu()
    write_json(study.folder / "metrics.json", rows)
    return rows


def measure_split(
    study: Study,
    model: torch.nn.Module,
    categories: Sequence[str],
    *,
    split: str,
    aliases: Mapping[str, str] | None = None,
    normalisation: Normalisation | None = None,
    group: Processes = ALONE,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return a detector's predictions on one split (COCO results), and its metrics on the categories that both know.

    Args as for `measure_detector`; rows hold `split`, `metric`, `category`, `value` in [0, 1]. Each process of `group`
    predicts its share of the pictures, and all of them return the whole.

    Raises:
        ExperimentError: no category in common.
    """
    own = dataset_categories(study)
    names = common_names("the detector", categories, own, aliases or {}, "aliases (detector's name: data set's name)")
    annotations = study.need("dataset", f"{split}.json")
    ids = category_ids(annotations, own)
    predictions = predict(
        model,
        evaluation_loader(study, split, share=(group.rank, group.size)),
        [ids[own.index(name)] if name in own else None for name in names],
        device=device_of(study.experiment.resources.device),
        prepare_image=renormaliser(normalisation_of(input_normalisation(study)), normalisation),
    )
    predictions = sorted(group.gather(predictions), key=lambda row: row["image_id"])
    return predictions, [{"split": split, **row} for row in measure(annotations, predictions, names)]
