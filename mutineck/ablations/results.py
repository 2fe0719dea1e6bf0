"""All results of a study as tidy rows: one row an arm, seed, split, metric and category."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from mutineck.study.arms import ENSEMBLE, TEACHER, method_in
from mutineck.study.experiment import CHOOSING, Experiment
from mutineck.study.jobs import Job, student_name
from mutineck.study.manifest import read_manifest
from mutineck.study.stage import Study
from mutineck.study.staleness import why_not_counted
from mutineck.system.files import read_json

METRICS_FILE = "metrics.json"
COLUMNS = ("arm", "seed", "split", "metric", "category", "value")
ENSEMBLE_FILE = "ensemble.json"
HEADLINE = "bbox_mAP"


def runs(study: Study) -> Iterator[tuple[str, int | None, Job]]:
    """Yield ``(arm, seed, job)`` of everything that a study measures: teachers first, then arms, as it
    lists them.

    A teacher's arm is ``teacher:NAME`` and its seed None. The jobs need not be finished.
    """
    experiment = study.experiment
    for name in experiment.all_teachers:
        yield TEACHER + name, None, Job.teacher(name)
    for arm in experiment.arms:
        for seed in experiment.seeds:
            yield arm, seed, Job.student(arm, seed)


def collect(study: Study) -> pd.DataFrame:
    """Return all results as a frame of the columns arm, seed, split, metric, category, value.

    ``seed`` is a nullable integer (teachers have none), ``category`` is empty for a metric over all
    categories, and ``value`` lies in 0..1, NaN where a category does not occur. What is not there is named by
    ``missing``; results that ``why_not`` refuses are left out, and that is said.

    Raises:
        FileNotFoundError: no run has results yet.
        ValueError: a metrics file lacks a field; the message names it.
    """
    rows: list[dict[str, Any]] = []
    for arm, seed, job in runs(study):
        path = study.path(job.folder, METRICS_FILE)
        if why := why_not(study, job):
            if path.is_file():
                print(f"{study.experiment.name}: {_called(arm, seed)} is left out: {why}", file=sys.stderr)
            continue
        rows += [_row(path, item) | {"arm": arm, "seed": seed} for item in read_json(path)]
    rows += [
        _row(study.path("ablations", ENSEMBLE_FILE), item) | {"arm": TEACHER + ENSEMBLE, "seed": None}
        for item in ensemble_rows(study)
    ]
    if not rows:
        study.need("distillation")  # the usual reason, with the command that helps
        raise FileNotFoundError(
            f"{study.root}: no teacher and no arm has results of its settings yet. "
            f"Make them with: {study.command('distillation')}"
        )
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return frame.astype({"seed": "Int64", "value": "float64", "category": "string", "arm": "string"})


def ensemble_rows(study: Study) -> list[dict[str, Any]]:
    """Return the metrics of the teachers' ensemble; empty if not measured, or of teachers that are others now."""
    path = study.path("ablations", ENSEMBLE_FILE)
    content = read_json(path) if path.is_file() else {}
    return content["rows"] if content.get("of") == made(study) else []


def made(study: Study) -> dict[str, str]:
    """Return when each teacher that counts was finished, but for the intermediate one."""
    found = {}
    for teacher in study.experiment.teachers:
        job = Job.teacher(teacher.name)
        if not why_not(study, job) and (manifest := read_manifest(study.root, job)):
            found[teacher.name] = manifest.get("finished", "")
    return found


def why_not(study: Study, job: Job) -> str:
    """Return why the results of a teacher or student do not count in tables, '' if they do."""
    if not study.path(job.folder, METRICS_FILE).is_file():
        return "it has no results yet"
    return why_not_counted(study.experiment, study.root, job)


def missing(study: Study) -> list[str]:
    """Return what the experiment asks for and no results count of, as ``ARM seed N`` or ``teacher:NAME``."""
    return [_called(arm, seed) for arm, seed, job in runs(study) if why_not(study, job)]


