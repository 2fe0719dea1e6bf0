"""What a student starts from: its own first weights, a teacher's neck and head, or the intermediate teacher's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mutineck.detection.specs import FAMILIES, OTHER
from mutineck.study.arms import GENERALIST, INTERMEDIATE, OWN, ArmSpec

if TYPE_CHECKING:
    from mutineck.detection.specs import DetectorSpec
    from mutineck.study.experiment import Experiment, TeacherSpec

STRIDES = {family: (4, 8, 16, 32, 64) if family.endswith("rcnn") else (8, 16, 32, 64, 128) for family in FAMILIES}
"""Levels of each family's published network."""


def start_of(experiment: Experiment, arm: ArmSpec) -> str:
    """Return what an arm's student starts from: `own`, a teacher's name, or `intermediate`.

    What the arm says; if it says nothing, `own` for a student that nobody teaches or where `student.inherit` is not
    set; else its teacher, the anchor if it has several, the intermediate teacher if it learns from that one; `own`
    again where that is of another type than the student.
    """
    if arm.start is not None:
        return arm.start
    donor = default_donor(experiment, arm)
    return OWN if donor == OWN or cannot_start(experiment, donor) else donor


def default_donor(experiment: Experiment, arm: ArmSpec) -> str:
    """Return what an arm that says no start would start from if it is of the student's type; `own` for nothing."""
    if not arm.taught or not experiment.student.inherit:
        return OWN
    names = [teacher.name for teacher in experiment.teachers]
    return arm.source if arm.source in (*names, INTERMEDIATE, GENERALIST) else names[0]


def donors(experiment: Experiment, arm: ArmSpec) -> tuple[str, ...]:
    """Return the detectors whose weights an arm's student starts from, later ones on top of earlier ones.

    The intermediate teacher has heads and no neck of the student's kind: that is the anchor's.
    """
    start = start_of(experiment, arm)
    if start == INTERMEDIATE:
        return experiment.teachers[0].name, INTERMEDIATE
    return () if start == OWN else (start,)


def cannot_start(experiment: Experiment, start: str) -> str:
    """Return why the student cannot start from a teacher, naming both; '' if it can, or that is not known yet."""
    if start == OWN:
        return ""
    student = experiment.student.detector
    teacher = experiment.teachers[0] if start == INTERMEDIATE else experiment.teacher(start)
    family = family_of(teacher)
    if family is None or OTHER in (family, student.family) or family == student.family:
        return ""
    name = f"{start!r} (by its anchor {teacher.name!r})" if start == INTERMEDIATE else repr(start)
    return (
        f"{name} is a {family}{_levels(teacher.detector, family)}, the student a "
        f"{student.family}{_levels(student, student.family)}"
    )


def family_of(teacher: TeacherSpec) -> str | None:
    """Return a teacher's family; None where only its files tell it."""
    if teacher.detector is not None:
        return teacher.detector.family
    return next((family for family in FAMILIES if (teacher.zoo or "").startswith(f"{family}_")), None)


def untaught_like(experiment: Experiment, name: str) -> str | None:
    """Return the arm that starts as another does, learns for as many epochs, and is not taught; None if there is none.

    None too for that arm itself: there is nothing that it has more.
    """
    arm = experiment.arm(name)

    def terms(spec: ArmSpec) -> tuple[str, int]:
        return start_of(experiment, spec), spec.epochs or experiment.student.schedule.epochs

    return next(
        (
            other
            for other, spec in experiment.arms.items()
            if arm.taught and not spec.taught and terms(spec) == terms(arm)
        ),
        None,
    )


def untaught(experiment: Experiment) -> dict[str, str]:
    """Return arm -> the one that `untaught_like` finds, of those for which it finds one."""
    return {arm: like for arm in experiment.arms if (like := untaught_like(experiment, arm))}


def _levels(detector: DetectorSpec | None, family: str) -> str:
    """Return ` with strides ...` of a detector as its family has them; of another config, they are not known."""
    return "" if detector is None or detector.config else f" with strides {STRIDES[family]}"
