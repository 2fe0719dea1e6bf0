"""Making the intermediate teacher: align the maps, start the head from the anchor's, train by ground truth, check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mutineck.detection.configs import categories_in, custom_imports, read_config
from mutineck.detection.evaluation import device_of
from mutineck.detection.frozen import FrozenDetector, build_model
from mutineck.detection.hooks import STATES
from mutineck.detection.loading import inherit_weights, write_checkpoint
from mutineck.detection.training import finish_training, save_detector, train
from mutineck.detectors.cache import cache_settings
from mutineck.detectors.folders import input_normalisation, load_frozen, sha256_config
from mutineck.detectors.loaders import evaluation_loader
from mutineck.detectors.measuring import measure_detector
from mutineck.detectors.training import data_identity, detector_training
from mutineck.study.experiment import INTERMEDIATE
from mutineck.study.stage import Study
from mutineck.system.errors import ExperimentError
from mutineck.system.files import read_json, sha256_file, write_json
from mutineck.system.seeding import derive_seed, seeded
from mutineck.teachers.alignment import RidgeRegression
from mutineck.teachers.checks import check_intermediate
from mutineck.teachers.merge import IntermediateTeacher, MergedTeachers

START = "start.pth"
ALIGNMENT = "alignment.json"
CELLS_A_LEVEL = 200_000
ALIGNMENT_BATCH = 8
"""Pictures a step of the alignment: fixed, since sums depend on it in their last digits, and padding does."""
HOOKS = ({"type": "BestStateHook", "priority": 80},)
"""After the evaluation, and before the training's state is written."""
MODULES = ("mutineck.teachers.merge",)
UNTRAINED = {
    "joint": "its start; it learns in each student's run",
    "prior": "the even mean of aligned maps; only where a student is taught does the proposals' quality mix them",
}


def prepare_intermediate(study: Study) -> list[dict[str, Any]]:
    """Make the intermediate teacher ready in `teachers/intermediate/`.

    Modes: `staged` trains it now; `prior` leaves it as it starts (the mean of the aligned maps under the anchor's
    head, which the prior mixes where a student is taught); so does `joint`, since there it learns in the student's run.

    Returns:
        Its metrics, one row a number.

    Raises:
        FileNotFoundError: a teacher has not been made yet.
        TooWeak: see `check_intermediate`.
    """
    spec = study.experiment.intermediate
    categories = study.dataset.categories
    teachers = [load_frozen(study, teacher.name) for teacher in study.experiment.teachers]
    model_dict = intermediate_config(study, teachers)
    anchor = teachers[0]  # its head is of the anchor's kind
    anchor_config = read_config(study.need("teachers", anchor.name, "config.py"))
    modules = [*MODULES, *custom_imports(anchor_config)]
    with seeded(derive_seed(study.experiment.seed_of(spec), "intermediate")):
        model = build_model(model_dict)
        model.detector.init_weights()
    alignment = align(study, teachers, model.merged)
    for teacher in teachers:
        teacher.to(torch.device("cpu"))  # the model that is trained has copies of its own
    write_json(study.folder / ALIGNMENT, alignment)
    report = inherit_weights(model.detector, anchor.model, anchor.label_map)
    print(
        f"head of the intermediate teacher: {len(report.matched)} weights start as those of {anchor.name!r}; "
        f"{len(report.mismatched)} of another shape start at random"
    )
    if spec.head == "anchor":
        _refuse_partial_anchor(anchor, categories)
    write_checkpoint(study.folder / START, {"state_dict": model.detector.state_dict()})
    config = None
    if spec.mode == "staged" and not _is_identity(study):
        config, model = _train(study, model_dict, modules)
    # In its own config teachers are named from its folder: a study may be moved.
    beside = [{**teacher, "folder": f"../{teacher['name']}"} for teacher in model_dict["backbone"]["teachers"]]
    save_detector(
        study.folder,
        model,
        {**model_dict, "backbone": {**model_dict["backbone"], "teachers": beside}},
        categories=categories,
        normalisation=input_normalisation(study),
        imports=modules,
    )
    rows = measure_detector(study, model, categories, labels={"name": INTERMEDIATE})
    if spec.mode == "staged":
        check_intermediate(study)
    else:
        print(f"intermediate.mode: {spec.mode}: what is measured here, and has centroids, is {UNTRAINED[spec.mode]}")
    if config is not None:
        finish_training(config, study.folder)
    return rows


def _train(study: Study, model: Mapping[str, Any], modules: Sequence[str]) -> tuple[Any, Any]:
    """Train the intermediate teacher from its start by ground truth; return the training's config, and the model."""
    # The cache is of the training and not of the teacher, whose config outlives it.
    backbone = {**model["backbone"], "cache": cache_settings(study)}
    spec = study.experiment.intermediate
    config = detector_training(
        study,
        {**model, "backbone": backbone, "start": str((study.folder / START).resolve())},
        study.dataset.categories,
        spec.schedule,
        seed=study.experiment.seed_of(spec),
        hooks=HOOKS,
        modules=modules,
        evaluate_every=1,
    )
    device = device_of(study.experiment.resources.device)
    trained = train(config, device=device, identity=_identity(study), root=study.root)
    _say_which(read_json(Path(config.work_dir) / STATES))
    return config, trained


