"""Which detectors of a study are measured here, and the files with the results; light to import, for figures."""

from __future__ import annotations

from typing import NamedTuple

from mutineck.ablations.results import collect, first_seed, shown_arm
from mutineck.study.arms import ALONE
from mutineck.study.experiment import INTERMEDIATE
from mutineck.study.stage import Study

OMEGA, TIGHTNESS, LAYOUT, RESPONSES, COSTS = (
    "omega.csv",
    "tightness.csv",
    "layout.csv",
    "responses.npz",
    "costs.csv",
)
"""Files below `ablations/`, each described where it is written."""


class Detectors(NamedTuple):
    """Names as `mutineck.detectors.folders.load_frozen` takes them.

    Attributes:
        teachers: all of them, as the experiment lists them.
        intermediate: `intermediate`, or None where no arm learns from it.
        alone: the student alone, `student/seedN`, or None.
        taught: the taught arm to show (`shown_arm`), `ARM/seedN`, or None.
    """

    teachers: tuple[str, ...]
    intermediate: str | None
    alone: str | None
    taught: str | None

    @property
    def students(self) -> tuple[str, ...]:
        """Before and after teaching, those that are there."""
        return tuple(name for name in (self.alone, self.taught) if name)

    @property
    def all(self) -> tuple[str, ...]:
        """Teachers, the intermediate one, students."""
        return (*self.teachers, *([self.intermediate] if self.intermediate else []), *self.students)


def detectors(study: Study) -> Detectors:
    """Return the detectors that have results: what a picture of before and after shows.

    Raises:
        FileNotFoundError: nothing has results yet; the message names the command.
    """
    frame = collect(study)
    found = set(frame["arm"].astype(str))
    taught = shown_arm(frame, study.experiment)
    return Detectors(
        tuple(teacher.name for teacher in study.experiment.teachers),
        INTERMEDIATE if study.experiment.needs_intermediate else None,
        first_seed(study, ALONE) if ALONE in found else None,
        first_seed(study, taught) if taught else None,
    )
