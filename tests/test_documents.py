"""README, docs and notebooks: links lead somewhere, and what is expected is what was measured."""

from __future__ import annotations

import re

import pytest

from mutineck.study.experiment_file import repository
from tests import expected
from tests.expected import Measured, Range

TEXTS = dict(expected.texts())


@pytest.mark.parametrize("name", TEXTS)
def test_links_lead_to_files_and_headings(name: str) -> None:
    page = repository() / name
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", TEXTS[name], flags=re.DOTALL)):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, anchor = target.partition("#")
        leads = (page.parent / path) if path else page
        assert leads.exists(), f"{name}: {target}"
        assert not anchor or leads.suffix != ".md" or anchor in expected.anchors(leads), f"{name}: {target}"


def test_what_is_expected_holds_on_every_machine_and_with_every_seed_that_was_measured() -> None:
    told = [(name, each) for name, text in TEXTS.items() for each in expected.ranges(text)]
    assert {each.who for _, each in told} >= {"teachers", "taught students", "`student`"}
    found = {study: expected.measured(study) for study in {each.study for _, each in told}}
    assert [f"{name}: {fault}" for name, each in told for fault in expected.faults(each, found[each.study])] == []


def test_the_relations_that_the_table_of_arms_is_said_to_show_are_there() -> None:
    """`06_ablations`: every teacher above the student alone, a positive gain for most arms."""
    assert (
        "every teacher above the student alone, and a positive gain for most arms"
        in TEXTS["notebooks/06_ablations.ipynb"]
    )
    runs: dict[str, dict[str, float]] = {}
    for each in expected.measured("shapes"):
        if each.split == "test":
            runs.setdefault(each.where, {})[each.arm] = each.value
    assert runs
    for where, reached in runs.items():
        alone = reached["student"]
        gains = [
            value > alone for arm, value in reached.items() if not arm.startswith(expected.TEACHER) and arm != "student"
        ]
        assert all(value > alone for arm, value in reached.items() if arm.startswith(expected.TEACHER)), where
        assert sum(gains) > len(gains) / 2, where


FOUND = [Measured("here", "student", "test", 0.1), Measured("avx2, 1 threads", "fgd:a", "test", 0.31)]


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        pytest.param("Expected for `x` on test: `student` at 0.05 to 0.15.", [], id="holds"),
        pytest.param("Expected for `x` on test: `student` at 5 to 15.\nMore.", [], id="percent"),
        pytest.param(
            "Expected for `x` on test: `student` at 0.05\nto 0.15, and taught students at 0.2 to 0.3. More.",
            ["taught students at 0.2 to 0.3 on test: fgd:a has 0.310 (avx2, 1 threads)"],
            id="too high",
        ),
        pytest.param(
            "Expected for `x` on test: taught students at 0.1 to 0.5.",
            ["taught students at 0.1 to 0.5 on test: wider than 0.3, so it says nothing"],
            id="too wide",
        ),
        pytest.param(
            "Expected for `x` on val: `student` at 0 to 0.2.",
            ["`student` at 0 to 0.2 on val: nobody was measured"],
            id="not measured",
        ),
    ],
)
def test_a_range_that_does_not_hold_is_told(text: str, wrong: list[str]) -> None:
    assert [fault for each in expected.ranges(text) for fault in expected.faults(each, FOUND)] == wrong


def test_an_expectation_without_a_range_or_of_nobody_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected 'WHO at LOW to HIGH' of x on val, got 'teachers near 0\.2'"):
        list(expected.ranges("Expected for `x` on val: teachers near 0.2."))
    with pytest.raises(
        ValueError, match="expected 'teachers', 'taught students' or an arm in backticks, got 'student'"
    ):
        expected.faults(Range("x", "test", "student", 0, 0.2), FOUND)


def test_times_that_are_told_of_the_first_study_are_about_those_measured() -> None:
    """README's table of stages and the notebooks' heads; another machine may take half or twice as long."""
    kept = expected.minutes("shapes")
    told = {
        stage: (low, high or low)
        for stage, low, high in re.findall(
            r"^\| \[\d\d_(\w+)\].*\| ([\d.]+)(?: to ([\d.]+))? min(?: each)? \|$",
            TEXTS["README.md"],
            flags=re.MULTILINE,
        )
    }
    assert set(told) == set(kept)
    told |= {
        f"{stage} in its notebook": re.findall(
            r"Takes (\d+) to (\d+) minutes", TEXTS[f"notebooks/{number}_{stage}.ipynb"]
        )[0]
        for number, stage in (("02", "teachers"), ("05", "distillation"))
    }
    for stage, (low, high) in told.items():
        shortest, longest = kept[stage.split(" ")[0]]
        assert float(low) / 2 - 0.5 <= shortest and longest <= 2 * float(high) + 0.5, stage
