"""The training of a study's detector as a whole mmdet config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mutineck.detection.configs import dataset_config, pipelines, training_config, write_config
from mutineck.detection.specs import ScheduleSpec
from mutineck.study.stage import Study
from mutineck.system.errors import ExperimentError

TRAINING_CONFIG = "training_config.py"


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
    ignored = study.experiment.dataset.crowd == "ignored"
    train_pipeline, test_pipeline = pipelines(study.experiment.input, masks=masks, ignored=ignored)
    return dataset_config(
        (annotations or study.need("dataset", f"{split}.json")).resolve(),
        study.dataset.pictures.resolve(),
        categories,
        test_pipeline if test else train_pipeline,
        seed=seed,
        test=test,
        # To a teacher of some categories, a picture of others would be no more than background.
        negatives=len(categories) == len(study.dataset.categories),
    )


def data_identity(study: Study) -> dict[str, str]:
    """Return the content of what a training sees: its pictures, and those that its best state is chosen on."""
    return {f"data {split}": study.dataset.content.get(split, "") for split in ("train", "val")}


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
    if masks and (given := study.dataset.masks) != "all":
        raise ExperimentError(
            f"{study.item}: a detector with a mask branch needs a mask for every box; here {given} have one. "
            "Use faster_rcnn instead of mask_rcnn"
        )
    if study.experiment.dataset.crowd == "ignored":
        from mutineck.detection.ignored import ignoring

        model = ignoring(model)
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
