"""docs/reliability.md says what was counted, of tests that are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

from mutineck.study.experiment_file import repository
from tests.reliability import coverage, table
from tests.reliability.topics import TOPICS, Topic

JUNIT = """<testsuites><testsuite name="pytest" timestamp="{when}.5+00:00" tests="4"><properties>
<property name="revision" value="{revision}" /></properties>{cases}</testsuite></testsuites>"""
CASES = (
    '<testcase classname="tests.dataset.test_contracts" name="test_generated_voc_files"><properties>'
    '<property name="files" value="3000" /></properties></testcase>',
    '<testcase classname="tests.dataset.test_voc" name="test_an_external_entity_is_never_read" />',
    '<testcase classname="tests.system.test_faults" name="test_a_full_disk_is_said"><skipped message="no unshare" /></testcase>',
    '<testcase classname="tests.dataset.test_coco" name="test_x"><failure message="no" /></testcase>',
    '<testcase classname="tests.figures.test_style" name="test_y" />',
)


@pytest.fixture(scope="module")
def functions() -> list[str]:
    """Every test function of the repository, as `tests.module::name`."""
    found = []
    for path in (repository() / "tests").rglob("test_*.py"):
        module = ".".join(path.relative_to(repository()).with_suffix("").parts)
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        found += [f"{module}::{node.name}" for node in nodes if isinstance(node, ast.FunctionDef)]
    return found


def test_the_document_says_what_was_counted() -> None:
    document = table.DOCUMENT.read_text(encoding="utf-8")
    assert table.with_tables(document, table.read_reports()) == document, "run: make reliability"


def test_counts_are_of_sound_runs() -> None:
    reports = table.read_reports()
    if "tests" not in reports:
        assert table.UNCOUNTED in table.DOCUMENT.read_text(encoding="utf-8")
        return
    assert reports["tests"]["topics"].keys() == {topic.wrong for topic in TOPICS}
    for topic, counts in reports["tests"]["topics"].items():
        assert counts["passed"] > 0 == counts["failed"], topic
    files = sum(reports["tests"]["topics"][topic.wrong]["files"] for topic in TOPICS)
    assert files >= 5000, "generated annotation files and pictures"


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.wrong)
def test_a_topic_names_tests_that_are_there(topic: Topic, functions: list[str]) -> None:
    for pattern in topic.tests:
        name = re.sub(r"\.\*.*$", "", pattern)  # what stands after the function's name chooses among its cases
        assert any(re.match(name, each) for each in functions), f"{pattern} is no test"
    assert all((repository() / path).is_file() for path in topic.where)


def test_runs_are_counted_by_topic_and_outcome(tmp_path: Path) -> None:
    for name, when, cases in (("a", "2001-01-01T00:00:00", CASES[:2]), ("b", "2001-01-02T00:00:00", CASES[2:])):
        (tmp_path / name).write_text(JUNIT.format(when=when, revision="1234567890", cases="".join(cases)))
    found = table.count([tmp_path / "a", tmp_path / "b"])
    assert (found["tests"], found["revision"], found["finished"]) == (5, ["1234567890"], "2001-01-02T00:00:00Z")
    assert found["topics"]["VOC annotations from the wild"] == {"passed": 2, "failed": 0, "skipped": 0, "files": 3000}
    assert found["topics"]["COCO annotations from the wild"]["failed"] == 1
    text = table.tables({"tests": found})["tests"]
    assert "The last run: 2001-01-02, revision 12345678." in text
    assert "| 2 passed | 3 000 | `dataset/test_voc.py`" in text and "| 1 skipped |" in text


def test_longer_runs_are_told_with_what_they_found() -> None:
    about: dict[str, Any] = {"revision": {"git": "f" * 40}, "finished": "2001-01-01T00:00:00Z"}
    target = {"files": 60_000, "kept": 7, "seconds": 150, "findings": ["voc-bytes-crash"]}
    kills = {
        "kills": 50,
        "how": {"everything": 30, "one process": 20},
        "starts": 61,
        "during": {"dataset": 50},
        "stops": {"SIGINT": 9},
    }
    kills |= {"files_compared": 90, "files_differing": [], "faults": [], "slowest_stop": 3.1}
    soaked = {
        "memory_mib": 300.0,
        "open_files": 9,
        "threads": 1,
        "processes": 0,
        "temporary_files": 0,
        "shared_memory": 0,
    }
    measured = {
        "totals": {"num_statements": 4000, "covered_lines": 3610},
        "files": {name: {"summary": {"missing_lines": lines}} for name, lines in (("b", 380), ("a", 10), ("c", 0))},
    }
    reports = {
        "fuzz": about | {"targets": {"hypothesis": target | {"findings": []}, "voc-bytes": target}},
        "kills": about | kills,
        "soak": about | {"rounds": [soaked, soaked], "warm": 1, "hours": 1.02, "grown": [], "faults": []},
        "coverage": about | coverage.summary(measured),
    }
    tested = {
        "revision": [],
        "finished": "",
        "topics": {t.wrong: {"passed": 1, "failed": 0, "skipped": 0, "files": 0} for t in TOPICS},
    }
    lines = table.tables({"tests": tested, **reports})["longer runs"].splitlines()[2:]
    assert (
        "60 000 files by property tests; by coverage 60 000 in 2 minutes" in lines[0]
        and "1 findings: voc-bytes-crash" in lines[0]
    )
    assert (
        "50 SIGKILLs (everything 30, one process 20) in 61 starts" in lines[1] and "none differs; no faults" in lines[1]
    )
    assert "2 studies in 1.0 hours | nothing grows, no faults: MiB 300 → 300, open files 9 → 9" in lines[2]
    assert "the unit tests, 4 000 lines of `mutineck` | 90% are run; most lines that are not: b 380, a 10 |" in lines[3]
    empty = table.tables({"tests": tested})["longer runs"]
    assert empty.count("not yet") == 4
