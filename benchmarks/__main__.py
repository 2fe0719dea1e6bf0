"""Run benchmarks, print their table, keep it in `benchmarks/results/CLASS.json`: `python -m benchmarks [NAME ...]`."""

from __future__ import annotations

import argparse
import importlib
import time
from pathlib import Path

import torch

from benchmarks.table import Row, as_json, machine, markdown
from mutineck.study.manifest import revision
from mutineck.system.errors import unknown
from mutineck.system.files import read_json, write_json

BENCHMARKS = ("losses", "teacher", "step", "operators", "cache", "features", "clusters", "memory", "start", "processes")
RESULTS = Path(__file__).parent / "results"


def main(arguments: list[str] | None = None) -> None:
    """Measure; rows of benchmarks that are not run stay in the file as they were."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; all if none is given")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON files")
    given = parser.parse_args(arguments)
    for name in given.names:
        if name not in BENCHMARKS:
            parser.error(unknown("benchmark", name, BENCHMARKS))
    here = machine()
    path = given.results / f"{here['class']}.json"
    kept = read_json(path)["benchmarks"] if path.is_file() else {}
    rows: list[Row] = []
    for name in given.names or BENCHMARKS:
        print(f"{name} ...", flush=True)
        started, loaded = time.perf_counter(), revision()  # now: whoever works on in the clone moves it meanwhile
        found = importlib.import_module(f"benchmarks.{name}").rows()
        kept[name] = {
            "measured": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "revision": loaded,
            "threads": torch.get_num_threads(),
            "seconds": round(time.perf_counter() - started, 1),
            "rows": [as_json(row) for row in found],
        }
        rows += found
        # After each: a benchmark that is stopped takes none of the others with it.
        write_json(path, {"machine": here, "benchmarks": {n: kept[n] for n in BENCHMARKS if n in kept}})
    print(markdown(rows))
    missed = [row.name for row in rows if row.shortfall]
    print(f"\n{len(rows)} rows, {len(missed)} short of their targets; kept in {path}")


if __name__ == "__main__":
    main()
