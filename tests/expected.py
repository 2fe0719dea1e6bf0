"""What documents and notebooks expect of a study, and what was measured of it on all machines and with all seeds.

A sentence such as

    Expected for `shapes` on test: `student` at 0.05 to 0.16, taught students at 0.08 to 0.32.

is held against the kept study and against the runs of `make portable`. Numbers above 1 are percent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import nbformat

from mutineck.study.experiment_file import repository
from mutineck.system.files import read_json
from mutineck.system.tables import read_table
from tests.reliability import portable

KEPT = repository() / "experiments" / "results"
TEACHER = "teacher:"
SENTENCE = re.compile(r"Expected for `(\w+)` on (val|test): (.+?)\.(?= |$)")
ITEM = re.compile(r"(.+?) at ([\d.]+) to ([\d.]+)")
WIDEST = 0.3
"""Of a range of mAP; one that is wider says nothing."""


class Range(NamedTuple):
    """What is expected of somebody: the lowest and highest mAP, 0 to 1."""

    study: str
    split: str
    who: str
    low: float
    high: float


class Measured(NamedTuple):
    """One mAP that was measured, 0 to 1, and where."""

    where: str
    arm: str
    split: str
    value: float


def texts() -> Iterator[tuple[str, str]]:
    """Yield the name and the prose of every document and notebook."""
    root = repository()
    for path in [*root.glob("*.md"), *(root / "docs").glob("*.md"), *(root / ".github").rglob("*.md")]:
        yield path.relative_to(root).as_posix(), path.read_text(encoding="utf-8")
    for path in (root / "notebooks").glob("*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        yield path.relative_to(root).as_posix(), "\n\n".join(c.source for c in cells if c.cell_type == "markdown")


def ranges(text: str) -> Iterator[Range]:
    """Yield every range that a text expects.

    Raises:
        ValueError: a sentence begins like one of these and holds no range.
    """
    for study, split, items in SENTENCE.findall(" ".join(text.split())):
        for item in items.split(", "):
            found = ITEM.fullmatch(item.removeprefix("and "))
            if not found:
                raise ValueError(f"expected 'WHO at LOW to HIGH' of {study} on {split}, got {item!r}")
            low, high = (float(end) / (100 if float(found[3]) > 1 else 1) for end in found.groups()[1:])
            yield Range(study, split, found[1], low, high)


def measured(study: str) -> list[Measured]:
    """Return every mAP that was kept of a study: by seed, and by run of `make portable`."""
    rows = read_table(KEPT / f"{study}.csv")
    rows = rows[rows["metric"] == "bbox_mAP"]
    found = [
        Measured("the kept study", *row)
        for row in zip(rows["arm"], rows["split"], map(float, rows["value"]), strict=True)
    ]
    report = read_json(portable.REPORT) if portable.REPORT.is_file() else {"experiment": study, "machines": {}}
    if report["experiment"] == study:
        for run in portable.all_runs(report):
            where = f"{run['capability']}, {run['threads']} threads"
            found += [Measured(where, arm, *each) for arm, by_split in run["mAP"].items() for each in by_split.items()]
    return found


def concerns(who: str, arm: str) -> bool:
    """Whether an expectation of ``who`` is one of a row of results.

    Raises:
        ValueError: ``who`` is nobody.
    """
    if who == "teachers":
        return arm.startswith(TEACHER)
    if who == "taught students":
        return not arm.startswith(TEACHER) and arm != "student"
    if not re.fullmatch("`.+`", who):
        raise ValueError(f"expected 'teachers', 'taught students' or an arm in backticks, got {who!r}")
    return arm == who.strip("`")


def faults(expected: Range, found: Sequence[Measured]) -> list[str]:
    """Return what is wrong with a range, in words; nothing if it holds all that was measured and says something."""
    own = [each for each in found if each.split == expected.split and concerns(expected.who, each.arm)]
    told = f"{expected.who} at {expected.low:g} to {expected.high:g} on {expected.split}"
    if not own:
        return [f"{told}: nobody was measured"]
    wrong = [
        f"{told}: {each.arm} has {each.value:.3f} ({each.where})"
        for each in own
        if not expected.low <= each.value <= expected.high
    ]
    if expected.high - expected.low > WIDEST:
        wrong.append(f"{told}: wider than {WIDEST}, so it says nothing")
    return wrong


def minutes(study: str) -> Mapping[str, tuple[float, float]]:
    """Return the shortest and the longest job of each stage of a kept study, in minutes."""
    seconds = read_json(KEPT / f"{study}.json")["job_seconds"]
    stages = {job.split("/")[0] for job in seconds}
    by_stage = {stage: [taken / 60 for job, taken in seconds.items() if job.split("/")[0] == stage] for stage in stages}
    return {stage: (min(taken), max(taken)) for stage, taken in by_stage.items()}


def anchors(path: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a document."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
