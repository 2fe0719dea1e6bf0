"""Run a study: Snakemake decides what has to be done; this starts it, shows its progress and ends it."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import yaml

from mutineck.experiment import STAGES, Experiment, ExperimentError, unknown
from mutineck.experiment_file import repository
from mutineck.processes import STOPPING, end_with_parent, exclusive, on_signals
from mutineck.remedies import remedy
from mutineck.stage import damage
from mutineck.storage import write_json, write_text
from mutineck.workflow import EXPERIMENT_FILE, Job, error_of, jobs, running_of, thread_environment, visible_gpus

GRACE = 4.0
"""Seconds that jobs get to end after SIGTERM, before SIGKILL: all is to be over within ten, on a busy machine too."""
SNAKEMAKE_LOG = "log/snakemake.log"
LAST_RUN = "log/last_run.json"
"""What the last run was given that the experiment's file does not say."""


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
    profile: str | None = None,
    overrides: Sequence[str] = (),
    notebooks: Path | None = None,
    again: str = "mutineck run",
) -> Path:
    """Bring a study up to date: do every job whose results are missing or stale, several at once.

    Args:
        experiment: what to run.
        outputs: folder that holds the study's folder.
        until: last stage; all of them if None.
        cores: CPU cores to use; all there are if None.
        dry_run: only say what would be done and why.
        force: stages to do again though they are up to date.
        profile: Snakemake profile, e.g. for a cluster.
        overrides: what was set beside the experiment's file; noted for `mutineck status`.
        notebooks: folder of the notebooks; the repository's if None.
        again: command that goes on, for messages.

    Returns:
        The study's folder.

    Raises:
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
    config: dict[str, Any] = {"cwd": str(Path.cwd()), "gpus": len(gpus)}
    if notebooks is not None:
        config["notebooks"] = str(notebooks.resolve())
    with exclusive(root, again) as lock, tempfile.TemporaryDirectory(prefix="mutineck-") as temporary:
        # What would be done is asked about an experiment that is not the folder's yet.
        config["experiment"] = str(write_experiment(experiment, Path(temporary) if dry_run else root))
        for job in wanted:
            if damaged := damage(root, *job):
                print(f"{job}: {damaged}; it is run again", flush=True)
                if not dry_run:
                    (root / job.manifest).unlink()
        if not dry_run:
            for job in wanted:
                if job.stage in force:
                    # All at once, so that a run that is stopped or killed goes on with those it had not come to.
                    (root / job.manifest).unlink(missing_ok=True)
            write_json(root / LAST_RUN, {"overrides": list(overrides)})
        config_file = write_json(Path(temporary) / "workflow.json", config)
        cores = cores or len(os.sched_getaffinity(0))
        command = snakemake_arguments(root, config_file, wanted, cores, len(gpus), dry_run, force, profile)
        log = Path(temporary) / "snakemake.log" if dry_run else root / SNAKEMAKE_LOG
        started = time.time()
        with _engine(command, experiment, log, lock) as process:
            number = _wait(process)
        if process.returncode and number is None:
            raise StudyFailed(_explain_failure(root, wanted, log, started, process.returncode))
    if number is not None:
        raise Interrupted(
            f"stopped by {signal.Signals(number).name}; what was finished stays. Go on with: {again}", number
        )
    return root


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
    cores: int,
    gpus: int,
    dry_run: bool,
    force: Sequence[str],
    profile: str | None,
) -> list[str]:
    """Return Snakemake's command line for a set of jobs."""
    arguments = ["--snakefile", str(repository() / "Snakefile"), "--directory", str(root)]
    arguments += ["--configfile", str(config_file), "--cores", str(cores), "--resources", f"gpu={gpus}"]
    # A new clone or a new Python is no reason to train again; inputs and settings are.
    arguments += ["--rerun-triggers", "mtime", "params", "input"]
    # The study's own lock goes away with a killed run, Snakemake's would not.
    arguments += ["--nolock", "--rerun-incomplete", "--keep-going"]
    if dry_run:
        arguments += ["--dry-run"]
    if profile:
        arguments += ["--profile", profile]
    if force and dry_run:
        arguments += ["--forcerun", *force]
    return [*arguments, "--", *(path for job in wanted for path in job.outputs)]


