"""Snakemake as a process: its command line, how it is started and ended, and what it runs on in that process."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from mutineck.running.profiles import LOCAL, Profile, find_profile
from mutineck.running.progress import ProgressHandler
from mutineck.study.experiment_file import repository
from mutineck.study.jobs import Job
from mutineck.system.files import read_json
from mutineck.system.processes import STOPPING, end_with_parent, on_signals

GRACE = 4.0
"""Seconds that jobs get to end after SIGTERM, before SIGKILL: all is to be over within ten, on a busy machine too."""
CANCEL = 60.0
"""Seconds that a cluster gets to take back its jobs."""
SNAKEMAKE_LOG = "log/snakemake.log"
SNAKEMAKE_CONFIG = "log/snakemake.json"


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
    # The command line wins over the profile.
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


def run_snakemake(
    arguments: Sequence[str], environment: Mapping[str, str], log: Path, lock: int, patience: float
) -> tuple[int, int | None]:
    """Run Snakemake in a process group of its own; on a signal to this process end it, with all its jobs.

    Args:
        arguments: its command line, as `snakemake_arguments` returns it.
        environment: variables of its jobs, over those of this process.
        log: file for what it prints to standard error; overwritten.
        lock: open file that holds the study's lock; inherited, so that the lock outlives a killed parent.
        patience: seconds that it gets to take back a cluster's jobs.

    Returns:
        Its exit status, and the number of the signal that ended it, or None.
    """
    with _started(arguments, environment, log, lock, patience) as process:
        number = _wait(process, patience)
    return process.returncode, number


@contextlib.contextmanager
def _started(
    arguments: Sequence[str], environment: Mapping[str, str], log: Path, lock: int, patience: float
) -> Iterator[subprocess.Popen[bytes]]:
    """Start Snakemake; whatever ends the block ends every process of its group, too."""
    variables = os.environ | environment | {"PYTHONUNBUFFERED": "1"}
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, [str(repository()), variables.get("PYTHONPATH")]))
    log.parent.mkdir(exist_ok=True)
    with open(log, "wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "mutineck.running.snakemake_process", *arguments],
            env=variables,
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
    """Wait for Snakemake; on a signal end it and return the signal's number."""
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
    """End Snakemake and its jobs: with SIGTERM, and after a few seconds with SIGKILL.

    Where jobs run on a cluster, Snakemake gets ``patience`` seconds first, to take them back.
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
