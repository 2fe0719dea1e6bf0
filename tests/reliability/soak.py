"""Run studies for hours in one process, and see that memory, open files and temporary files return to where they were.

    python -m tests.reliability.soak --hours 1

Each round runs a study from nothing, asks how it stands, draws its figures again in this very process, and removes it.
"""

from __future__ import annotations

import argparse
import gc
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from mutineck.running import study_run
from mutineck.running.status import removable, unlisted
from mutineck.study.experiment import Experiment, load_experiment
from mutineck.study.experiment_file import repository
from mutineck.study.jobs import Job
from mutineck.study.manifest import revision
from mutineck.study.stage import Study
from mutineck.study.staleness import inspect
from mutineck.system.files import write_json
from tests.reliability.studies import partial

REPORT = repository() / "docs" / "reliability" / "soak.json"
WARM = 2
"""Rounds after which everything has been imported and every buffer has its size."""
GROWTH = 0.05
"""Share by which memory may have grown from then to the end."""


def one_round(experiment: Experiment, outputs: Path, arguments: dict[str, Any]) -> list[str]:
    """Run a study, look at it, draw it again and remove it; return what was wrong with it."""
    root = study_run.run_study(experiment, outputs, **arguments)
    found = [f"{state.job}: {state.reasons[0]}" for state in inspect(experiment, root) if not state.done]
    found += partial(experiment, root)
    found += [f"{path.relative_to(root)}: no manifest lists it" for path in unlisted(experiment, root)]
    found += [f"{path.relative_to(root)}: {why}" for path, why in removable(experiment, root)]
    if "until" not in arguments:
        from mutineck.figures import draw

        draw(Study(experiment, root, Job("figures")))
    shutil.rmtree(root)
    return found


def measure(folders: dict[str, Path]) -> dict[str, float]:
    """Return what this process and the folders that programs leave things in hold now."""
    gc.collect()
    process = psutil.Process()
    return {
        "memory_mib": round(process.memory_info().rss / (1 << 20), 1),
        "open_files": process.num_fds(),
        "threads": process.num_threads(),
        "processes": len(process.children(recursive=True)),
        **{name: sum(1 for _ in folder.rglob("*")) for name, folder in folders.items()},
    }


def returned(rounds: list[dict[str, Any]]) -> list[str]:
    """Return what has grown from the first warm round to the last; nothing if all has returned to where it was."""
    if len(rounds) <= WARM:
        return [f"{len(rounds)} rounds: too few to tell, {WARM + 1} at least"]
    first, last = rounds[WARM - 1], rounds[-1]
    grown = []
    for name, before in first.items():
        if name in ("seconds", "faults"):
            continue
        bound = before * (1 + GROWTH) if name == "memory_mib" else before
        if last[name] > bound:
            grown.append(f"{name}: {before} -> {last[name]}")
    return grown


def main(arguments: list[str] | None = None) -> int:
    """Soak, and write `docs/reliability/soak.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--experiment", default="smoke")
    parser.add_argument("--notebooks", type=Path, help="folder of the notebooks")
    parser.add_argument("--until", help="last stage")
    parser.add_argument(
        "--work", type=Path, default=repository() / ".soak", help="folder to work in, removed at the end"
    )
    parser.add_argument("--report", type=Path, default=REPORT)
    given = parser.parse_args(arguments)
    work = given.work.resolve()
    folders = {"temporary_files": work / "tmp", "runtime_files": work / "runtime", "output_files": work / "outputs"}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    # All that a study's processes put elsewhere comes to lie where it can be counted.
    os.environ |= {"TMPDIR": str(folders["temporary_files"]), "JUPYTER_RUNTIME_DIR": str(folders["runtime_files"])}
    tempfile.tempdir = None
    folders["shared_memory"] = Path("/dev/shm")
    experiment = load_experiment(given.experiment)
    options = {"notebooks": given.notebooks, "until": given.until}
    options = {name: value for name, value in options.items() if value is not None}
    started, rounds = time.monotonic(), list[dict[str, Any]]()
    while time.monotonic() - started < given.hours * 3600 or len(rounds) <= WARM:
        begun = time.monotonic()
        faults = one_round(experiment, folders["output_files"], options)
        rounds.append(measure(folders) | {"seconds": round(time.monotonic() - begun), "faults": faults})
        print(f"round {len(rounds)}: {rounds[-1]}", flush=True)
    faults = [fault for each in rounds for fault in each["faults"]]
    result = {
        "experiment": experiment.name,
        "hours": round((time.monotonic() - started) / 3600, 2),
        "rounds": rounds,
        "warm": WARM,
        "grown": returned(rounds),
        "faults": faults,
        "revision": revision(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    write_json(given.report, result)
    shutil.rmtree(work)
    for line in (*result["grown"], *faults):
        print(line, file=sys.stderr)
    print(f"{len(rounds)} rounds in {result['hours']} h; grown: {len(result['grown'])}, faults: {len(faults)}")
    return int(bool(result["grown"] or faults))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
