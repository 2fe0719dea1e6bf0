"""Measure any detector on a study's pictures: one that the study made, or a plain mmdet checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mutineck.detection.configs import read_config
from mutineck.detection.frozen import Normalisation, load_detector
from mutineck.detection.processes import processes
from mutineck.experiment import ExperimentError
from mutineck.stage import Study
from mutineck.teachers.frozen import load_model, normalisation_of
from mutineck.teachers.stage import measure_split


def evaluate(study: Study, detector: str, *, split: str, config: str | None = None) -> list[dict[str, Any]]:
    """Measure a detector on one split of the study, on the categories that the two share.

    Under `torchrun` each process predicts its share of the pictures, and all of them return the same rows.

    Args:
        study: at any stage; its data set must be there.
        detector: a folder that a stage wrote, relative to the study or to the working directory
            (`distillation/fgd-mean/seed0`), or a checkpoint.
        split: `train`, `val` or `test`.
        config: a checkpoint's mmdet config (a Python file: it is executed, use only what you trust).

    Returns:
        Rows `split`, `metric`, `category`, `value` in [0, 1].

    Raises:
        FileNotFoundError: there is no such detector, or the data set has not been made.
        ExperimentError: a checkpoint without a config, or no category in common.
    """
    model, categories, normalisation = _load(study, detector, config)
    with processes() as group:
        return measure_split(study, model, categories, split=split, normalisation=normalisation, group=group)[1]


def _load(study: Study, detector: str, config: str | None) -> tuple[Any, list[str], Normalisation]:
    for folder in (Path(detector).expanduser(), study.path(detector)):
        if folder.is_dir():
            model, own = load_model(folder)
            return model, list(own.categories), normalisation_of(own.normalisation)
    checkpoint = Path(detector).expanduser()
    if not checkpoint.is_file():
        raise FileNotFoundError(f"{detector}: neither a folder below {study.root} nor a checkpoint")
    if config is None:
        raise ExperimentError(f"{detector} is a checkpoint: name its mmdet config with --config PATH")
    read = read_config(config)
    categories = read.get("classes") or read.data.test.get("classes")
    if not categories:
        raise ExperimentError(f"{config}: names no categories; add `classes = [...]` in the order of the labels")
    model, report = load_detector(read, checkpoint)
    print(f"{checkpoint.name}: {report}")
    return model, list(categories), Normalisation.of(read.data.test.pipeline, detector)
