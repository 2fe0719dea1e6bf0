"""One run of a study: what is missing or stale is found, Snakemake does it, and a failure is explained."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mutineck.running.job_run import thread_environment, visible_gpus
from mutineck.running.profiles import LOCAL, Profile, find_profile
from mutineck.running.progress import SETTINGS
from mutineck.running.snakemake_process import (
    CANCEL,
    SNAKEMAKE_CONFIG,
    SNAKEMAKE_LOG,
    run_snakemake,
    snakemake_arguments,
)
from mutineck.study.checks import refusal
from mutineck.study.dataset import DATA
from mutineck.study.experiment import STAGES, Experiment
from mutineck.study.jobs import Job, jobs, needs
from mutineck.study.last_run import note_last_run
from mutineck.study.manifest import damage, read_manifest
from mutineck.study.stage import write_experiment
from mutineck.study.staleness import DATASET, outdated
from mutineck.system.errors import ExperimentError, unknown
from mutineck.system.files import write_json
from mutineck.system.processes import exclusive
from mutineck.system.remedies import remedy


class StudyFailed(RuntimeError):
    """Some jobs of a run failed; the message holds each one's error."""


class Interrupted(RuntimeError):
    """A run was ended by a signal; the message says how to go on."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


def run_study(
    experiment: Experiment,
    outputs: Path,
    *,
    until: str | None = None,
    cores: int | None = None,
    dry_run: bool = False,
    force: Sequence[str] = (),
    profile: str = LOCAL,
    overrides: Sequence[str] = (),
    notebooks: Path | None = None,
    again: str = "mutineck run",
) -> Path:
    """Bring a study up to date: do every job whose results are missing or stale, several at once.

    Args:
        experiment: what to run.
        outputs: folder that holds the study's folder.
        until: last stage; all of them if None.
        cores: CPU cores to use; what the profile says, or all there are, if None.
        dry_run: only say what would be done and why.
        force: stages to do again though they are up to date.
        profile: where jobs run: `local`, `gpus`, `slurm`, or a user's Snakemake profile by its folder.
        overrides: what was set beside the experiment's file; noted for `mutineck status`.
        notebooks: folder of the notebooks; the repository's if None.
        again: command that goes on, for messages.

    Returns:
        The study's folder.

    Raises:
        ExperimentError: no such stage or profile; or what the profile runs jobs with, or on, is not here.
        BusyError: another run works on the same study.
        StudyFailed: a job failed; those that do not need it have been finished.
        Interrupted: SIGINT, SIGTERM or SIGHUP came.
    """
    run = StudyRun(experiment, (outputs / experiment.name).resolve(), jobs(experiment, until), tuple(force), dry_run)
    gpus = [] if experiment.resources.device == "cpu" else visible_gpus()
    where = _usable_profile(profile, gpus, dry_run)
    with exclusive(run.root, again) as lock, tempfile.TemporaryDirectory(prefix="mutineck-") as temporary:
        # A dry run is for an experiment that is not the folder's yet, and writes nothing there.
        notes = Path(temporary) if dry_run else run.root
        config = {"cwd": str(Path.cwd()), "gpus": len(gpus), "experiment": str(write_experiment(experiment, notes))}
        config |= {"notebooks": str(notebooks.resolve())} if notebooks is not None else {}
        places = len(gpus) * experiment.resources.jobs_per_gpu

        def do(part: StudyRun, again_for: Mapping[Job, str]) -> None:
            # In the study's folder: a cluster's nodes read it, too.
            named = {str(job): why for job, why in again_for.items()}
            file = write_json(notes / SNAKEMAKE_CONFIG, config | {"again_for": named})
            arguments = snakemake_arguments(
                part.root, file, part.wanted, cores, places, dry_run, force, where, again_for
            )
            part.finish(arguments, notes / SNAKEMAKE_LOG, lock, CANCEL if where.remote else 0.0, again)

        run.bring_up_to_date(do, overrides)
    return run.root


def _usable_profile(name: str, gpus: Sequence[str], dry_run: bool) -> Profile:
    """Return a profile that jobs can run as; a dry run only prints what a real one would lack."""
    profile = find_profile(name)
    if not dry_run:
        profile.check(gpus)
    elif profile.missing:
        print(f"a real run needs this first: {profile.advice}", flush=True)
    return profile


@dataclass(frozen=True)
class StudyRun:
    """A run of a study: which jobs it is to see finished, and how it judges those that are.

    Attributes:
        experiment: the experiment.
        root: the study's folder.
        wanted: the jobs, in the order of their stages.
        force: stages to do again though they are up to date.
        dry_run: nothing is done or written in the study's folder.

    Raises:
        ExperimentError: a stage to force that does not exist, or a folder that Snakemake cannot name.
    """

    experiment: Experiment
    root: Path
    wanted: Sequence[Job]
    force: tuple[str, ...] = ()
    dry_run: bool = False

    def __post_init__(self) -> None:
        for stage in self.force:
            if stage not in STAGES:
                raise ExperimentError(unknown("stage", stage, STAGES))
        if set("{}") & set(str(self.root)):
            raise ExperimentError(
                f"{self.root}: Snakemake reads braces in a path as wildcards; name another folder (--outputs)"
            )

    def bring_up_to_date(self, do: Callable[[StudyRun, Mapping[Job, str]], None], overrides: Sequence[str]) -> None:
        """Find what is stale and have it done, the data set first where its content decides what else is.

        Args:
            do: runs the jobs of a run; given that, and why each finished one is to be run again.
            overrides: what was set beside the experiment's file.
        """
        run, again_for = self, self.stale_by_themselves()
        if not self.dry_run:
            note_last_run(self.root, overrides)
        if self.data_first(again_for):
            if self.dry_run:
                print("what comes after the data set stays, if that comes out with the same content", flush=True)
            else:
                do(replace(self, wanted=[DATASET]), {job: why for job, why in again_for.items() if job == DATASET})
                run = replace(self, force=())  # what was forced has lost its manifest
                again_for = run.stale_by_themselves(said=again_for)
        if not self.dry_run:
            run.date_back()
        run.check_results(again_for)
        do(run, again_for)

    def stale_by_themselves(self, said: Collection[Job] = ()) -> dict[Job, str]:
        """Return which finished jobs Snakemake has to be told to run again, and why; print that but of those `said`.

        Snakemake knows the settings of what it ran itself in this folder; manifests also tell those of a copied one,
        what is damaged, and what was read outside the folder. Unless the run is dry, manifests of jobs that are damaged
        or forced are removed.
        """
        again_for: dict[Job, str] = {}
        for job in self.wanted:
            damaged = damage(self.root, job)
            if not self.dry_run and (damaged or job.stage in self.force):
                if damaged:
                    print(f"{job}: {damaged}; it is run again", flush=True)
                # All at once, so that a run that is stopped or killed goes on with those it had not come to.
                (self.root / job.manifest).unlink(missing_ok=True)
            elif damaged:
                again_for[job] = damaged
            elif job.stage not in self.force and (manifest := read_manifest(self.root, job)) is not None:
                found = outdated(self.experiment, self.root, job, manifest)
                if found.settings:
                    again_for[job] = SETTINGS
                elif found.reasons:
                    again_for[job] = found.reasons[0]
                    if not self.dry_run and job not in said:
                        print(f"{job}: {again_for[job]}; it is run again", flush=True)
        return again_for

    def data_first(self, again_for: Collection[Job]) -> bool:
        """Whether the data set is to be made before it can be said what else has to be: some of that may stay."""
        again = {*again_for, *(job for job in self.wanted if job.stage in self.force)}
        if DATASET not in again and all((self.root / path).is_file() for path in DATASET.outputs):
            return False
        later = (job for job in self.wanted if job not in again and job != DATASET)
        return any((read_manifest(self.root, job) or {}).get(DATA) for job in later)

    def date_back(self) -> None:
        """Make the data set's manifest no newer than what is of the same content, which Snakemake would run again.

        What is of other content is stale by itself. Of jobs of an earlier revision it is not known: then times decide.
        """
        path = self.root / DATASET.manifest
        finished = {job: found for job in self.wanted if job != DATASET and (found := read_manifest(self.root, job))}
        if not path.is_file() or not finished or not all(found.get(DATA) for found in finished.values()):
            return
        files = (self.root / name for job in finished for name in job.outputs)
        oldest = min(file.stat().st_mtime for file in files if file.is_file())
        if path.stat().st_mtime > oldest:
            os.utime(path, (oldest - 1, oldest - 1))

    def check_results(self, again_for: Collection[Job]) -> None:
        """Hold finished jobs to the checks as they are now; what is made again, or from it, is checked then.

        Raises:
            StudyFailed: some are refused, and the run is not dry; a dry one prints why.
        """
        pending: set[Job] = set()
        refused = []
        for job in self.wanted:
            again = job in again_for or job.stage in self.force
            manifest = None if again else read_manifest(self.root, job)
            if manifest is None or not pending.isdisjoint(needs(self.experiment, job)):
                pending.add(job)
            elif why := refusal(self.experiment, job, manifest):
                refused.append(f"{job} stopped: {why}")
        if refused and not self.dry_run:
            raise StudyFailed("\n\n".join(refused))
        if refused:
            print("\n".join(refused), flush=True)

    def finish(self, arguments: Sequence[str], log: Path, lock: int, patience: float, again: str) -> None:
        """Let Snakemake do the jobs.

        Args:
            arguments: Snakemake's command line.
            log: file for what it prints.
            lock: open file that holds the study's lock.
            patience: seconds that a cluster gets to take back its jobs, where the run is ended.
            again: command that goes on, for messages.

        Raises:
            StudyFailed: a job failed, or Snakemake did.
            Interrupted: a signal ended it.
        """
        started = time.time()
        status, number = run_snakemake(arguments, thread_environment(self.experiment), log, lock, patience)
        if number is not None:
            raise Interrupted(
                f"stopped by {signal.Signals(number).name}; what was finished stays. Go on with: {again}", number
            )
        if status:
            raise StudyFailed(self.explain_failure(log, started, status))

    def explain_failure(self, log: Path, started: float, status: int) -> str:
        """Return the errors of the jobs that stopped or were killed since a time, or Snakemake's own.

        Args:
            log: what Snakemake printed.
            started: the time, in seconds since the epoch.
            status: Snakemake's exit status; negative if a signal killed it.
        """
        failed = []
        for job in self.wanted:
            path, notebook = self.root / job.error, self.root / job.running
            if (self.root / job.manifest).is_file():
                continue
            if _written_since(path, started):
                # On a full disk a job may get as far as opening this file.
                text = path.read_text(encoding="utf-8").strip() or f"it could not even write {path}"
                failed.append(f"{job} stopped: {text}")
            elif _written_since(notebook, started):
                failed.append(
                    f"{job} was killed, most often for want of memory. {remedy('out of memory', self.root)}\n"
                    f"The notebook as far as it came: {notebook}"
                )
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else "failed"
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        text = "\n\n".join(failed) or "\n".join([f"the workflow {how}; {log} ends with", *lines[-20:]])
        advice = remedy("" if failed else text, self.root)
        return text if advice in text else f"{text}\n\n{advice}"


def _written_since(path: Path, started: float) -> bool:
    """Return whether a file is there and not left by an earlier run; a file system may count in whole seconds."""
    return path.is_file() and path.stat().st_mtime >= started - 1
