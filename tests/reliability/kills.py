"""Kill a study at random moments of every stage, and see that it ends as if nobody had.

    python -m tests.reliability.kills --count 50

A study runs once undisturbed. Then it runs again, with pictures loaded by processes of their own, and processes of it
are ended with SIGKILL: all of them at once, the command alone, or any single one. After each kill nothing of it may go
on, and nothing partial may pass for finished; the same command is started again. Between kills the command is also asked
to stop, by SIGINT or SIGTERM: it has to obey within 10 seconds, and say how to go on. In the end every file that the
stages list must be the undisturbed study's.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

from mutineck.study.experiment import load_experiment
from mutineck.study.experiment_file import repository
from mutineck.study.jobs import Job, jobs
from mutineck.study.manifest import read_manifest, revision
from mutineck.system.files import write_json
from tests.reliability.studies import Run, differing, partial

REPORT = repository() / "docs" / "reliability" / "kills.json"
APART = ("ablations/costs*", "figures/costs*", "figures/index.json", "features/*/index.json", "report.html",
         "*/training_config.py")  # fmt: skip
"""Files that tell how long something took, or how many loader workers it had."""
DISTURBED = ("--set", "resources.workers=1")
"""What the study that is killed is given beside: results must not depend on it."""
HOW = ("everything", "the command", "one process")
STOPS = (signal.SIGINT, signal.SIGTERM)
KILLS_A_STOP = 5
"""Kills after each polite stop."""
OBEYS = 10.0
"""Seconds within which everything has to have ended after SIGINT and SIGTERM."""
NOTICES = 5.0
"""Seconds that the rest of a run gets to notice that one of its processes was killed."""
START = 8.0
"""Seconds from the start of a job to its notebook's first line, about."""
HANGS = 3600.0
GONE = 20.0
"""Seconds within which nothing of a killed run may be left."""


