"""Run a study: Snakemake decides what has to be done; this starts it, shows its progress and ends it."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from mutineck.running.profiles import LOCAL, Profile, find_profile
from mutineck.running.progress import SETTINGS, ProgressHandler
from mutineck.running.workflow import thread_environment, visible_gpus
from mutineck.study.checks import refusal
from mutineck.study.experiment import STAGES, Experiment
from mutineck.study.experiment_file import repository
from mutineck.study.jobs import Job, jobs, needs
from mutineck.study.last_run import note_last_run
from mutineck.study.manifest import damage, read_manifest
from mutineck.study.stage import EXPERIMENT_FILE
from mutineck.study.staleness import outdated
from mutineck.system.errors import ExperimentError, unknown
from mutineck.system.files import read_json, write_json, write_text
from mutineck.system.processes import STOPPING, end_with_parent, exclusive, on_signals
from mutineck.system.remedies import remedy

GRACE = 4.0
"""Seconds that jobs get to end after SIGTERM, before SIGKILL: all is to be over within ten, on a busy machine too."""
CANCEL = 60.0
"""Seconds that a cluster gets to take back its jobs."""
SNAKEMAKE_LOG = "log/snakemake.log"
SNAKEMAKE_CONFIG = "log/snakemake.json"


class StudyFailed(RuntimeError):
    """Some jobs of a run failed; the message holds each one's error."""