def _say_which(states: Mapping[str, Any]) -> None:
    """Print what each state of the training reached on val, and which of them the teacher is."""
    reached = ", ".join(f"{value:.3f}" for value in states["bbox_mAP"])
    kept = f"those after epoch {states['kept']}" if states["kept"] else "those of the start"
    print(f"bbox_mAP on val at the start and after each epoch: {reached}; the weights kept are {kept}")


def _is_identity(study: Study) -> bool:
    """One teacher with its own frozen head: the merged map is its map, and there is nothing to train."""
    return len(study.experiment.teachers) == 1 and study.experiment.intermediate.head == "anchor"


def _identity(study: Study) -> dict[str, str]:
    # Of the validation split, since its best state is kept.
    found = {split: sha256_file(study.need("dataset", f"{split}.json")) for split in ("train", "val")}
    found |= data_identity(study)
    found["start"] = sha256_file(study.folder / START)
    for teacher in study.experiment.teachers:
        found[f"teacher {teacher.name}"] = sha256_file(study.need("teachers", teacher.name, "checkpoint.pth"))
        found[f"config of {teacher.name}"] = sha256_config(study.need("teachers", teacher.name, "config.py"))
    return found


def _refuse_partial_anchor(anchor: FrozenDetector, categories: Sequence[str]) -> None:
    known = {int(label) for label in anchor.label_map if label >= 0}
    lacking = [name for label, name in enumerate(categories) if label not in known]
    if lacking:
        raise ExperimentError(
            f"intermediate.head: the anchor {anchor.name!r} does not know {', '.join(lacking)}; use `head: own`"
        )


def intermediate_config(study: Study, teachers: list[FrozenDetector]) -> dict[str, Any]:
    """Return the `model` dict of the intermediate teacher: head of the anchor's type for the study's categories."""
    spec = study.experiment.intermediate
    categories = study.dataset.categories
    anchor = teachers[0]
    head = read_config(study.need("teachers", anchor.name, "config.py")).model.to_dict()
    categories_in(head, len(categories))
    for key in ("mask_head", "mask_roi_extractor"):
        head.get("roi_head", {}).pop(key, None)
    return {
        "type": IntermediateTeacher.__name__,
        "backbone": {
            "type": MergedTeachers.__name__,
            "teachers": [
                {"name": t.name, "folder": str(study.path("teachers", t.name).resolve()), "aliases": dict(t.aliases)}
                for t in study.experiment.teachers
            ],
            "categories": list(categories),
            "normalisation": input_normalisation(study),
            "out_strides": list(anchor.strides),
            "gates": spec.mode != "prior",
            "regions": study.experiment.distillation.regions.model_dump(),
        },
        "head": head,
        "prior": spec.prior,
        "freeze_head": spec.head == "anchor",
    }


def align(study: Study, teachers: list[FrozenDetector], merged: MergedTeachers) -> list[dict[str, Any]]:
    """Start the merge neck's 1x1 convolutions: each level's first teacher by identity, others by ridge regression.

    Returns:
        One row a teacher and level: `teacher`, `stride`, `reference`, `explained` (R^2), `cells`.
    """
    spec = study.experiment.intermediate
    seed = derive_seed(study.experiment.seed_of(spec), "alignment")
    pairs = {
        (stride, n): RidgeRegression(teachers[n].channels, teachers[owners[0]].channels, ridge=spec.ridge, seed=seed)
        for stride, owners in merged.neck.levels.items()
        for n in owners[1:]
    }
    if pairs:
        device = device_of(study.experiment.resources.device)
        loader = evaluation_loader(study, "train", batch=ALIGNMENT_BATCH)
        images = min(spec.alignment_images, len(loader.dataset))  # type: ignore[arg-type]
        seen = 0
        for batch in loader:
            maps = [teacher.maps(batch.image.to(device)) for teacher in teachers]
            for (stride, n), regression in pairs.items():
                reference = maps[merged.neck.levels[stride][0]][stride]
                every = max(1, reference[0, 0].numel() * images // CELLS_A_LEVEL)
                regression.add(maps[n][stride], reference, every=every)
            seen += len(batch.image_ids)
            if seen >= images:
                break
    rows = []
    for (stride, n), regression in pairs.items():
        found = regression.solve()
        merged.neck.set_alignment(stride, n, found.weight, found.bias)
        first = teachers[merged.neck.levels[stride][0]].name
        rows.append(
            {
                "teacher": teachers[n].name,
                "stride": stride,
                "reference": first,
                "explained": round(found.explained, 4),
                "cells": found.cells,
            }
        )
    return rows
