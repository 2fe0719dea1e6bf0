"""Detectors that exist already: a config with its checkpoint, whoever made them, or a finished detector of a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mutineck.detection.configs import custom_imports, data_sets
from mutineck.detection.frozen import Normalisation, build_model, detector_categories
from mutineck.detection.loading import LoadReport, load_strictly
from mutineck.detection.protocols import Detector
from mutineck.detectors.folders import detector_config, weights_of
from mutineck.study.experiment import slug
from mutineck.study.jobs import ITEM_STAGES, MANIFEST, Job, item_folders
from mutineck.study.manifest import damage
from mutineck.study.stage import EXPERIMENT_FILE, run_command
from mutineck.system.errors import ExperimentError, unknown

IN_THE_CONFIG = {
    "categories": "add `classes = [...]` to the config, in the order of the labels",
    "normalisation": "add `normalisation = dict(mean=[...], std=[...], to_rgb=True)` to the config",
}
"""Where what a detector does not say can be given, for a command that reads no experiment."""


@dataclass(frozen=True)
class GivenDetector:
    """A detector that needs no training.

    Attributes:
        config: its mmdet config; the published weights that its backbone once started from are not named any more.
        weights: file of its weights.
        categories: its own, in label order.
        normalisation: of the pictures that it was trained on.
    """

    config: Any
    weights: Path
    categories: tuple[str, ...]
    normalisation: Normalisation

    @property
    def imports(self) -> list[str]:
        """Modules that register what its config names."""
        return custom_imports(self.config)

    @property
    def pipeline(self) -> list[dict[str, Any]] | None:
        """How its config prepares a picture for a test; None if it does not say."""
        sets = [found for part in ("test", "val") for found in data_sets(self.config, part)]
        return next((list(found["pipeline"]) for found in sets if found.get("pipeline")), None)

    def load(self) -> tuple[Detector, LoadReport]:
        """Build the detector and load its weights, strictly.

        Raises:
            ExperimentError: the config names a type that no module has registered.
            CheckpointError: the weights do not fit.
        """
        model = build_model(self.config)
        return model, load_strictly(model, self.weights)


def read_given(
    config: str | Path,
    weights: Path,
    *,
    owner: str,
    remedies: Mapping[str, str],
    categories: Sequence[str] | None = None,
    normalisation: Normalisation | None = None,
) -> GivenDetector:
    """Return the detector of a config and a checkpoint.

    Args:
        config: an mmdet config, or one that this project wrote.
        weights: its checkpoint.
        owner: what to call the detector in messages.
        remedies: where `categories` and `normalisation` can be given by hand, for messages.
        categories: in label order; what checkpoint or config say if None.
        normalisation: what the config says if None.

    Raises:
        ExperimentError: the config is of no detector; categories or normalisation are said nowhere, or do not fit it.
        CheckpointError: the checkpoint cannot be read as data.
    """
    read = detector_config(config)
    if not isinstance(read.get("model"), Mapping):
        raise ExperimentError(f"{owner}: {config} has no `model`: it is no detector's config")
    read.model.pop("pretrained", None)
    if "backbone" in read.model:
        read.model.backbone.init_cfg = None
    # What this project wrote says so itself; the data sets of other configs are often those that they were copied from.
    known = detector_categories(
        read, weights, owner=owner, remedy=remedies["categories"], given=categories or read.get("categories")
    )
    how = normalisation or Normalisation.of_config(read, owner=owner, remedy=remedies["normalisation"])
    return GivenDetector(read, weights, tuple(known), how)


def open_detector(path: Path, config: str | None = None) -> GivenDetector:
    """Return the detector of a folder that a stage wrote, or of a checkpoint and its config, for a command.

    Raises:
        FileNotFoundError: there is neither a detector's folder nor a file.
        ExperimentError: a checkpoint without a config, or see `read_given`.
        CheckpointError: the checkpoint cannot be read as data.
    """
    if path.is_dir():
        return read_given(path / "config.py", weights_of(path), owner=str(path), remedies=IN_THE_CONFIG)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: neither a detector's folder nor a checkpoint")
    if config is None:
        raise ExperimentError(f"{path} is a checkpoint: name its mmdet config with --config PATH")
    return read_given(config, path, owner=config, remedies=IN_THE_CONFIG)


def study_detectors(root: Path) -> dict[str, Path]:
    """Return the folders of a study's finished detectors: teachers by their names, students as `ARM/seedN`."""
    found = [(stage, folder) for stage in ITEM_STAGES for folder in item_folders(root, stage)]
    return {f.relative_to(root / stage).as_posix(): f for stage, f in found if (f / MANIFEST).is_file()}


def detector_of_study(root: Path, name: str, field: str) -> Path:
    """Return the folder of a finished detector of a study.

    Args:
        root: the study's folder.
        name: a teacher's name or `ARM/seedN`; the folder below the study's serves too (`teachers/NAME`).
        field: what names it, for messages.

    Raises:
        ExperimentError: the folder is no study's, or the study has no such detector, or has not finished it.
    """
    item = slug(name.strip("/").removeprefix("teachers/").removeprefix("distillation/"))
    stage = "distillation" if "/" in item else "teachers"
    known = study_detectors(root)
    remedy = f"make it with: {run_command(root, [str(root / EXPERIMENT_FILE)], stage)}"
    if item in known:
        if why := damage(root, Job(stage, item)):
            raise ExperimentError(f"{field}: {known[item]} is not whole: {why}; {remedy}")
        return known[item]
    if not (root / EXPERIMENT_FILE).is_file() and not known:
        below = f"; a detector's own folder goes by `config` ({root}/config.py) and `checkpoint`"
        raise ExperimentError(
            f"{field}: {root} is no study's folder: it has no {EXPERIMENT_FILE}, and no detectors"
            f"{below if (root / 'config.py').is_file() else ''}"
        )
    if (root / stage / item).is_dir():
        raise ExperimentError(f"{field}: {root / stage / item} is not finished (it has no {MANIFEST}); {remedy}")
    raise ExperimentError(f"{field}: {root} has no such detector that is finished: " + unknown("detector", name, known))
