"""Checks: what noise explains is said and stops nothing; what it does not is weak, and stops a study that asks for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from mutineck.study.checks import Check, is_weak, refusal, refusal_of, remark, remarks
from mutineck.study.experiment import load_experiment
from mutineck.study.jobs import Job
from mutineck.study.stage import Study
from mutineck.study.staleness import inspect

BEST = "faster"


def below(difference: float, low: float, high: float) -> Check:
    return Check(0.293 + difference, BEST, difference, low, high, 40, 1000)


@pytest.mark.parametrize(
    ("check", "weak", "words"),
    [
        (below(0.004, -0.01, 0.02), False, ""),
        (
            below(-0.006, -0.021, 0.010),
            False,
            "The intermediate teacher is 0.6 mAP below the best teacher, faster, on val [-2.1, +1.0]: "
            "chance may do as much.",
        ),
        (below(-0.006, -0.011, -0.001), False, "[-1.1, -0.1]: within the gate of 0.2."),
        (below(-0.006, -0.011, -0.002), False, "within the gate of 0.2."),
        (below(-0.02, -0.03, -0.003), True, "[-3.0, -0.3]: more than chance and the gate of 0.2 allow."),
    ],
    ids=["above", "by chance", "within the gate", "at the gate", "weak"],
)
def test_the_intermediate_teacher(check: Check, weak: bool, words: str) -> None:
    experiment = load_experiment("shapes")
    assert is_weak(experiment, "intermediate", check) == weak
    said = remark(experiment, "intermediate", check)
    assert said.endswith(words) and bool(said) == bool(words)
    assert bool(refusal_of(experiment, "intermediate", check)) == weak


@pytest.mark.parametrize(("high", "weak"), [(0.199, True), (0.2, False), (0.25, False)])
def test_a_teacher_under_its_floor_is_weak_if_its_whole_interval_is(high: float, weak: bool) -> None:
    experiment = load_experiment("shapes")
    check = Check(0.18, "", 0.18, 0.16, high, 40, 1000)
    assert is_weak(experiment, BEST, check) == weak
    assert (
        remark(experiment, BEST, check)
        == weak * "Teacher faster is weak: 18.0 mAP on val [16.0, 19.9], its floor is 20.0."
    )
    lower = load_experiment("shapes", ["teachers.faster.floor=0"])
    assert not is_weak(lower, BEST, check)


def finished(root: Path, *, check: Check | None = None, defects: int = 0) -> Study:
    """Write a finished data set and a finished intermediate teacher of `shapes`."""
    study = Study(load_experiment("shapes"), root, Job("dataset"))
    study.finish(results={"repaired": 0, "left_out": defects, "kept": 0})
    merged = study.at("teachers", "intermediate")
    merged.finish(results={"val": 0.287} | ({"check": check._asdict()} if check else {}))
    return merged


WEAK = below(-0.05, -0.07, -0.03)


@pytest.mark.parametrize(
    ("given", "stops"),
    [
        ([], False),
        (["checks.on_weak=stop"], True),
        (["checks.on_weak=stop", "intermediate.gate=0.03"], False),
        (["checks.on_weak=stop", "intermediate.gate=0.029"], True),
    ],
    ids=["said", "stops", "relaxed", "not enough"],
)
def test_what_is_finished_is_judged_by_the_checks_of_today(tmp_path: Path, given: list[str], stops: bool) -> None:
    study = finished(tmp_path, check=WEAK)
    job = Job("teachers", "intermediate")
    manifest = study.finish(results={"check": WEAK._asdict()})
    why = refusal(load_experiment("shapes", given), job, manifest)
    assert bool(why) == stops
    if stops:
        assert "widen intermediate.gate, or let the study say so and go on (checks.on_weak: say)" in why


def test_a_strict_data_set_is_refused_after_it_was_made(tmp_path: Path) -> None:
    manifest = finished(tmp_path, defects=3).at("dataset").finish(results={"repaired": 1, "left_out": 2, "kept": 0})
    job = Job("dataset")
    assert refusal(load_experiment("shapes"), job, manifest) == ""
    strict = load_experiment("shapes", ["dataset.strict=true"])
    assert refusal(strict, job, manifest) == "dataset.strict: 3 defects in the data set, see dataset/defects.json"


def test_status_table_and_headline_say_it(tmp_path: Path) -> None:
    study = finished(tmp_path, check=WEAK)
    (said,) = remarks(study.experiment, tmp_path)
    assert said.startswith("The intermediate teacher is 5.0 mAP below the best teacher, faster, on val [-7.0, -3.0]")
    notes = {state.job: state.note for state in inspect(study.experiment, tmp_path)}
    assert said in notes[Job("teachers", "intermediate")]
    other = load_experiment("shapes", ["intermediate.seed=3"])
    assert remarks(other, tmp_path) == [], "it is of other settings"


def test_a_teacher_that_was_not_compared_is_not_remarked_upon(tmp_path: Path) -> None:
    study = finished(tmp_path)
    assert remarks(study.experiment, tmp_path) == []
    assert (
        refusal(load_experiment("shapes", ["checks.on_weak=stop"]), Job("teachers", "intermediate"), {"results": {}})
        == ""
    )
