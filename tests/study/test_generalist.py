"""The control teacher of all labels: what it is, who needs it, and that nothing else knows of it."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from mutineck.study.experiment import Experiment
from mutineck.study.jobs import Job, jobs, needs
from mutineck.study.settings import settings_of, settings_text

FASTER = {"family": "faster_rcnn"}
TEACHERS: list[dict[str, Any]] = [
    {"name": "red", "detector": FASTER, "categories": ["a"], "schedule": {"epochs": 5, "batch": 4}, "floor": 0.3},
    {"name": "blue", "detector": {"family": "gfl"}, "categories": ["b"], "schedule": {"epochs": 7}},
    {"name": "zoo", "zoo": "retinanet_r50_fpn_1x_coco"},
]


def study(*arms: str, teachers: list[dict[str, Any]] = TEACHERS, inherit: bool = False, **named: Any) -> Experiment:
    fields = {"name": "tiny", "dataset": {"format": "shapes"}, "teachers": teachers}
    fields |= {"student": {"detector": FASTER, "inherit": inherit}, "arms": dict.fromkeys(arms) | named}
    return Experiment.model_validate(fields)


def test_it_is_the_anchor_with_all_labels_and_all_epochs() -> None:
    spec = study("fgd:generalist").teacher("generalist")
    assert spec.detector == study("student").teachers[0].detector
    assert (spec.categories, spec.sees, spec.floor) == (None, None, 0.0)
    assert spec.schedule is not None and (spec.schedule.epochs, spec.schedule.batch) == (12, 4)
    settings = settings_of(study("fgd:generalist"), Job.teacher("generalist"))["teacher"]
    assert settings["schedule"]["epochs"] == 12 and settings["categories"] is None


def test_it_is_made_where_an_arm_asks_for_it_and_nowhere_else() -> None:
    without, taught = study("student", "mutineck"), study("student", "mutineck", "fgd:generalist")
    started = study("student", "student@generalist", "mutineck")
    assert Job.teacher("generalist") not in jobs(without)
    assert taught.all_teachers == started.all_teachers == ["red", "blue", "zoo", "generalist", "intermediate"]
    assert needs(taught, Job.student("fgd:generalist", 0)) == [Job("dataset"), Job.teacher("generalist")]
    assert needs(started, Job.student("student@generalist", 0)) == [Job("dataset"), Job.teacher("generalist")]
    assert needs(taught, Job.teacher("generalist")) == [Job("dataset")]
    for job in [Job.teacher("intermediate"), Job("features"), Job("clusters"), Job.student("mutineck", 0)]:
        assert needs(taught, job) == needs(without, job)
        assert settings_text(taught, job) == settings_text(without, job), f"{job} is stale by a control"
    again = Experiment.model_validate(taught.model_dump(mode="json", by_alias=True))
    assert again.teacher("generalist") == taught.teacher("generalist")


def test_a_student_of_it_starts_from_it_where_students_inherit() -> None:
    experiment = study("fgd:generalist", inherit=True)
    assert settings_of(experiment, Job.student("fgd:generalist", 0))["arm"]["start"] == "generalist"


def test_what_it_cannot_be_is_refused() -> None:
    with pytest.raises(ValidationError, match="'zoo' is not trained here: leave the arm out"):
        study("fgd:generalist", teachers=TEACHERS[::-1])
    with pytest.raises(ValidationError, match="arm 'mine': `centroids`: the generalist is no part of the features"):
        study(mine={"feature": "fgd", "source": "generalist", "centroids": True})
    with pytest.raises(ValidationError, match="teacher name 'generalist' is reserved"):
        study("student", teachers=[{"name": "generalist", "detector": FASTER}])
