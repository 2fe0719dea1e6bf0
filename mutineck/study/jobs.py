"""The jobs of a study: one execution of one notebook each, what each needs, and how arm and seed name its folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mutineck.study.experiment import INTERMEDIATE, STAGES, Experiment, slug
from mutineck.study.starts import donors
from mutineck.system.errors import ExperimentError, unknown

NOTEBOOK = "notebook.ipynb"
RUNNING = ".running.ipynb"
"""Ending of a notebook's name while it is executed."""
MANIFEST = "manifest.json"
ITEM_STAGES = ("teachers", "distillation")
"""Stages that are several jobs: one a teacher, one an arm and seed."""
ITEM_PATTERN = r"[^/]+(/seed-?\d+)?"
"""What an item is, as a regular expression: a teacher's name, or `ARM/seedN`."""
PARAMETERS: dict[str, tuple[str, ...]] = dict.fromkeys(STAGES, ("experiment", "overrides", "outputs")) | {
    "teachers": ("experiment", "overrides", "outputs", "teacher"),
    "distillation": ("experiment", "overrides", "outputs", "arm", "seed"),
}
"""What each stage's notebook is given."""
_STUDENT = re.compile(r"([^/]+)/seed(-?\d+)")


class Job(NamedTuple):
    """One execution of one notebook: a stage, and the part of it where it has several.

    Attributes:
        stage: one of the seven stages.
        item: a teacher's name, or `ARM/seedN` with the arm as folders name it; None where a stage is one job.
    """

    stage: str
    item: str | None = None

    def __str__(self) -> str:
        return f"{self.stage} {self.item}" if self.item else self.stage

    @classmethod
    def teacher(cls, name: str) -> Job:
        """Return the job that makes a teacher, or the intermediate one."""
        return cls("teachers", name)

    @classmethod
    def student(cls, arm: str, seed: int) -> Job:
        """Return the job that trains an arm's student with a seed."""
        return cls("distillation", student_name(slug(arm), seed))

    @classmethod
    def of_detector(cls, name: str) -> Job:
        """Return the job that makes a detector: a teacher's name, `intermediate`, or a student's `ARM/seedN`."""
        return cls.student(*arm_and_seed(name)) if "/" in name else cls.teacher(name)

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
    def arm(self) -> str:
        """Arm that a student learns in, as folders name it."""
        return arm_and_seed(str(self.item))[0]

    @property
    def seed(self) -> int:
        """Seed that a student is trained with."""
        return arm_and_seed(str(self.item))[1]

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

    @property
    def running(self) -> str:
        """Path of the notebook while it is executed, below `outputs/EXPERIMENT`."""
        return f"{self.folder}/{Path(NOTEBOOK).stem}{RUNNING}"

    @property
    def log(self) -> str:
        """Path of the log below `outputs/EXPERIMENT`."""
        return f"log/{self._name}.log"

    @property
    def error(self) -> str:
        """Path of the file that says why the job stopped, below `outputs/EXPERIMENT`."""
        return f"log/{self._name}.error"

    @property
    def page(self) -> str:
        """Path of the executed notebook as a page to read, below `outputs/EXPERIMENT`."""
        return f"notebooks/{self._name}.html"

    @property
    def _name(self) -> str:
        return self.folder.replace("/", "-")


def student_name(arm: str, seed: int) -> str:
    """Return a student's name, `ARM/seedN`."""
    return f"{arm}/seed{seed}"


def arm_and_seed(name: str) -> tuple[str, int]:
    """Return the parts of a student's name, the inverse of `student_name`.

    Raises:
        ExperimentError: it is none.
    """
    found = _STUDENT.fullmatch(name)
    if not found:
        raise ExperimentError(f"{name!r} is no student: expected ARM/seedN, e.g. fgd-mean/seed0")
    return found.group(1), int(found.group(2))


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
        return [Job.student(arm, seed).item for seed in experiment.seeds for arm in experiment.arms]
    return [None]


def item_folders(root: Path, stage: str) -> list[Path]:
    """Return the folders that a stage's items have in a study's folder, those of items that are no more included."""
    pattern = re.compile(ITEM_PATTERN if stage == "teachers" else _STUDENT)
    folder = root / stage
    found = sorted(folder.glob("*" if stage == "teachers" else "*/*"))
    return [path for path in found if path.is_dir() and pattern.fullmatch(path.relative_to(folder).as_posix())]


def needs(experiment: Experiment, job: Job) -> list[Job]:
    """Return the jobs whose results a job reads: all that must be up to date before it may start.

    Raises:
        ExperimentError: the stage has no such item.
    """
    stage, item = job
    if item not in items(experiment, stage):
        raise ExperimentError(unknown(f"item of {stage}", str(item), [str(i) for i in items(experiment, stage)]))
    dataset = Job("dataset")
    teachers = [Job.teacher(teacher.name) for teacher in experiment.teachers]
    intermediate = [Job.teacher(INTERMEDIATE)] if experiment.needs_intermediate else []
    if stage == "dataset":
        return []
    if stage == "teachers":
        return [dataset, *teachers] if item == INTERMEDIATE else [dataset]
    if stage == "features":
        return [dataset, *teachers, *intermediate]
    if stage == "clusters":
        return [dataset, Job("features")]
    if stage == "distillation":
        return [dataset, *_taught_by(experiment, job)]
    students = [Job("distillation", part) for part in items(experiment, "distillation")]
    if stage == "ablations":
        return [dataset, *teachers, *intermediate, Job("clusters"), *students]
    return [dataset, *teachers, *intermediate, Job("features"), Job("clusters"), *students, Job("ablations")]


def _taught_by(experiment: Experiment, job: Job) -> list[Job]:
    """Return the teachers, and the clusters, that an arm's student learns or starts from."""
    arm = experiment.arm(job.arm)
    names = {*arm.teacher_names([teacher.name for teacher in experiment.teachers]), *donors(experiment, arm)}
    if arm.needs_intermediate:
        names.add(INTERMEDIATE)
    found = [Job.teacher(name) for name in experiment.all_teachers if name in names]
    return [*found, Job("clusters")] if arm.centroids else found


def parameters_of(experiment: Experiment, job: Job) -> dict[str, Any]:
    """Return what tells a stage's notebook which of its jobs this is: parameters `teacher`, or `arm` and `seed`."""
    if job.stage == "teachers":
        return {"teacher": job.item}
    if job.stage == "distillation":
        return {"arm": experiment.arm_name(job.arm), "seed": job.seed}
    return {}


def job_of(experiment: Experiment, stage: str, given: Mapping[str, Any]) -> Job:
    """Return the job that a notebook's parameters name, the inverse of `parameters_of`; empty ones name the first.

    Raises:
        ExperimentError: there is no such teacher or arm, or the seed is no whole number.
    """
    if stage == "teachers":
        name = str(given["teacher"]) or experiment.teachers[0].name
        return Job.teacher(name if name == INTERMEDIATE else experiment.teacher(name).name)
    if stage == "distillation":
        arm, seed = experiment.arm_name(str(given["arm"]) or next(iter(experiment.arms))), given["seed"]
        if not isinstance(seed, int) or isinstance(seed, bool):
            raise ExperimentError(f"parameter seed: expected a whole number, got {seed!r}")
        return Job.student(arm, seed)
    return Job(stage)