def _called(arm: str, seed: int | None) -> str:
    return arm if seed is None else f"{arm} seed {seed}"


def scores(frame: pd.DataFrame, split: str, metric: str = HEADLINE, category: str = "") -> pd.DataFrame:
    """Return the rows of one metric on one split, in the frame's order."""
    chosen = (frame["split"] == split) & (frame["metric"] == metric) & (frame["category"] == category)
    return frame[chosen].reset_index(drop=True)


def part_known(frame: pd.DataFrame, arm: str, split: str) -> str:
    """Return ` (1 of 3 categories)` for a teacher that does not know all: its mAP is over those alone. Else nothing."""
    known, of_all = _known(frame, split)
    return f" ({known[arm]} of {of_all} categories)" if 0 < known.get(arm, 0) < of_all else ""


def teacher_strengths(frame: pd.DataFrame, split: str) -> pd.Series:
    """Return each measured teacher's mean AP over all categories of the split, 0 for those that it lacks, by its name.

    Its mAP is over those that it knows, and so no measure of teachers that know different ones.
    """
    rows = scores(frame, split).dropna(subset=["value"]).set_index("arm")["value"]
    rows = rows[rows.index.str.startswith(TEACHER) & (rows.index != TEACHER + ENSEMBLE)]
    known, of_all = _known(frame, split)
    shares = [known.get(arm, of_all) / of_all if of_all else 1.0 for arm in rows.index]
    return (rows * shares).rename(index=lambda arm: arm.removeprefix(TEACHER))


def _known(frame: pd.DataFrame, split: str) -> tuple[dict[str, int], int]:
    """Return of how many categories each detector has an AP on a split, and how many there are."""
    rows = frame[(frame["split"] == split) & (frame["metric"] == "AP")].dropna(subset=["value"])
    return rows.groupby("arm")["category"].nunique().to_dict(), rows["category"].nunique()


def shown_arm(frame: pd.DataFrame, experiment: Experiment) -> str | None:
    """Return the taught arm that pictures of before and after show, or None if no taught arm has results.

    The method itself where the study has it, fixed beforehand and not chosen by its result; otherwise the arm with
    the highest mean mAP over seeds on the validation split.
    """
    rows = scores(frame, CHOOSING)
    rows = rows[rows["arm"].isin([name for name, spec in experiment.arms.items() if spec.taught])]
    means = rows.groupby("arm", sort=False)["value"].mean().dropna()
    if method := method_in(means.index):
        return method
    return None if means.empty else str(means.idxmax())


def best_teacher(frame: pd.DataFrame) -> str | None:
    """Return the strongest teacher (or `intermediate`) over all of val's categories, or None if none has results."""
    strengths = teacher_strengths(frame, CHOOSING)
    return None if strengths.empty else str(strengths.idxmax())


def first_seed(study: Study, arm: str) -> str:
    """Return ``ARM/seedN`` of the first of the experiment's seeds that an arm has results of.

    Raises:
        FileNotFoundError: it has none; the message names the command that makes them.
    """
    for seed in study.experiment.seeds:
        if not why_not(study, Job.student(arm, seed)):
            return student_name(arm, seed)
    study.need(Job.student(arm, study.experiment.seeds[0]).folder, METRICS_FILE)
    raise AssertionError("unreachable: need() has raised")


def _row(path: Path, item: dict[str, Any]) -> dict[str, Any]:
    absent = [field for field in ("split", "metric", "value") if field not in item]
    if absent:
        raise ValueError(f"{path}: a row lacks {', '.join(absent)}: {item}; run the stage that wrote it again")
    value = item["value"]
    return {
        "split": item["split"],
        "metric": item["metric"],
        "category": item.get("category") or "",
        # COCO's evaluation says -1, and JSON null, where a category does not occur in a split.
        "value": float("nan") if value is None or value < 0 else float(value),
    }
