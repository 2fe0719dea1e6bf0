"""Keep which lines of mutineck the unit tests run; `make coverage` calls it at its end."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mutineck.study.manifest import revision
from mutineck.system.files import read_json, write_json
from tests.reliability.table import REPORTS
from tests.reliability.table import main as write_tables

LEAST = 5
"""Files kept by name: those with the most lines that no unit test runs."""


def summary(measured: Mapping[str, Any]) -> dict[str, Any]:
    """Return how many lines there are, how many are run, and the files with most that are not, from coverage's JSON."""
    missed = {name: file["summary"]["missing_lines"] for name, file in measured["files"].items()}
    most = sorted(missed, key=lambda name: (-missed[name], name))[:LEAST]
    return {
        "lines": measured["totals"]["num_statements"],
        "run": measured["totals"]["covered_lines"],
        "missed": {name: missed[name] for name in most if missed[name]},
    }


def main(arguments: list[str] | None = None) -> int:
    """Keep the figure in docs/reliability/coverage.json, tell it, and write the tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.coverage", description=main.__doc__)
    parser.add_argument("json", type=Path, help="coverage's report")
    found = summary(read_json(parser.parse_args(arguments).json))
    when = {"revision": revision(), "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    write_json(REPORTS / "coverage.json", found | when)
    print(f"the unit tests run {found['run'] / found['lines']:.0%} of the {found['lines']} lines of mutineck")
    return write_tables([])


if __name__ == "__main__":
    sys.exit(main())
