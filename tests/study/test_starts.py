"""What arms start from, by name, by record and by default; and who is not taught beside them."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from mutineck.study.experiment import Experiment, slug
from mutineck.study.jobs import Job, needs
from mutineck.study.settings import settings_text
from mutineck.study.starts import donors, start_of, untaught_like

FASTER, GFL = {"family": "faster_rcnn"}, {"family": "gfl"}
ZOO = "retinanet_r50_fpn_1x_coco"


def study(*arms: str, inherit: bool = False, learner: Any = FASTER, **named: Any) -> Experiment:
    fields = {
        "name": "tiny",
        "dataset": {"format": "shapes"},
        "teachers": [
            {"name": "big", "detector": FASTER},
            {"name": "small", "detector": GFL},
            {"name": "zoo", "zoo": ZOO},
            {"name": "given", "config": "own.py", "checkpoint": "own.pth"},
        ],
        "student": {"detector": learner, "inherit": inherit},
        "arms": dict.fromkeys(arms) | named,
    }
    return Experiment.model_validate(fields)


def starts(experiment: Experiment) -> dict[str, str]:
    return {name: start_of(experiment, spec) for name, spec in experiment.arms.items()}


def test_what_says_nothing_starts_as_student_inherit_has_it() -> None:
    arms = ("student", "fgd:big", "fgd:small", "fgd:zoo", "fgd:given", "fgd:mean", "adapters", "mutineck")
    assert set(starts(study(*arms)).values()) == {"own"}
    assert starts(study(*arms, inherit=True)) == {
        "student": "own",
        "fgd:big": "big",
        "fgd:small": "own",  # of another type
        "fgd:zoo": "own",
        "fgd:given": "given",  # its files tell
        "fgd:mean": "big",
        "adapters": "big",
        "mutineck": "intermediate",
    }
    one_stage = study(*arms, inherit=True, learner=GFL)
    assert starts(one_stage) == dict.fromkeys(arms, "own") | {"fgd:small": "small", "fgd:given": "given"}


def test_names_and_records_say_it() -> None:
    experiment = study("student@intermediate", "fgd:mean@own", inherit=True, mine={"feature": "none", "start": "big"})
    assert starts(experiment) == {"student@intermediate": "intermediate", "fgd:mean@own": "own", "mine": "big"}
    assert not experiment.arm("student@intermediate").taught
    again = Experiment.model_validate(experiment.model_dump(mode="json", by_alias=True))
    assert again == experiment, "as a study's own experiment.yaml is read"
    assert slug("fgd:big@big") == "fgd-big@big"


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        (
            {"student@small": None},
            r"cannot start from 'small': 'small' is a gfl with strides .8, .*, the student a faster",
        ),
        ({"fgd:small@small": None}, "the student a faster_rcnn with strides .4, 8, 16, 32, 64"),
        ({"student@zoo": None}, "'zoo' is a retinanet, the student a faster_rcnn"),
        ({"student@bgi": None}, "unknown start 'bgi'; did you mean 'big'"),
        ({"student@mean": None}, "unknown start 'mean'"),
        ({"student@big": {"start": "own"}}, "its name says that it starts from 'big', `start` says 'own'"),
        ({"student": {"start": "big"}}, "starts from its own weights; call it student@big"),
        ({"student": {"inherit": True}}, "inherit"),
    ],
)
def test_a_start_that_cannot_be_is_refused_when_the_experiment_is_read(arms: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        study(**arms)


def test_the_intermediate_teacher_is_of_the_anchors_type() -> None:
    with pytest.raises(ValidationError, match=r"'intermediate' .by its anchor 'big'. is a faster_rcnn"):
        study("student@intermediate", learner=GFL)


def test_an_experiment_from_before_there_were_starts_is_read() -> None:
    assert study(**{"fgd:big": {"inherit": None}}).arm("fgd:big").start is None


def test_a_start_is_made_before_the_student() -> None:
    experiment = study("student", "student@big", "student@intermediate", "fgd:small")
    assert experiment.needs_intermediate and donors(experiment, experiment.arm("student@intermediate")) == (
        "big",
        "intermediate",
    )
    dataset, big, merged = (Job(*each.split()) for each in ("dataset", "teachers big", "teachers intermediate"))
    assert needs(experiment, Job("distillation", "student/seed0")) == [dataset]
    assert needs(experiment, Job("distillation", "student@big/seed0")) == [dataset, big]
    assert needs(experiment, Job("distillation", "student@intermediate/seed0")) == [dataset, big, merged]
    assert needs(experiment, Job("distillation", "fgd-small/seed0")) == [dataset, Job("teachers", "small")]


def test_another_start_makes_stale_and_no_start_does_not() -> None:
    arms = ("student", "fgd:small", "fgd:mean")
    before, after = study(*arms), study(*arms, inherit=True)
    changed = {
        arm
        for arm in arms
        if settings_text(before, Job("distillation", f"{slug(arm)}/seed0"))
        != settings_text(after, Job("distillation", f"{slug(arm)}/seed0"))
    }
    assert changed == {"fgd:mean"}, "fgd:small has nothing to start from either way"


def test_who_starts_alike_and_is_not_taught() -> None:
    long = {"feature": "none", "epochs": 24}
    experiment = study(
        "student", "student@big", "fgd:big", "fgd:small", "mutineck",
        inherit=True, **{"student_long": long, "student_long@big": long, "fgd:mean": {"epochs": 24}},
    )  # fmt: skip
    found = {arm: untaught_like(experiment, arm) for arm in experiment.arms}
    assert found == dict.fromkeys(("student", "student@big", "student_long", "student_long@big", "mutineck")) | {
        "fgd:big": "student@big",
        "fgd:small": "student",
        "fgd:mean": "student_long@big",
    }
