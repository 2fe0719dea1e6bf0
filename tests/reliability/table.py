"""Write docs/reliability.md from what the last runs counted: nothing in its tables is typed by hand.

python -m tests.reliability.table .junit/*.xml      after `make test`, which leaves these
python -m tests.reliability.table                   after `make fuzz`, `make kills`, `make soak`, `make portable`
"""

from __future__ import annotations

import argparse
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.table import with_section
from mutineck.study.experiment_file import repository
from mutineck.system.files import read_json, write_json, write_text
from tests.reliability.junit import cases
from tests.reliability.portable import all_runs, spread
from tests.reliability.topics import TOPICS

DOCUMENT = repository() / "docs" / "reliability.md"
REPORTS = repository() / "docs" / "reliability"
SHOWN = 3
"""Findings that the document names of each kind; the reports have all."""
UNCOUNTED = "Not counted yet: type `make test`, then `make reliability`."


def count(paths: Sequence[Path]) -> dict[str, Any]:
    """Return what runs of the tests (`--junitxml`) say about each topic: tests by outcome, and files generated."""
    run = [case for path in paths for case in cases(path)]
    topics = {}
    for topic in TOPICS:
        own = [case for case in run if topic.has(f"{case.module}::{case.name}")]
        outcomes = {
            outcome: sum(case.outcome == outcome for case in own) for outcome in ("passed", "failed", "skipped")
        }
        topics[topic.wrong] = outcomes | {"files": sum(case.files for case in own)}
    suites = [suite for path in paths for suite in ElementTree.parse(path).iter("testsuite")]
    revisions = {
        item.get("value") for suite in suites for item in suite.iter("property") if item.get("name") == "revision"
    }
    return {
        "tests": len(run),
        "topics": topics,
        "revision": sorted(filter(None, revisions)),
        "finished": max(suite.get("timestamp", "") for suite in suites)[:19] + "Z",
    }


def tables(reports: Mapping[str, Any]) -> dict[str, str]:
    """Return the document's tables by name, from the reports by name (`tests`, `fuzz`, `kills`, `soak`, `coverage`, `portable`)."""
    return {
        "tests": _tests(reports.get("tests")),
        "longer runs": _longer(reports),
        "portable": _portable(reports.get("portable")),
    }


def _tests(report: Mapping[str, Any] | None) -> str:
    when = (
        f"The last run: {report['finished'][:10]}, revision {', '.join(map(short, report['revision']))}."
        if report
        else UNCOUNTED
    )
    lines = [
        when,
        "",
        "| what goes wrong | what is tried | what happens | tests | generated files | where, in `tests/` |",
        "|---|---|---|---|---|---|",
    ]
    for topic in TOPICS:
        counts = report["topics"][topic.wrong] if report else {}
        tests = ", ".join(f"{counts[word]} {word}" for word in ("passed", "failed", "skipped") if counts.get(word))
        files = number(counts["files"]) if counts.get("files") else ""
        where = ", ".join(f"`{path.removeprefix('tests/')}`" for path in topic.where)
        lines.append(f"| {topic.wrong} | {topic.tried} | {topic.happens} | {tests} | {files} | {where} |")
    return "\n".join(lines)


def _longer(reports: Mapping[str, Any]) -> str:
    lines = ["| command | the last run | how much | what came of it |", "|---|---|---|---|"]
    for name, words in (("fuzz", _fuzz), ("kills", _kills), ("soak", _soak), ("coverage", _coverage)):
        report = reports.get(name)
        if report is None:
            lines.append(f"| `make {name}` | not yet | | |")
        else:
            much, came = words(report)
            when = f"{report['finished'][:10]}, revision {short(report['revision']['git'])}"
            lines.append(f"| `make {name}` | {when} | {much} | {came} |")
    return "\n".join(lines)


def _portable(report: Mapping[str, Any] | None) -> str:
    if report is None:
        return "Not run yet: type `make portable`."
    runs = all_runs(report)
    lines = [f"- {machine}: {_machine(about)}." for machine, about in report["machines"].items()]
    ended = sum(each["ended"] for each in runs)
    lines += ["", f"{ended} of {len(runs)} runs of `{report['experiment']}` ended in their report. mAP in percent:", ""]
    names = [f"{each['capability']}, {each['threads']}" for each in runs]
    lines += ["| | on | " + " | ".join(names) + " | lowest to highest |", "|---|---|" + "--:|" * (len(runs) + 1)]
    for split in ("val", "test"):
        for arm, (low, high) in spread(runs, split).items():
            cells = [_percent(each["mAP"].get(arm, {}).get(split)) for each in runs]
            lines.append(f"| {arm} | {split} | {' | '.join(cells)} | {_percent(low)} to {_percent(high)} |")
    return "\n".join(lines)


