"""Measure a detector on a study's pictures: one that a stage has made, or any plain mmdet checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mutineck.detection.distributed import ALONE, Processes, processes
from mutineck.detection.evaluation import category_ids, device_of, measure, predict
from mutineck.detection.frozen import Normalisation, common_names, renormaliser
from mutineck.detection.protocols import Detector
from mutineck.detectors.folders import input_normalisation
from mutineck.detectors.given import GivenDetector, open_detector
from mutineck.detectors.loaders import evaluation_loader
from mutineck.study.stage import Study
from mutineck.system.errors import ExperimentError, unknown
from mutineck.system.files import write_json


def measure_detector(
    study: Study,
    model: Detector,
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
    model: Detector,
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
    own = study.dataset.categories
    names = common_names("the detector", categories, own, aliases or {}, "aliases (detector's name: data set's name)")
    annotations = study.need("dataset", f"{split}.json")
    ids = category_ids(annotations, own)
    predictions = predict(
        model,
        evaluation_loader(study, split, share=(group.rank, group.size)),
        [ids[own.index(name)] if name in own else None for name in names],
        device=device_of(study.experiment.resources.device),
        prepare_image=renormaliser(Normalisation.of_fields(input_normalisation(study)), normalisation),
    )
    predictions = sorted(group.gather(predictions), key=lambda row: row["image_id"])
    return predictions, [{"split": split, **row} for row in measure(annotations, predictions, names)]


def evaluate(
    study: Study, detector: str, *, split: str, config: str | None = None, aliases: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """Measure a detector on one split of the study, on the categories that the two share.

    Under `torchrun` each process predicts its share of the pictures, and all of them return the same rows.

    Args:
        study: at any stage; its data set must be there.
        detector: a folder that a stage wrote, relative to the study or to the working directory
            (`distillation/fgd-mean/seed0`), or a checkpoint.
        split: `train`, `val` or `test`.
        config: a checkpoint's mmdet config (a Python file: it is executed, use only what you trust).
        aliases: detector's category -> data set's, beside those that the experiment gives a teacher of its own.

    Returns:
        Rows `split`, `metric`, `category`, `value` in [0, 1].

    Raises:
        FileNotFoundError: there is no such detector, or the data set has not been made.
        ExperimentError: a checkpoint without a config or without categories, an alias of what one side lacks,
            or no category in common.
    """
    found, given = _open(study, detector, config)
    model, report = found.load()
    if config is not None:
        print(report)
    own = study.dataset.categories
    for theirs, ours in (aliases or {}).items():
        if ours not in own:
            raise ExperimentError(f"--alias {theirs}={ours}: " + unknown("category of the data set", ours, own))
    names = {**given, **(aliases or {})}
    known = common_names(detector, found.categories, own, names, "--alias THEIRS=OURS (may be repeated)")
    if config is not None and (lacking := [name for name in own if name not in known]):
        print(
            f"measured on {len(own) - len(lacking)} of {len(own)} categories; the detector does not know "
            f"{', '.join(lacking)} (--alias THEIRS=OURS if by another name)"
        )
    with processes() as group:
        return measure_split(
            study,
            model,
            found.categories,
            split=split,
            aliases=names,
            normalisation=found.normalisation,
            group=group,
        )[1]


def _open(study: Study, detector: str, config: str | None) -> tuple[GivenDetector, Mapping[str, str]]:
    """Return a detector, and the aliases that it has in the study."""
    for folder in (Path(detector).expanduser(), study.path(detector)):
        if folder.is_dir():
            teachers = study.experiment.teachers
            own_aliases = {study.path("teachers", teacher.name).resolve(): teacher.aliases for teacher in teachers}
            return open_detector(folder), own_aliases.get(folder.resolve(), {})
    checkpoint = Path(detector).expanduser()
    if not checkpoint.is_file():
        folders = [
            path.parent for kind in ("teachers", "distillation") for path in study.path(kind).glob("**/config.py")
        ]
        there = sorted(folder.relative_to(study.root).as_posix() for folder in folders)
        raise FileNotFoundError(
            f"{detector}: neither a folder below {study.root} nor a checkpoint; the study's detectors: "
            f"{', '.join(there) or 'none yet'}"
        )
    return open_detector(checkpoint, config), {}
