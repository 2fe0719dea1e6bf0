"""The graph of a study: which jobs it has, what each needs, and which settings it depends on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from mutineck.study.experiment import INTERMEDIATE, STAGES, Experiment, slug
from mutineck.study.stage import MANIFEST
from mutineck.system.errors import ExperimentError, unknown
from mutineck.system.records import differences

NOTEBOOK = "notebook.ipynb"


ITEM_STAGES = ("teachers", "distillation")
"""Stages that are several jobs: one a teacher, one an arm and seed."""


class Job(NamedTuple):
    """One execution of one notebook: a stage, and the part of it where it has several."""

    stage: str
    item: str | None = None

    def __str__(self) -> str:
        return f"{self.stage} {self.item}" if self.item else self.stage

    @classmethod
    def at(cls, folder: str) -> Job:
        """Return the job whose folder this is, the inverse of `folder`.

        Raises:
            ExperimentError: the folder's first part is no stage.
        """
        stage, _, item = folder.partition("/")
        if stage not in STAGES:
            raise ExperimentError(unknown("stage", stage, STAGES))
        return cls(stage, item or None)

    @property
    def folder(self) -> str:
        """Folder below `outputs/EXPERIMENT`."""
        return f"{self.stage}/{self.item}" if self.item else self.stage

    @property
    def manifest(self) -> str:
        """Path of the manifest below `outputs/EXPERIMENT`."""
        return f"{self.folder}/{MANIFEST}"

    @property
    def outputs(self) -> tuple[str, str]:
        """The two files that say the job is done: its manifest and its executed notebook."""
        return self.manifest, f"{self.folder}/{NOTEBOOK}"


def jobs(experiment: Experiment, until: str | None = None) -> list[Job]:
    """Return all jobs of an experiment, or those up to a stage, each after everything that it needs.

    Raises:
        ExperimentError: ``until`` is no stage.
    """
    if until is not None and until not in STAGES:
        raise ExperimentError(unknown("stage", until, STAGES))
    last = STAGES.index(until or STAGES[-1])
    return [Job(stage, item) for stage in STAGES[: last + 1] for item in items(experiment, stage)]


def items(experiment: Experiment, stage: str) -> list[str | None]:
    """Return the parts of a stage; `[None]` for a stage that is one job."""
    if stage == "teachers":
        return list(experiment.all_teachers)
    if stage == "distillation":
        # Seed by seed, so that the first complete comparison is there early.
        return [f"{slug(arm)}/seed{seed}" for seed in experiment.seeds for arm in experiment.arms]
    return [None]


def needs(experiment: Experiment, stage: str, item: str | None = None) -> list[Job]:
    """Return the jobs whose results a job reads: all that must be up to date before it may start.

    Raises:
        ExperimentError: the stage has no such item.
    """
    if item not in items(experiment, stage):
        raise ExperimentError(unknown(f"item of {stage}", str(item), [str(i) for i in items(experiment, stage)]))
    dataset = Job("dataset")
    teachers = [Job("teachers", teacher.name) for teacher in experiment.teachers]
    intermediate = [Job("teachers", INTERMEDIATE)] if experiment.needs_intermediate else []
    if stage == "dataset":
        return []
    if stage == "teachers":
        return [dataset, *teachers] if item == INTERMEDIATE else [dataset]
    if stage == "features":
        return [dataset, *teachers, *intermediate]
    if stage == "clusters":
        return [dataset, Job("features")]
    if stage == "distillation":
        return [dataset, *_taught_by(experiment, str(item))]
    students = [Job("distillation", part) for part in items(experiment, "distillation")]
    if stage == "ablations":
        return [dataset, *teachers, *intermediate, Job("clusters"), *students]
    return [dataset, *teachers, *intermediate, Job("features"), Job("clusters"), *students, Job("ablations")]


def _taught_by(experiment: Experiment, item: str) -> list[Job]:
    """Return the teachers, and the clusters, that an arm's student reads; it inherits from no others."""
    arm = experiment.arm(item.split("/")[0])
    names = set(arm.teacher_names([teacher.name for teacher in experiment.teachers]))
    if arm.needs_intermediate:
        names.add(INTERMEDIATE)
    found = [Job("teachers", name) for name in items(experiment, "teachers") if name in names]
    return [*found, Job("clusters")] if arm.centroids else found


def settings_text(experiment: Experiment, job: Job) -> str:
    """Return the settings that a job's results depend on as a line of JSON; changed, the job is stale."""
    return json.dumps(experiment.settings_for(job.stage, job.item), sort_keys=True, ensure_ascii=True)


def changed_settings(experiment: Experiment, job: Job, manifest: Mapping[str, Any]) -> list[str]:
    """Return which settings a finished job was run with that are others now, as `path: before -> now`."""
    return list(differences(manifest["settings"], json.loads(settings_text(experiment, job))))


def log_of(job: Job) -> str:
    """Return the path of a job's log below `outputs/EXPERIMENT`."""
    return "log/" + job.folder.replace("/", "-") + ".log"


def error_of(job: Job) -> str:
    """Return the path of the file that says why a job stopped, below `outputs/EXPERIMENT`."""
    return log_of(job).removesuffix(".log") + ".error"


def page_of(job: Job) -> str:
    """Return the path of a job's notebook as a page to read, below `outputs/EXPERIMENT`."""
    return "notebooks/" + job.folder.replace("/", "-") + ".html"
