"""Which settings of an experiment a job's results depend on: changed, the job is stale."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mutineck.detection.specs import AUGMENTATION, InputSpec
from mutineck.study.arms import HEAD_WEIGHTS, ArmSpec
from mutineck.study.experiment import INTERMEDIATE, Experiment
from mutineck.study.jobs import Job
from mutineck.study.starts import start_of
from mutineck.system.records import differences

LATER_AUGMENTATION = ("multiscale", "photometric", "crop")
"""Fields of the input that there once were not: off, pictures are shown as they were then."""
LATER_FIELDS = ("sees", "study", "teacher", "normalisation", "source")
"""Fields of a teacher that there once were not: left out, it is the teacher that it was then."""


def settings_of(experiment: Experiment, job: Job) -> dict[str, Any]:
    """Return the part of the experiment that a job's results depend on, JSON-able.

    A change anywhere else leaves the job up to date: of checks, of what is shown, of how fast it goes.
    """
    whole = experiment.model_dump(mode="json", by_alias=True)
    stage = job.stage
    if stage == "dataset":
        # Pictures without objects were always kept before there was this field.
        unread = ["negatives"] if experiment.dataset.negatives else []
        # Whether marked objects are background is for trainings to know.
        unread += [] if experiment.dataset.crowd == "objects" else ["crowd"]
        unread += [field for field in ("hide", "sources", "pictures") if not whole["dataset"][field]]
        return {"dataset": _without(whole["dataset"], "strict", "download", *unread)}
    off = InputSpec()
    shown = _without(
        whole["input"], *(f for f in LATER_AUGMENTATION if getattr(experiment.input, f) == getattr(off, f))
    )
    measured = {"input": shown, "splits": sorted(experiment.evaluation.measured)}
    teachers = {teacher["name"]: _without(teacher, "floor") for teacher in whole["teachers"]}
    # What trains nothing sees pictures as they are.
    unchanged = _without(whole["input"], *AUGMENTATION)
    # Trainings that take crowds for background are those from before there was this field.
    crowd = {"crowd": experiment.dataset.crowd} if experiment.dataset.crowd == "ignored" else {}
    if stage == "teachers" and job.item == INTERMEDIATE:
        measured |= crowd if experiment.intermediate.mode == "staged" else {}
        merged = {"intermediate": _merging(experiment), "teachers": list(teachers)}
        return measured | merged | _rounding(experiment)
    if stage == "teachers":
        spec = experiment.teacher(job.item or "")
        teacher = teachers.get(spec.name) or _without(spec.model_dump(mode="json", by_alias=True), "floor")
        for field in LATER_FIELDS:
            if teacher[field] is None:
                del teacher[field]
        if teacher["detector"] is None:
            return measured | {"input": unchanged, "teacher": _without(teacher, "schedule", "seed")}
        teacher["seed"] = experiment.seed_of(spec)
        return measured | crowd | {"teacher": teacher}
    if stage == "features":
        features = _without(whole["features"], "batch")
        return {"features": features, "input": unchanged, "teachers": experiment.merged_teachers}
    if stage == "clusters":
        return {"clusters": whole["clusters"]}
    if stage == "distillation":
        arm = experiment.arm(job.arm)
        own = arm.model_dump(mode="json", by_alias=True) | {"start": start_of(experiment, arm)}
        parts = {"student": _without(whole["student"], "inherit"), "arm": own}
        if taught_by := arm.teacher_names(list(teachers)):
            # In their order: the first is the anchor, and to some arms each has its turn.
            parts |= {"distillation": _weights_of(experiment, arm), "teachers": list(taught_by)} | _rounding(experiment)
        return measured | crowd | parts
    # Tables and the report say which teachers are weak.
    floors = {teacher.name: teacher.floor for teacher in experiment.teachers}
    checks = {"floors": floors, "gate": experiment.intermediate.gate}
    compared = {"arms": list(experiment.arms), "seeds": list(experiment.seeds)}
    return compared | {"report": experiment.evaluation.report, "checks": checks}


def settings_text(experiment: Experiment, job: Job) -> str:
    """Return the settings that a job's results depend on as a line of JSON."""
    return json.dumps(settings_of(experiment, job), sort_keys=True, ensure_ascii=True)


def changed_settings(experiment: Experiment, job: Job, manifest: Mapping[str, Any]) -> list[str]:
    """Return which settings a finished job was run with that are others now, as `path: before -> now`."""
    return list(differences(manifest["settings"], json.loads(settings_text(experiment, job))))


def _merging(experiment: Experiment) -> dict[str, Any]:
    """Return the settings of the intermediate teacher: regions count where it mixes by proposals alone."""
    spec = experiment.intermediate
    unread = ("gate",) if spec.mode == "staged" else ("gate", "schedule")
    found = _without(spec.model_dump(mode="json"), *unread) | {"seed": experiment.seed_of(spec)}
    if spec.prior or spec.mode == "prior":
        found["regions"] = experiment.distillation.regions.model_dump(mode="json")
    return found


def _weights_of(experiment: Experiment, arm: ArmSpec) -> dict[str, Any]:
    """Return the weights that an arm depends on, those of second stages only where they can be compared."""
    unread = {"shares_every"}
    if not (arm.compares_heads and experiment.logits_of(arm)):
        unread |= {*HEAD_WEIGHTS}
    if not arm.weights.get("balance", experiment.distillation.balance):
        unread |= {"balance", "ratios"}  # fixed weights are those from before there were others
    if experiment.distillation.centroid_loss == "attract":
        unread |= {"centroid_loss"}  # likewise
    return experiment.distillation.model_dump(mode="json", by_alias=True, exclude=unread)


def _rounding(experiment: Experiment) -> dict[str, Any]:
    """Return the setting of trainings that teachers' maps go into: said only where they are never rounded.

    With `auto` the data set's size decides, which no setting knows; all but `off` count alike.
    """
    return {"maps": "never rounded"} if experiment.resources.cache == "off" else {}


def _without(fields: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Return a record's fields but for some."""
    return {name: value for name, value in fields.items() if name not in names}
