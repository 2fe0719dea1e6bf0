"""Files that the detectors of an experiment name, configs and first weights: where they lie."""

from __future__ import annotations

from pathlib import Path

from mutineck.detection.configs import mmdet_folder, near_published, own_config_files
from mutineck.detection.specs import IMAGENET, DetectorSpec
from mutineck.study.experiment import Experiment
from mutineck.system.errors import ExperimentError


def find_config(experiment: Experiment, field: str, given: str) -> Path:
    """Return the config that a field of an experiment names: a file, or a path below mmdet's own `configs/`.

    Raises:
        ExperimentError: it is in none of these places; the message names them, and near matches of mmdet's.
    """
    published = mmdet_folder() / "configs" / given
    try:
        return experiment.find(field, given)
    except ExperimentError as error:
        if published.is_file():
            return published
        raise ExperimentError(f"{error}, nor is it one of mmdet's own: {near_published(given)}") from None


def locate(detector: DetectorSpec, experiment: Experiment, field: str) -> tuple[DetectorSpec, list[Path]]:
    """Return a detector's record with the files that it names where they lie, and those that mmdet does not carry.

    Args:
        detector: the record, at `field` of the experiment.
        experiment: whose record it is.
        field: where it stands, e.g. `student.detector`.

    Raises:
        ExperimentError: a file is not there.
    """
    found, files = {}, []
    if detector.config:
        config = find_config(experiment, f"{field}.config", detector.config)
        found["config"] = str(config)
        files += own_config_files(config)
    if detector.pretrained and detector.pretrained != IMAGENET and "://" not in detector.pretrained:
        weights = experiment.find(f"{field}.pretrained", detector.pretrained)
        found["pretrained"] = str(weights)
        files.append(weights)
    return detector.model_copy(update=found), files
