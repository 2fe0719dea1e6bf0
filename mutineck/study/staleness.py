"""Why a job has to be run, or run again: the one opinion of runs, status, tables and searches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mutineck.study.checks import check_in, remark
from mutineck.study.dataset import DATA, DATASET_FILE, Dataset
from mutineck.study.experiment import Experiment
from mutineck.study.experiment_file import places
from mutineck.study.inputs import changed_inputs
from mutineck.study.jobs import Job, jobs, needs
from mutineck.study.manifest import damage, read_manifest, revision
from mutineck.study.settings import changed_settings

DATASET = Job("dataset")
KEPT_IF_SAME = "stays, if the data set comes out with the same content"


class Outdated(NamedTuple):
    """What a finished job was made from that is different now.

    Attributes:
        settings: each as `path: before -> now`.
        inputs: files outside the study's folder that have changed.
        missing: those that are not there any more: they are reported, and do not make a job stale.
        data: that the study's data set has another content now, or ''.
    """

    settings: list[str]
    inputs: list[str]
    missing: list[str]
    data: str

    @property
    def reasons(self) -> list[str]:
        """Why the job is stale; empty if it is not."""
        changes = [f"settings changed: {change}" for change in self.settings]
        return [*changes, *(f"input changed: {path}" for path in self.inputs), *filter(None, [self.data])]


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


def outdated(experiment: Experiment, root: Path, job: Job, manifest: Mapping[str, Any]) -> Outdated:
    """Compare a finished job with the experiment, the study's data set and the files outside as they are now."""
    changed, missing = changed_inputs(manifest)
    settings = changed_settings(experiment, job, manifest)
    data = moved_data(experiment, root) if job == DATASET else changed_data(root, manifest)
    return Outdated(settings, changed, missing, data)


def moved_data(experiment: Experiment, root: Path) -> str:
    """Return where the pictures are now that the data set's own file looks for elsewhere, '' if it finds them.

    So it is where `dataset.root` is a relative path, and leads somewhere else than it did.
    """
    named = experiment.dataset.root
    if named is None or not (root / "dataset" / DATASET_FILE).is_file() or Dataset.read(root).pictures.is_dir():
        return ""
    here = next((path for path in places(named, experiment.relative_to) if path.is_dir()), None)
    return f"its pictures are in {here} now" if here else ""


def changed_data(root: Path, manifest: Mapping[str, Any]) -> str:
    """Return that a finished job is of other data than the study has now, '' if it is not or either is not known.

    Content counts, not where the pictures lie nor when the data set was made. Where it is not known, times decide.
    """
    try:
        made = read_manifest(root, DATASET) or {}
    except ValueError:  # it is made again, and compared then
        return ""
    then, now = manifest.get(DATA), made.get(DATA)
    if not then or not now or then == now:
        return ""
    differing = [split for split in sorted({*then, *now}) if then.get(split) != now.get(split)]
    return f"the data set has changed: {', '.join(differing)}"


def inspect(experiment: Experiment, root: Path, *, code: Mapping[str, Any] | None = None) -> list[State]:
    """Return how every job of an experiment stands, in the order of the workflow.

    Stale is what was made with other settings, from files outside the study that have changed since, or from what is
    stale itself. That such a file is missing is noted, and is no reason: see `mutineck.study.inputs.changed_inputs`.
    A data set that has to be made again is no reason either, where it is known what a job was made from: whether its
    content has changed is compared then.

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


def why_not_counted(experiment: Experiment, root: Path, job: Job) -> str:
    """Return why tables leave a job's results out, '' if they do not: a manifest of other settings, or none.

    That other jobs or files outside have changed since is no reason: the results are those of these settings still.
    """
    try:
        manifest = read_manifest(root, job)
    except ValueError as error:
        return f"its manifest cannot be read: {error}"
    if manifest is None:
        return "it has no manifest, so it is not finished or is made anew"
    changed = changed_settings(experiment, job, manifest)
    return f"it was made with other settings: {changed[0]}" if changed else ""


def _state(experiment: Experiment, root: Path, job: Job, stale: Sequence[Job], code: Mapping[str, Any]) -> State:
    damaged = damage(root, job)
    try:
        manifest = read_manifest(root, job)
    except ValueError:
        return State(job, (damaged,))
    if manifest is None:
        return State(job, (_why_missing(root, job),))
    found = outdated(experiment, root, job, manifest)
    compared = [DATASET] if manifest.get(DATA) else []
    pending = KEPT_IF_SAME if {*compared} & {*stale} else ""
    stale = [needed for needed in stale if needed not in compared]
    reasons = [*found.reasons, *(f"{path} is missing" for path in job.outputs if not (root / path).is_file())]
    reasons += [damaged] if damaged else []
    reasons += [f"{needed} has to be run first" for needed in stale]
    made = min((root / path).stat().st_mtime for path in job.outputs if (root / path).is_file())
    for needed in needs(experiment, job):
        if needed not in (*stale, *compared) and (root / needed.manifest).stat().st_mtime > made:
            reasons.append(f"{needed} is newer")
    check = check_in(manifest) if job.stage == "teachers" else None
    remarked = remark(experiment, str(job.item), check) if check else ""
    notes = [_other_revision(manifest.get("revision") or {}, code), _missing_inputs(found.missing), remarked, pending]
    return State(job, tuple(reasons), manifest["finished"], manifest["seconds"], "; ".join(filter(None, notes)))


def _why_missing(root: Path, job: Job) -> str:
    if (root / job.error).is_file():
        return "failed: " + (root / job.error).read_text(encoding="utf-8", errors="replace").split("\n")[0]
    return "started, not finished" if (root / job.running).is_file() else "not run yet"


def _other_revision(made: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    if made.get("git") and now.get("git") and made["git"] != now["git"]:
        return f"made by revision {made['git'][:8]}"
    return "made by edited code" if made.get("dirty") else ""


def _missing_inputs(missing: Sequence[str]) -> str:
    more = f", and {len(missing) - 1} more" if missing[1:] else ""
    return f"input missing, not compared: {missing[0]}{more}" if missing else ""
