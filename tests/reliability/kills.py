"""Kill a study at random moments of every stage, and see that it ends as if nobody had.

    python -m tests.reliability.kills --count 50

A study runs once undisturbed. Then it runs again, and processes of it are ended with SIGKILL: all of them at once, the
command alone, or any single one. After each kill nothing of it may go on, and nothing partial may pass for finished;
the same command is started again. In the end every file that the stages list must be the undisturbed study's.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import shutil
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from mutineck.experiment import load_experiment
from mutineck.experiment_file import repository
from mutineck.stage import read_manifest, revision
from mutineck.storage import write_json
from mutineck.workflow import Job, jobs
from tests.reliability.studies import Run, differing, partial

REPORT = repository() / "docs" / "reliability" / "kills.json"
TIMED = ("ablations/costs", "figures/costs", "report.html")
"""Files that tell how long trainings took."""
HOW = ("everything", "the command", "one process")
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
        self.stages: Counter[str] = Counter()
        self.of_job: Counter[str] = Counter()
        self.runs = 0
        self.faults: list[str] = []

    @property
    def done(self) -> int:
        """How many kills there were."""
        return sum(self.kills.values())

    def start(self) -> Run:
        """Start the study, or go on with it."""
        self.runs += 1
        return Run(self.arguments, self.work / f"run{self.runs:03d}.log")

    def undisturbed(self) -> Path:
        """Run the study once without a kill and put it aside; return its folder."""
        kept = self.work / "undisturbed"
        if not kept.exists():
            run = self.start()
            if run.process.wait():
                raise RuntimeError(f"the study fails without a kill: {run.log.read_text(encoding='utf-8')[-3000:]}")
            # Files name their paths, so both studies are made in one place.
            self.root.rename(kept)
        self.seconds = {str(job): _seconds(kept, job) for job in jobs(self.experiment)}
        return kept

    def disturb(self) -> None:
        """Run the study until it is finished, killing it at random moments of each job."""
        share = math.ceil((self.count - self.done) / len(self.seconds))
        self.of_job.clear()
        while True:
            run = self.start()
            if self.random.random() < 0.1 and self.done < self.count:
                self._sleep(run, self.random.uniform(0, START))
            else:
                self._wait_for_a_job(run, share)
            if run.ended and not run.process.returncode:
                self.faults += partial(self.experiment, self.root)
                return
            if run.ended:
                self.faults.append(f"run {self.runs} failed by itself: {run.log.read_text(encoding='utf-8')[-1500:]}")
                return
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
            self._sleep(run, 10)
            run.kill(run.members())
        for left in run.wait_until_gone(GONE):
            self.faults.append(f"run {self.runs}, {how}: {' '.join(left.cmdline())[:200]} goes on")
        self.kills[how] += 1
        for job in running:
            self.of_job[job] += 1
        self.stages.update({job.split()[0] for job in running} or {"between jobs"})
        found = partial(self.experiment, self.root) if self.root.exists() else []
        self.faults += [f"run {self.runs}, {how}: {fault}" for fault in found]
        print(
            f"{self.done}/{self.count}: {how}, {', '.join(running) or 'between jobs'}", *found, sep="\n  ", flush=True
        )


def _seconds(root: Path, job: Job) -> float:
    manifest = read_manifest(root, *job)
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
    started = time.monotonic()
    given.work.mkdir(parents=True, exist_ok=True)
    killer = Killer(rest or ["smoke"], given.work.resolve(), given.count, given.seed)
    kept = killer.undisturbed()
    compared, differ, studies = 0, list[str](), 0
    while killer.done < given.count and not killer.faults:
        shutil.rmtree(killer.root, ignore_errors=True)
        killer.disturb()
        studies += 1
        if not killer.faults:
            number, found = differing(killer.experiment, kept, killer.root, TIMED)
            compared, differ = compared + number, differ + found
    result: dict[str, Any] = {
        "experiment": killer.experiment.name,
        "kills": killer.done,
        "how": dict(killer.kills),
        "during": dict(killer.stages),
        "studies": studies,
        "starts": killer.runs,
        "files_compared": compared,
        "files_differing": differ,
        "not_compared": list(TIMED),
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
