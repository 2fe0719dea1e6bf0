"""What of a study is done, what is stale and why, and what lies about that no study needs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from mutineck.running.snakemake_process import SNAKEMAKE_CONFIG, SNAKEMAKE_LOG
from mutineck.study.experiment import Experiment
from mutineck.study.jobs import ITEM_STAGES, Job, item_folders, items, jobs
from mutineck.study.last_run import LAST_RUN
from mutineck.study.manifest import read_manifest
from mutineck.study.stage import EXPERIMENT_FILE
from mutineck.study.staleness import State, inspect
from mutineck.system.processes import LOCK

_LEFTOVER = re.compile(r"^\..+\.[a-z0-9_]{8}(\.\w+)?$|\.(running|failed)\.ipynb$")
"""What a killed process leaves: temporary files of atomic writes, and notebooks that did not end."""
_KEPT = (EXPERIMENT_FILE, SNAKEMAKE_CONFIG, SNAKEMAKE_LOG, LAST_RUN, ".snakemake", "cache")
"""What lies in a study's folder beside its jobs' results and logs."""


def table(states: Sequence[State]) -> str:
    """Return the states as text in columns."""
    rows = [("job", "state", "seconds", "why")]
    for state in states:
        word = "done" if state.done else ("stale" if state.finished else "to do")
        why = [
            *state.reasons[:3],
            *(["..."] if len(state.reasons) > 3 else []),
            *([f"({state.note})"] if state.note else []),
        ]
        rows.append((str(state.job), word, "" if state.seconds is None else f"{state.seconds:.0f}", "; ".join(why)))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        f"{job:<{widths[0]}}  {word:<{widths[1]}}  {seconds:>{widths[2]}}  {why}".rstrip()
        for job, word, seconds, why in rows
    )


def _listed(root: Path, job: Job) -> set[Path]:
    """Return what a job's manifest says that it wrote: nothing, if there is none that can be read."""
    try:
        manifest = read_manifest(root, job)
    except ValueError:
        return set()
    return {root / path for path in (manifest or {"writes": ()})["writes"]}


def unlisted(experiment: Experiment, root: Path) -> list[Path]:
    """Return the files in a study's folder that no manifest lists and that are no bookkeeping, sorted."""
    known = {root / path for path in _KEPT}
    for job in jobs(experiment):
        own = (*job.outputs, f"{job.folder}/tensorboard", job.log, job.error, job.page)
        known |= {root / path for path in own} | _listed(root, job)
    files = (path for path in sorted(root.rglob("*")) if path.is_file() and path.name != LOCK)
    return [path for path in files if known.isdisjoint((path, *path.parents))]


def removable(experiment: Experiment, root: Path) -> list[tuple[Path, str]]:
    """Return what may go from a study's folder, each with the reason.

    That is: results that are stale, teachers and arms that the experiment no longer has, what killed processes
    left, and files that belong to no job. What an unfinished training has reached is not among it: it will go on
    from there.
    """
    found: dict[Path, str] = {}
    states = inspect(experiment, root)
    for state in states:
        if not state.done and state.finished:
            found[root / state.job.folder] = state.reasons[0]
    known = {root / state.job.folder for state in states}
    for stage in ITEM_STAGES:
        for folder in item_folders(root, stage):
            if folder not in known:
                found[folder] = "the experiment has no such " + ("teacher" if stage == "teachers" else "arm or seed")
    # What lay there when the stage finished counts as its own: without it, its results would be damaged.
    own = {parent for path in _listed(root, Job("features")) for parent in (path, *path.parents)}
    for folder in sorted((root / "features").glob("*/")):
        if folder.name not in items(experiment, "teachers") and folder.parent not in found and folder not in own:
            found[folder] = "the experiment has no such teacher"
    for path in sorted(root.rglob("*")):
        inside = any(folder in path.parents for folder in found)
        if not inside and ".snakemake" not in path.parts and path.is_file() and _LEFTOVER.search(path.name):
            found[path] = "left by a process that did not end well"
    for path in unlisted(experiment, root):
        # Within a job's folder, a manifest of an earlier revision lists less than there is.
        if known.isdisjoint(path.parents) and not any(each in found for each in (path, *path.parents)):
            found[path] = "it belongs to no job of the experiment"
    return list(found.items())