def _machine(about: Mapping[str, Any]) -> str:
    minutes = [f"{each['minutes']:.0f}" for each in about["runs"] if each["ended"]]
    runs = "1 run" if len(about["runs"]) == 1 else f"{len(about['runs'])} runs"
    span = (
        f"{min(minutes, key=int)} to {max(minutes, key=int)} minutes each"
        if minutes[1:]
        else "".join(minutes) + " minutes"
    )
    taken = f", {span}" if minutes else ""
    return f"{runs}{taken}, {about['finished'][:10]}, revision {short(about['revision']['git'])}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _fuzz(report: Mapping[str, Any]) -> tuple[str, str]:
    targets = report["targets"]
    guided = [numbers for name, numbers in targets.items() if name != "hypothesis"]
    findings = [name for numbers in targets.values() for name in numbers["findings"]]
    files, seconds, kept = (sum(each[key] for each in guided) for key in ("files", "seconds", "kept"))
    much = (
        f"{number(targets['hypothesis']['files'])} files by property tests; by coverage {number(files)} in "
        f"{seconds / 60:.0f} minutes, of which {number(kept)} reached new code"
    )
    return much, _or_none(findings, "findings")


def _kills(report: Mapping[str, Any]) -> tuple[str, str]:
    much = (
        f"{report['kills']} SIGKILLs ({_listed(report['how'])}) in {report['starts']} starts, during {_listed(report['during'])}; "
        f"{sum(report['stops'].values())} stops ({_listed(report['stops'])})"
    )
    came = (
        f"{report['files_compared']} files compared with those of a study left alone: "
        f"{_or_none(report['files_differing'], 'differ')}; {_or_none(report['faults'], 'faults')}; every stop obeyed, the "
        f"slowest within {report['slowest_stop']} s"
    )
    return much, came


def _soak(report: Mapping[str, Any]) -> tuple[str, str]:
    first, last = report["rounds"][report["warm"] - 1], report["rounds"][-1]
    names = {"memory_mib": "MiB", "open_files": "open files", "threads": "threads", "processes": "processes"}
    names |= {name: name.replace("_", " ") for name in first if name.endswith("_files") and name not in names}
    names |= {"shared_memory": "files in shared memory"}
    counts = ", ".join(f"{words} {first[name]:g} → {last[name]:g}" for name, words in names.items())
    much = f"{len(report['rounds'])} studies in {report['hours']:.1f} hours"
    came = f"{_or_none(report['grown'], 'grown')}, {_or_none(report['faults'], 'faults')}: {counts}"
    return much, came


def _coverage(report: Mapping[str, Any]) -> tuple[str, str]:
    much = f"the unit tests, {number(report['lines'])} lines of `mutineck`"
    came = f"{report['run'] / report['lines']:.0%} are run; most lines that are not: {_listed(report['missed'])}"
    return much, came


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in counts.items())


def _or_none(found: Sequence[str], word: str) -> str:
    if not found:
        return {"differ": "none differs", "grown": "nothing grows"}.get(word, f"no {word}")
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return f"{len(found)} {word}: {'; '.join(item.rstrip(': ') for item in found[:SHOWN])}{more}"


def number(value: int) -> str:
    """Return a whole number with its thousands apart."""
    return f"{value:,}".replace(",", " ")


def short(revision: str | None) -> str:
    """Return a revision in eight digits, and what else its text says."""
    digits, *more = (revision or "unknown").split()
    return " ".join([digits[:8], *more])


def read_reports() -> dict[str, Any]:
    """Return the reports that there are."""
    return {path.stem: read_json(path) for path in sorted(REPORTS.glob("*.json"))}


def with_tables(document: str, reports: Mapping[str, Any]) -> str:
    """Return the document with its tables written anew."""
    for name, text in tables(reports).items():
        document = with_section(document, name, text, "make reliability")
    return document


def main(arguments: list[str] | None = None) -> int:
    """Count, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("junit", type=Path, nargs="*", help="what runs of the tests wrote (`--junitxml`)")
    given = parser.parse_args(arguments)
    if given.junit:
        write_json(REPORTS / "tests.json", count(given.junit))
    write_text(DOCUMENT, with_tables(DOCUMENT.read_text(encoding="utf-8"), read_reports()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
