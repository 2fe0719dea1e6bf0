"""Run a study to its report as other machines would, and say how far their numbers lie apart.

    python -m tests.reliability.portable shapes

Processors with other instruction sets round differently, and so do other numbers of threads: after some hundred steps a
training ends elsewhere. Each variant is a run of the same experiment, in a folder of its own, with `ATEN_CPU_CAPABILITY`
and `ONEDNN_MAX_CPU_ISA` set so that torch and oneDNN take the instructions of another machine. A second call runs what
is missing. The numbers of this machine are kept beside those of others in `docs/reliability/portable.json`.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mutineck.study.experiment import Experiment, load_experiment
from mutineck.study.experiment_file import repository
from mutineck.study.manifest import revision
from mutineck.system.files import read_json, write_json
from mutineck.system.tables import read_table
from tests.reliability.studies import Run

REPORT = repository() / "docs" / "reliability" / "portable.json"
ONEDNN = {"default": "AVX", "avx2": "AVX2", "avx512": "AVX512_CORE"}
"""What torch calls its instruction sets, least first, and oneDNN's bound that goes with each."""
THREADS = (1, 2)
ANSWER = "import torch; print(torch.backends.cpu.get_cpu_capability())"


class Variant(NamedTuple):
    """One way to run: the instruction set that torch and oneDNN take, and the threads of a job."""

    capability: str
    threads: int

    def __str__(self) -> str:
        return f"{self.capability}, {self.threads} thread{'s' if self.threads > 1 else ''}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables that make a process take these instructions."""
        return {"ATEN_CPU_CAPABILITY": self.capability, "ONEDNN_MAX_CPU_ISA": ONEDNN[self.capability]}

    @property
    def folder(self) -> str:
        """Name of the folder that the variant works in."""
        return f"{self.capability}-{self.threads}"


def capabilities() -> list[str]:
    """Return the instruction sets that this machine's processor has, least first."""
    # Asked without the variable: with it torch answers what it is told, whether the processor has it or not.
    environment = {name: value for name, value in os.environ.items() if name != "ATEN_CPU_CAPABILITY"}
    taken = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ANSWER], capture_output=True, text=True, check=True, env=environment
    )
    names = list(ONEDNN)
    return names[: names.index(taken.stdout.strip().lower()) + 1]


def run(experiment: Experiment, variant: Variant, work: Path) -> dict[str, Any]:
    """Bring one variant of a study to its report; return whether it got there, in how long, and its numbers."""
    folder = work / variant.folder
    folder.mkdir(parents=True, exist_ok=True)
    outputs = folder / "outputs"
    started = time.monotonic()
    process = Run(
        [experiment.name, "--outputs", str(outputs), "--set", f"resources.threads={variant.threads}"],
        folder / "run.log",
        environment=variant.environment,
    )
    status = process.process.wait()
    root = outputs / experiment.name
    ended = status == 0 and (root / "report.html").is_file()
    if ended and (others := instructions(root) - {variant.capability}):
        raise RuntimeError(
            f"{root}: jobs were to take the instructions {variant.capability}, and took {sorted(others)}"
        )
    return {
        "capability": variant.capability,
        "threads": variant.threads,
        "ended": ended,
        "minutes": round((time.monotonic() - started) / 60, 1),
        "error": "" if ended else process.said()[-2000:],
        "mAP": numbers(root) if ended else {},
    }


def instructions(root: Path) -> set[str]:
    """Return the sets of instructions that torch took in the trainings of a study, as their manifests have it."""
    versions = [read_json(path)["versions"] for path in root.glob("distillation/*/*/manifest.json")]
    return {each["instructions"].lower() for each in versions if "instructions" in each}


def numbers(root: Path) -> dict[str, dict[str, float]]:
    """Return bbox_mAP, 0 to 1, of each arm and teacher of a finished study, by split; the mean over seeds."""
    rows = read_table(root / "ablations" / "results.csv")
    rows = rows[rows["metric"] == "bbox_mAP"]
    means = rows.groupby(["arm", "split"], sort=False)["value"].mean().round(5)
    found: dict[str, dict[str, float]] = {}
    for (arm, split), value in means.items():  # type: ignore[misc]
        found.setdefault(str(arm), {})[str(split)] = float(value)
    return found


def spread(runs: Sequence[Mapping[str, Any]], split: str) -> dict[str, tuple[float, float]]:
    """Return the lowest and the highest mAP of each arm and teacher over runs that ended."""
    values: dict[str, list[float]] = {}
    for each in runs:
        for arm, by_split in each["mAP"].items():
            if split in by_split:
                values.setdefault(arm, []).append(by_split[split])
    return {arm: (min(found), max(found)) for arm, found in values.items()}


def all_runs(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the runs of all machines that a report holds."""
    return [each for machine in report["machines"].values() for each in machine["runs"]]


def processor() -> str:
    """Return this machine's processor: its maker's name for it, and the instruction set that torch takes."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{next(named, platform.processor() or platform.machine())} ({capabilities()[-1]})"


def main(arguments: list[str] | None = None) -> int:
    """Run every variant that this machine has (what is finished is not run again), keep the numbers, write the tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.portable", description=main.__doc__)
    parser.add_argument("experiment", nargs="?", default="shapes")
    parser.add_argument("--work", type=Path, default=repository() / ".portable", help="folder to work in")
    parser.add_argument("--only", action="append", help="of the variants, such as avx2-1; may be repeated")
    given = parser.parse_args(arguments)
    experiment = load_experiment(given.experiment)
    report = read_json(REPORT) if REPORT.is_file() else {"experiment": experiment.name, "machines": {}}
    kept = {
        (each["capability"], each["threads"]): each
        for each in report["machines"].get(processor(), {"runs": ()})["runs"]
    }
    for variant in (Variant(name, threads) for name in capabilities() for threads in THREADS):
        if given.only and variant.folder not in given.only:
            continue
        print(f"{experiment.name} with {variant} ...", flush=True)
        found = kept[variant] = run(experiment, variant, given.work)
        print(f"  {'ended in its report' if found['ended'] else 'FAILED'} ({found['minutes']} min)", flush=True)
        report["machines"][processor()] = {
            "runs": [kept[each] for each in sorted(kept)],
            "revision": revision(),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        write_json(REPORT, report)
    from tests.reliability.table import main as write_tables

    write_tables([])
    return 0 if all(each["ended"] for each in kept.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