class Interrupted(RuntimeError):
    """A run was ended by a signal; the message says how to go on."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


def run(
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
    for stage in force:
        if stage not in STAGES:
            raise ExperimentError(unknown("stage", stage, STAGES))
    wanted = jobs(experiment, until)
    root = (outputs / experiment.name).resolve()
    if set("{}") & set(str(root)):
        raise ExperimentError(f"{root}: Snakemake reads braces in a path as wildcards; name another folder (--outputs)")
    gpus = [] if experiment.resources.device == "cpu" else visible_gpus()
    where = find_profile(profile)
    if not dry_run:
        where.check(gpus)
    elif where.missing:
        print(f"for a run that is not dry: {where.advice}", flush=True)
    config: dict[str, Any] = {"cwd": str(Path.cwd()), "gpus": len(gpus)}
    if notebooks is not None:
        config["notebooks"] = str(notebooks.resolve())
    with exclusive(root, again) as lock, tempfile.TemporaryDirectory(prefix="mutineck-") as temporary:
        # What would be done is asked about an experiment that is not the folder's yet.
        config["experiment"] = str(write_experiment(experiment, Path(temporary) if dry_run else root))
        again_for = _stale_by_themselves(experiment, root, wanted, force, dry_run)
        config["again_for"] = {str(job): why for job, why in again_for.items()}
        if not dry_run:
            note_last_run(root, overrides)
        made_again = {*again_for, *(job for job in wanted if job.stage in force)}
        if refused := _refusals(experiment, root, wanted, made_again):
            if not dry_run:
                raise StudyFailed("\n\n".join(refused))
            print("\n".join(refused), flush=True)
        # In the study's folder: a cluster's nodes read it, too.
        config_file = write_json((Path(temporary) if dry_run else root) / SNAKEMAKE_CONFIG, config)
        places = len(gpus) * experiment.resources.jobs_per_gpu
        command = snakemake_arguments(root, config_file, wanted, cores, places, dry_run, force, where, again_for)
        log = Path(temporary) / "snakemake.log" if dry_run else root / SNAKEMAKE_LOG
        patience = CANCEL if where.remote else 0.0
        started = time.time()
        with _engine(command, experiment, log, lock, patience) as process:
            number = _wait(process, patience)
        if process.returncode and number is None:
            raise StudyFailed(_explain_failure(root, wanted, log, started, process.returncode))
    if number is not None:
        raise Interrupted(
            f"stopped by {signal.Signals(number).name}; what was finished stays. Go on with: {again}", number
        )
    return root


def _stale_by_themselves(
    experiment: Experiment, root: Path, wanted: Sequence[Job], force: Sequence[str], dry_run: bool
) -> dict[Job, str]:
    """Return which finished jobs Snakemake has to be told to run again, and why; print that.

    Snakemake knows the settings of what it ran itself in this folder; manifests also tell those of a copied one, what
    is damaged, and what was read outside the folder. Unless the run is dry, manifests of jobs that are damaged or
    forced are removed.
    """
    again_for: dict[Job, str] = {}
    for job in wanted:
        damaged = damage(root, job)
        if not dry_run and (damaged or job.stage in force):
            if damaged:
                print(f"{job}: {damaged}; it is run again", flush=True)
            # All at once, so that a run that is stopped or killed goes on with those it had not come to.
            (root / job.manifest).unlink(missing_ok=True)
        elif damaged:
            again_for[job] = damaged
        elif job.stage not in force and (manifest := read_manifest(root, job)) is not None:
            found = outdated(experiment, job, manifest)
            if found.settings:
                again_for[job] = SETTINGS
            elif found.reasons:
                again_for[job] = found.reasons[0]
                if not dry_run:
                    print(f"{job}: {again_for[job]}; it is run again", flush=True)
    return again_for


def _refusals(experiment: Experiment, root: Path, wanted: Sequence[Job], again: Collection[Job]) -> list[str]:
    """Return why finished jobs are not gone on with, by the checks as they are now.

    What is made again, or from what is made again, is checked then.
    """
    pending: set[Job] = set()
    found = []
    for job in wanted:
        manifest = read_manifest(root, job) if job not in again else None
        if manifest is None or not pending.isdisjoint(needs(experiment, job)):
            pending.add(job)
        elif why := refusal(experiment, job, manifest):
            found.append(f"{job} stopped: {why}")
    return found


def write_experiment(experiment: Experiment, root: Path) -> Path:
    """Write the experiment with every field resolved to `experiment.yaml`, if that changes the file."""
    path = root / EXPERIMENT_FILE
    text = "# Written by `mutineck run`: the experiment with every field and every --set resolved.\n" + yaml.safe_dump(
        experiment.model_dump(mode="json", by_alias=True), sort_keys=False, allow_unicode=True
    )
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)
    return path


def snakemake_arguments(
    root: Path,
    config_file: Path,
    wanted: Sequence[Job],
    cores: int | None,
    gpus: int,
    dry_run: bool,
    force: Sequence[str],
    profile: Profile,
    again_for: Collection[Job] = (),
) -> list[str]:
    """Return Snakemake's command line for a set of jobs, those of `again_for` to be run though they are there."""
    arguments = ["--snakefile", str(repository() / "Snakefile"), "--directory", str(root)]
    arguments += ["--configfile", str(config_file), "--profile", str(profile.file)]
    # What stands on the command line wins over the profile.
    if profile.remote and dry_run:
        # Snakemake takes a dry run for one of a single core here, and shows no job with more.
        arguments += ["--cores", str(cores or sys.maxsize)]
        arguments += ["--executor", LOCAL] if profile.missing else []  # the jobs, and what they ask for, are the same
    elif cores or not {"cores", "jobs"} & set(profile.options):
        arguments += ["--cores", str(cores or len(os.sched_getaffinity(0)))]
    if not profile.remote:
        arguments += ["--resources", f"gpu={gpus}"]
    # A new clone or a new Python is no reason to train again; inputs and settings are.
    arguments += ["--rerun-triggers", "mtime", "params", "input"]
    # The study's own lock goes away with a killed run, Snakemake's would not.
    arguments += ["--nolock", "--rerun-incomplete", "--keep-going"]
    if dry_run:
        arguments += ["--dry-run"]
    if again := [*(force if dry_run else ()), *(path for job in again_for for path in job.outputs)]:
        arguments += ["--forcerun", *again]
    return [*arguments, "--", *(path for job in wanted for path in job.outputs)]