class Killer:
    """One disturbed study after another, until there were enough kills.

    Args:
        arguments: the experiment and what else `mutineck run` is given.
        work: folder to work in.
        count: how many kills.
        seed: chooses moments and victims.
    """

    def __init__(self, arguments: list[str], work: Path, count: int, seed: int) -> None:
        self.arguments, self.work, self.count = [*arguments, "--outputs", str(work / "outputs")], work, count
        self.overrides = [arguments[i + 1] for i, word in enumerate(arguments) if word == "--set"]
        self.experiment = load_experiment(arguments[0], self.overrides)
        self.root = work / "outputs" / self.experiment.name
        self.random = random.Random(seed)
        self.kills: Counter[str] = Counter()
        self.stops: Counter[str] = Counter()
        self.slowest_stop = 0.0
        self.stages: Counter[str] = Counter()
        self.of_job: Counter[str] = Counter()
        self.runs = 0
        self.faults: list[str] = []

    @property
    def done(self) -> int:
        """How many kills there were."""
        return self.kills.total()

    def start(self, *more: str) -> Run:
        """Start the study, or go on with it."""
        self.runs += 1
        return Run([*self.arguments, *more], self.work / f"run{self.runs:03d}.log")

    def undisturbed(self) -> Path:
        """Run the study once without a kill and put it aside; return its folder."""
        kept = self.work / "undisturbed"
        if not kept.exists():
            run = self.start()
            if run.process.wait():
                raise RuntimeError(f"the study fails without a kill: {run.said()[-3000:]}")
            # Files name their paths, so both studies are made in one place.
            self.root.rename(kept)
        self.seconds = {str(job): _seconds(kept, job) for job in jobs(self.experiment)}
        return kept

    def disturb(self) -> None:
        """Run the study until it is finished, killing it at random moments of each job."""
        share = math.ceil((self.count - self.done) / len(self.seconds))
        self.of_job.clear()
        while True:
            run = self.start(*DISTURBED)
            if self.random.random() < 0.1 and self.done < self.count:
                self._sleep(run, self.random.uniform(0, START))
            else:
                self._wait_for_a_job(run, share)
            if run.ended and not run.process.returncode:
                self.faults += partial(self.experiment, self.root)
                return
            if run.ended:
                self.faults.append(f"run {self.runs} failed by itself: {run.said()[-1500:]}")
                return
            # Python itself, while it starts, obeys without a word.
            if run.running and self.stops.total() * KILLS_A_STOP <= self.done:
                self._stop(run)
            else:
                self._kill(run)

    def _wait_for_a_job(self, run: Run, share: int) -> None:
        """Wait for a random moment of a job that has not had its share of kills, or for the end."""
        deadline = time.monotonic() + HANGS
        while not run.ended:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{run.log}: nothing ends any more; running: {', '.join(run.running)}")
            due = [job for job in run.running if self.of_job[job] < share]
            if due and self.done < self.count:
                job = self.random.choice(due)
                self._sleep(run, self.random.uniform(0, START + self.seconds.get(job, START)))
                return
            time.sleep(0.2)

    def _sleep(self, run: Run, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not run.ended:
            time.sleep(0.05)

    def _kill(self, run: Run) -> None:
        how = self.random.choice(HOW)
        running = run.running
        members = run.members()
        if how == "the command":
            victims = [each for each in members if each.pid == run.process.pid]
        else:
            victims = members if how == "everything" else [self.random.choice(members)]
        run.kill(victims)
        if how == "one process":
            # The others notice, or do not depend on it: then the run may as well be stopped.
            self._sleep(run, NOTICES)
            run.kill(run.members())
        for left in run.wait_until_gone(GONE):
            self.faults.append(f"run {self.runs}, {how}: {name_of(left)} goes on")
        if "Traceback" in (said := run.said()):
            self.faults.append(f"run {self.runs}, {how}: an error that explains nothing: {said[-1500:]}")
        self.kills[how] += 1
        for job in running:
            self.of_job[job] += 1
        self.stages.update({job.split()[0] for job in running} or {"between jobs"})
        self._look(run, f"{self.done}/{self.count}: {how}", running)

    def _stop(self, run: Run) -> None:
        """Ask the command to stop, and see that it obeys and says how to go on."""
        number = self.random.choice(STOPS)
        running, begun = run.running, time.monotonic()
        run.process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            run.process.wait(OBEYS)
        seconds = time.monotonic() - begun
        left = run.wait_until_gone(max(1.0, OBEYS - seconds))
        if run.process.returncode == 0:
            return  # it had just finished
        self.faults += [f"run {self.runs}, {number.name}: {name_of(one)} goes on for {OBEYS:.0f} s" for one in left]
        if "Go on with: mutineck run" not in (said := run.said()):
            self.faults.append(f"run {self.runs}, {number.name}: it does not say how to go on: {said[-1500:]}")
        run.kill(left)
        self.stops[number.name] += 1
        self.slowest_stop = max(self.slowest_stop, seconds)
        self._look(run, f"{number.name}: gone within {seconds:.1f} s", running)

    def _look(self, run: Run, what: str, running: list[str]) -> None:
        """Note what passes for finished and is not, and say what was done to which jobs."""
        found = partial(self.experiment, self.root) if self.root.exists() else []
        self.faults += [f"{run.log.stem}, {what}: {fault}" for fault in found]
        print(f"{what}, {', '.join(running) or 'between jobs'}", *found, sep="\n  ", flush=True)


def name_of(process: psutil.Process) -> str:
    """Return a process as a line, whether or not it has ended meanwhile."""
    with contextlib.suppress(psutil.Error):
        return f"process {process.pid}, {' '.join(process.cmdline())[:200]},"
    return f"process {process.pid}"


def _seconds(root: Path, job: Job) -> float:
    manifest = read_manifest(root, job)
    return float(manifest["seconds"]) if manifest else START


def main(arguments: list[str] | None = None) -> int:
    """Kill, compare, and write `docs/reliability/kills.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=50, help="kills (default 50)")
    parser.add_argument(
        "--work", type=Path, default=repository() / ".kills", help="folder to work in, removed at the end"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", type=Path, default=REPORT)
    given, rest = parser.parse_known_args(arguments)
    # A shell that starts this in the background ignores SIGINT for all its children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    started = time.monotonic()
    given.work.mkdir(parents=True, exist_ok=True)
    killer = Killer(rest or ["smoke"], given.work.resolve(), given.count, given.seed)
    shutil.rmtree(given.work / "undisturbed", ignore_errors=True)  # of a run that ended in faults: other code, maybe
    kept = killer.undisturbed()
    compared, differ, studies = 0, list[str](), 0
    while killer.done < given.count and not killer.faults:
        shutil.rmtree(killer.root, ignore_errors=True)
        killer.disturb()
        studies += 1
        number, found = differing(killer.experiment, kept, killer.root, APART)
        compared, differ = compared + number, differ + found
    result: dict[str, Any] = {
        "experiment": killer.experiment.name,
        "kills": killer.done,
        "how": dict(killer.kills),
        "during": dict(killer.stages),
        "stops": dict(killer.stops),
        "slowest_stop": round(killer.slowest_stop, 1),
        "studies": studies,
        "starts": killer.runs,
        "files_compared": compared,
        "files_differing": differ,
        "not_compared": list(APART),
        "faults": killer.faults,
        "seconds": round(time.monotonic() - started),
        "revision": revision(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    write_json(given.report, result)
    print(f"{killer.done} kills, {compared} files compared, {len(differ)} differ, {len(killer.faults)} faults")
    for line in (*killer.faults, *differ):
        print(line, file=sys.stderr)
    if not (killer.faults or differ):
        shutil.rmtree(given.work)
    return int(bool(killer.faults or differ))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
