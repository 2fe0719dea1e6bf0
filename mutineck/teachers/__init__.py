"""The teachers stage: who teaches, how good each is, and the intermediate teacher that integrates them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mutineck.study.checks import CHECK
from mutineck.study.experiment import CHOOSING, INTERMEDIATE
from mutineck.study.stage import Outcome
from mutineck.system.files import read_json

if TYPE_CHECKING:
    import pandas as pd

    from mutineck.study.stage import Study

CHECK_FILE = f"{CHECK}.json"
"""Beside a teacher's checkpoint, if it was compared: fields of `mutineck.study.checks.Check`."""


def prepare(study: Study) -> Outcome[list[dict[str, Any]]]:
    """Make the teacher `study.item` ready (`intermediate` too); found are its metrics, one row a number."""
    for path in _told(study).values():
        path.unlink(missing_ok=True)
    if study.item == INTERMEDIATE:
        from mutineck.teachers.intermediate import prepare_intermediate as made
    else:
        from mutineck.teachers.stage import prepare_teacher as made
    rows = made(study)
    return Outcome(
        rows,
        reads=[study.path("dataset", "train.json")],
        writes=[study.folder / name for name in ("checkpoint.pth", "config.py", "metrics.json")],
        results=results(study, rows),
    )


def results(study: Study, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what the manifest of the teacher `study.item` tells.

    That is its mAP by split, what it was shown if not all, how it compares, and which of its states was kept.

    Args:
        study: at the teacher, which is ready.
        rows: its metrics.
    """
    from mutineck.teachers.training_subset import shown_part

    found = {str(row["split"]): row["value"] for row in rows if row["metric"] == "bbox_mAP"}
    told = {name: read_json(path) for name, path in _told(study).items() if path.is_file()}
    return found | shown_part(study) | told


def _told(study: Study) -> dict[str, Path]:
    """Return files of a teacher's folder that its manifest repeats; some teachers have them."""
    from mutineck.detection.hooks import STATES

    return {CHECK: study.folder / CHECK_FILE, "states": study.folder / STATES}


def compare(study: Study, split: str = CHOOSING) -> pd.DataFrame:
    """Return AP by category (rows, `all` first) of every teacher so far (columns), empty where one lacks a category.

    Where not every picture is labelled for every category, rows say how many are.
    """
    import pandas as pd

    columns = {}
    for name in [*(t.name for t in study.experiment.teachers), INTERMEDIATE]:
        path = study.path("teachers", name, "metrics.json")
        if path.is_file():
            rows = [r for r in read_json(path) if r["split"] == split and r["metric"] in ("bbox_mAP", "AP")]
            columns[name] = {r["category"] or "all": r["value"] for r in rows}
    data = study.dataset
    table = pd.DataFrame(columns).reindex(["all", *data.categories])
    if data.complete(split):
        return table
    counts, total = data.pictures_labelled(split), data.splits[split]["images"]
    return table.rename(index={name: f"{name} ({count} of {total} pictures)" for name, count in counts.items()})