@contextlib.contextmanager
def _engine(
    command: list[str], experiment: Experiment, log: Path, lock: int, patience: float
) -> Iterator[subprocess.Popen[bytes]]:
    """Start Snakemake in a process group of its own, whose members all end with the block."""
    environment = os.environ | thread_environment(experiment) | {"PYTHONUNBUFFERED": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(repository()), environment.get("PYTHONPATH")]))
    log.parent.mkdir(exist_ok=True)
    with open(log, "wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "mutineck.running.engine", *command],
            env=environment,
            stderr=file,
            start_new_session=True,
            pass_fds=[lock],
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            _end_group(process, patience)


def _wait(process: subprocess.Popen[bytes], patience: float) -> int | None:
    """Wait for the engine; on a signal end it and return the signal's number."""
    received: list[int] = []
    previous = {number: signal.getsignal(number) for number in STOPPING}
    on_signals(received.append)
    try:
        while process.poll() is None:
            if received:
                print("stopping ...", flush=True)
                _end_group(process, patience)
                return received[0]
            time.sleep(0.05)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return None


def _end_group(process: subprocess.Popen[bytes], patience: float) -> None:
    """End the engine and its jobs: politely, and after a few seconds for certain.

    Where jobs run on a cluster, the engine gets ``patience`` seconds first, to take them back.
    """
    if patience:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
    for number, patience in ((signal.SIGTERM, GRACE), (signal.SIGKILL, GRACE)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            process.poll()
            try:
                os.killpg(process.pid, 0)
            except ProcessLookupError:
                return
            time.sleep(0.05)


def _explain_failure(root: Path, wanted: Sequence[Job], log: Path, started: float, status: int) -> str:
    """Return the errors of the jobs that stopped or were killed since ``started``, or Snakemake's own."""
    failed = []
    for job in wanted:
        path, notebook = root / job.error, root / job.running
        if (root / job.manifest).is_file():
            continue
        if _written_since(path, started):
            # On a full disk a job may get as far as opening this file.
            text = path.read_text(encoding="utf-8").strip() or f"it could not even write {path}"
            failed.append(f"{job} stopped: {text}")
        elif _written_since(notebook, started):
            failed.append(
                f"{job} was killed, most often for want of memory. {remedy('out of memory', root)}\n"
                f"The notebook as far as it came: {notebook}"
            )
    how = f"was killed by {signal.Signals(-status).name}" if status < 0 else "failed"
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    text = "\n\n".join(failed) or "\n".join([f"the workflow {how}; {log} ends with", *lines[-20:]])
    advice = remedy("" if failed else text, root)
    return text if advice in text else f"{text}\n\n{advice}"


def _written_since(path: Path, started: float) -> bool:
    """Return whether a file is there and not left by an earlier run; a file system may count in whole seconds."""
    return path.is_file() and path.stat().st_mtime >= started - 1


def _interrupt(_number: int) -> None:
    """Let Snakemake take back the jobs that a cluster has, and end."""
    os.kill(os.getpid(), signal.SIGINT)


def main(arguments: list[str]) -> None:
    """Run Snakemake on a command line, with progress on standard output; ends when its parent does."""
    remote = find_profile(arguments[arguments.index("--profile") + 1]).remote
    if remote:
        end_with_parent(ending=_interrupt)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # Snakemake's own way of cancelling
    else:
        end_with_parent()
    dry_run = "--dry-run" in arguments  # which alone says why
    again_for = read_json(Path(arguments[arguments.index("--configfile") + 1]))["again_for"] if dry_run else {}
    handler = ProgressHandler(sys.stdout, dry_run=dry_run, asking=remote, again_for=again_for)
    logging.getLogger("snakemake").addHandler(handler)
    # Snakemake writes dry runs to standard output; here that is for progress, and the log has the rest.
    sys.stdout = sys.stderr
    from snakemake.cli import main as snakemake

    snakemake(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
