"""What of a study is done, what is stale and why, and what lies about that no study needs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mutineck.running.engine import SNAKEMAKE_CONFIG, SNAKEMAKE_LOG
from mutineck.running.workflow import running_of
from mutineck.study.checks import check_in, remark
from mutineck.study.experiment import Experiment
from mutineck.study.inputs import changed_inputs
from mutineck.study.jobs import ITEM_STAGES, Job, item_folders, items, jobs, needs
from mutineck.study.last_run import LAST_RUN
from mutineck.study.manifest import damage, read_manifest, revision
from mutineck.study.settings import changed_settings
from mutineck.study.stage import EXPERIMENT_FILE
from mutineck.system.processes import LOCK

_LEFTOVER = re.compile(r"^\..+\.[a-z0-9_]{8}(\.\w+)?$|\.(running|failed)\.ipynb$")
"""What a killed process leaves: temporary files of atomic writes, and notebooks that did not end."""
_KEPT = (EXPERIMENT_FILE, SNAKEMAKE_CONFIG, SNAKEMAKE_LOG, LAST_RUN, ".snakemake", "cache")
"""What lies in a study's folder beside its jobs' results and logs."""


class State(NamedTuple):
    """How a job stands: done, or the reasons why it has to be run; a note is for information only."""

    job: Job
    reasons: tuple[str, ...]
    finished: str = ""
    seconds: float | None = None
    note: str = ""

    @property
    def done(self) -> bool:
        """Whether its results are there and up to date."""
        return not self.reasons


def inspect(experiment: Experiment, root: Path, *, code: Mapping[str, Any] | None = None) -> list[State]:
    """Return how every job of an experiment stands, in the order of the workflow.

    Stale is what was made with other settings, from files outside the study that have changed since, or from what is
    stale itself. That such a file is missing is noted, and is no reason: see `mutineck.study.inputs.changed_inputs`.

    Args:
        experiment: as it should be; results of other settings are stale.
        root: its folder, `outputs/EXPERIMENT`.
        code: revision to compare with; that of the repository if None.
    """
    code = revision() if code is None else code
    states: dict[Job, State] = {}
    for job in jobs(experiment):
        stale = [needed for needed in needs(experiment, job) if not states[needed].done]
        states[job] = _state(experiment, root, job, stale, code)
    return list(states.values())


def _state(experiment: Experiment, root: Path, job: Job, stale: Sequence[Job], code: Mapping[str, Any]) -> State:
    damaged = damage(root, job)
    try:
        manifest = read_manifest(root, job)
    except ValueError:
        return State(job, (damaged,))
    if manifest is None:
        return State(job, (_why_missing(root, job),))
    reasons = [f"settings changed: {change}" for change in changed_settings(experiment, job, manifest)]
    changed, missing = changed_inputs(manifest)
    reasons += [f"input changed: {path}" for path in changed]
    reasons += [f"{path} is missing" for path in job.outputs if not (root / path).is_file()]
    reasons += [damaged] if damaged else []
    reasons += [f"{needed} has to be run first" for needed in stale]
    made = min((root / path).stat().st_mtime for path in job.outputs if (root / path).is_file())
    for needed in needs(experiment, job):
        if needed not in stale and (root / needed.manifest).stat().st_mtime > made:
            reasons.append(f"{needed} is newer")
    check = check_in(manifest) if job.stage == "teachers" else None
    said = remark(experiment, str(job.item), check) if check else ""
    notes = [_other_revision(manifest.get("revision") or {}, code), _missing_inputs(missing), said]
    return State(job, tuple(reasons), manifest["finished"], manifest["seconds"], "; ".join(filter(None, notes)))


def _why_missing(root: Path, job: Job) -> str:
    if (root / job.error).is_file():
        return "failed: " + (root / job.error).read_text(encoding="utf-8", errors="replace").split("\n")[0]
    if (root / running_of(job)).is_file():
        return "started, not finished"
    return "not run yet"


def _other_revision(made: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    if made.get("git") and now.get("git") and made["git"] != now["git"]:
        return f"made by revision {made['git'][:8]}"
    return "made by edited code" if made.get("dirty") else ""


def _missing_inputs(missing: Sequence[str]) -> str:
    more = f", and {len(missing) - 1} more" if missing[1:] else ""
    return f"input missing, not compared: {missing[0]}{more}" if missing else ""


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