@contextlib.contextmanager
def _engine(command: list[str], experiment: Experiment, log: Path, lock: int) -> Iterator[subprocess.Popen[bytes]]:
    """Start Snakemake in a process group of its own, whose members all end with the block."""
    environment = os.environ | thread_environment(experiment) | {"PYTHONUNBUFFERED": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(repository()), environment.get("PYTHONPATH")]))
    log.parent.mkdir(exist_ok=True)
    with open(log, "wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "mutineck.engine", *command],
            env=environment,
            stderr=file,
            start_new_session=True,
            pass_fds=[lock],
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            _end_group(process)


def _wait(process: subprocess.Popen[bytes]) -> int | None:
    """Wait for the engine; on a signal end it and return the signal's number."""
    received: list[int] = []
    previous = {number: signal.getsignal(number) for number in STOPPING}
    on_signals(received.append)
    try:
        while process.poll() is None:
            if received:
                print("stopping ...", flush=True)
                _end_group(process)
                return received[0]
            time.sleep(0.05)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return None


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End the engine and its jobs: politely, and after a few seconds for certain."""
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
        path, notebook = root / error_of(job), root / running_of(job)
        if (root / job.manifest).is_file():
            continue
        if path.is_file():
            # On a full disk a job may get as far as opening this file.
            text = path.read_text(encoding="utf-8").strip() or f"it could not even write {path}"
            failed.append(f"{job} stopped: {text}")
        elif notebook.is_file() and notebook.stat().st_mtime >= started - 1:
            failed.append(
                f"{job} was killed, most often for want of memory. {remedy('out of memory', root)}\n"
                f"The notebook as far as it came: {notebook}"
            )
    how = f"was killed by {signal.Signals(-status).name}" if status < 0 else "failed"
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    text = "\n\n".join(failed) or "\n".join([f"the workflow {how}; {log} ends with", *lines[-20:]])
    advice = remedy("" if failed else text, root)
    return text if advice in text else f"{text}\n\n{advice}"


class ProgressHandler(logging.Handler):
    """Turns Snakemake's events into lines such as `[5/14] distillation fgd-mean/seed0 ...`."""

    def __init__(self, screen: TextIO, *, dry_run: bool) -> None:
        super().__init__(logging.INFO)
        self.screen = screen
        self.dry_run = dry_run
        self.total = 0
        self.started = 0
        self._running: dict[int, tuple[str, float]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Print what a record means to somebody who waits."""
        event: Any = getattr(record, "event", None)
        details = record.__dict__
        if event == "run_info":
            self.total = int(details["stats"].get("total", 0))
        elif event == "job_info":
            self.started += 1
            label = details["rule_msg"] or details["rule_name"]
            self._running[details["jobid"]] = (label, time.monotonic())
            reason = f": {_plain(details['reason'])}" if self.dry_run else " ..."
            self._say(f"[{self.started}/{self.total}] {label}{reason}")
        elif event == "job_finished" and not self.dry_run:
            label, begun = self._running.pop(details["job_id"], ("", 0.0))
            self._say(f"  {label} done in {_duration(time.monotonic() - begun)}")
        elif event is None and "Nothing to be done" in record.getMessage():
            self._say("up to date: there is nothing to do")

    def _say(self, text: str) -> None:
        print(text, file=self.screen, flush=True)


def _plain(reason: str) -> str:
    """Return Snakemake's reason for a job in one short line."""
    parts = []
    for part in " ".join(reason.split()).split("; "):
        # Snakemake quotes all settings, before and now.
        changed = part.startswith("Params have changed")
        parts.append("settings changed (mutineck status says which)" if changed else part)
    return textwrap.shorten("; ".join(parts), 200, placeholder=" ...")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def main(arguments: list[str]) -> None:
    """Run Snakemake on a command line, with progress on standard output; ends when its parent does."""
    end_with_parent()
    logging.getLogger("snakemake").addHandler(ProgressHandler(sys.stdout, dry_run="--dry-run" in arguments))
    # Snakemake writes dry runs to standard output; here that is for progress, and the log has the rest.
    sys.stdout = sys.stderr
    from snakemake.cli import main as snakemake

    snakemake(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
