"""Whether what was made is good enough to go on with, as far as its split can tell: said, or a reason to stop.

Checks are no settings: their numbers stand in manifests, and what they come to is decided anew whenever it is asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mutineck.study.dataset import DATASET_FILE, Dataset
from mutineck.study.experiment import INTERMEDIATE, Experiment
from mutineck.study.jobs import Job
from mutineck.study.manifest import read_manifest
from mutineck.study.settings import changed_settings

CHECK = "check"
"""Key of a teacher's manifest, among its results."""


class TooWeak(RuntimeError):
    """A weak teacher in a study that is to stop at one (`checks.on_weak: stop`)."""


class Check(NamedTuple):
    """How good a teacher is on the validation split, and how sure that is.

    Attributes:
        reached: its bbox_mAP, 0..1.
        against: the teacher that it is compared with, the best one; empty for 0, from which its floor is counted.
        difference: bbox_mAP less that teacher's.
        low, high: 95 % interval of the difference over resamples of the pictures.
        pictures: of the split.
        resamples: of these.
    """

    reached: float
    against: str
    difference: float
    low: float
    high: float
    pictures: int
    resamples: int


def least(experiment: Experiment, teacher: str) -> float:
    """Return the least difference that a teacher should reach: its floor, or the gate below the best teacher."""
    return -experiment.intermediate.gate if teacher == INTERMEDIATE else experiment.teacher(teacher).floor


def is_weak(experiment: Experiment, teacher: str, check: Check) -> bool:
    """Whether a teacher is under its floor or gate by more than the pictures that it was measured on leave open."""
    return check.high < least(experiment, teacher)


def remark(experiment: Experiment, teacher: str, check: Check) -> str:
    """Return what a reader of the study's results should know of a teacher, in mAP of 0 to 100; often nothing.

    A teacher of its own is remarked upon if it is weak, the intermediate one if it is below the best teacher at all.
    """
    weak = is_weak(experiment, teacher, check)
    if teacher != INTERMEDIATE:
        found = f"{100 * check.reached:.1f} mAP on val [{100 * check.low:.1f}, {100 * check.high:.1f}]"
        floor = 100 * least(experiment, teacher)
        return f"Teacher {teacher} is weak: {found}, its floor is {floor:.1f}." if weak else ""
    if check.difference >= 0:
        return ""
    gate = f"the gate of {100 * experiment.intermediate.gate:.1f}"
    chance = f"within {gate}" if check.high < 0 else "chance may do as much"
    below, low, high = -100 * check.difference, 100 * check.low, 100 * check.high
    return (
        f"The intermediate teacher is {below:.1f} mAP below the best teacher, {check.against}, on val "
        f"[{low:+.1f}, {high:+.1f}]: {f'more than chance and {gate} allow' if weak else chance}."
    )


def remarks(experiment: Experiment, root: Path) -> list[str]:
    """Return the remarks on all teachers of a study that are finished."""
    found = []
    for teacher in experiment.all_teachers:
        job = Job("teachers", teacher)
        try:
            manifest = read_manifest(root, job)
        except ValueError:
            continue
        if manifest and not changed_settings(experiment, job, manifest) and (check := check_in(manifest)):
            found.append(remark(experiment, teacher, check))
    return [each for each in found if each]


def losses(results: Mapping[str, Any], listed: Path) -> str:
    """Return what the dataset stage left out, repaired or doubts, by its results, and where the list is; often ''."""
    actions = {"left_out": "left out", "repaired": "repaired", "kept": "kept though doubtful"}
    found = [f"{results[action]} {words}" for action, words in actions.items() if results.get(action)]
    if not found:
        return ""
    read, there = results.get("read", {}), results.get("found", {})
    counts = [
        f"{read[key]} of {there[key]} {word}" if there.get(key) else f"{read[key]} {word}"
        for key, word in (("images", "pictures"), ("objects", "objects"))
        if key in read
    ]
    used = f"{' and '.join(counts)} are read" if counts else ""
    return f"{'; '.join(filter(None, [', '.join(found), used]))}. The list: {listed}"


def data_remark(root: Path) -> str:
    """Return what was lost of a study's data on the way, and what it is not labelled for; often ''."""
    try:
        manifest = read_manifest(root, Job("dataset"))
    except ValueError:
        return ""
    lost = losses(manifest["results"], root / "dataset" / "defects.json") if manifest else ""
    said = [f"Data set: {lost}"] if lost else []
    if manifest and (root / "dataset" / DATASET_FILE).is_file():
        said += filter(None, map(Dataset.read(root).measured_on, ("val", "test")))
    return "\n".join(said)


def check_in(manifest: Mapping[str, Any]) -> Check | None:
    """Return the check that a manifest holds; None for no teacher's, or one that was not compared."""
    found = manifest.get("results", {}).get(CHECK)
    return Check(**found) if found else None


def refusal(experiment: Experiment, job: Job, manifest: Mapping[str, Any]) -> str:
    """Return why a finished job's results are not gone on with, by the checks as they are now; '' if they are."""
    if job.stage == "dataset" and experiment.dataset.strict:
        results = manifest["results"]
        count = sum(results.get(action, 0) for action in ("repaired", "left_out", "kept"))
        return f"dataset.strict: {count} defects in the data set, see dataset/defects.json" if count else ""
    if job.stage == "teachers" and job.item and experiment.checks.on_weak == "stop" and (check := check_in(manifest)):
        return refusal_of(experiment, job.item, check)
    return ""


def refusal_of(experiment: Experiment, teacher: str, check: Check) -> str:
    """Return why a study that is to stop at weak teachers stops at this one; '' if it does not."""
    if not is_weak(experiment, teacher, check):
        return ""
    own = f"train it longer (teachers.{teacher}.schedule), check its checkpoint, lower teachers.{teacher}.floor"
    merged = "train it longer (intermediate.schedule.epochs), at another rate, widen intermediate.gate"
    remedy = merged if teacher == INTERMEDIATE else own
    return (
        f"{remark(experiment, teacher, check)} What it does not know, no student learns from it: {remedy}, or let the "
        "study say so and go on (checks.on_weak: say)"
    )
