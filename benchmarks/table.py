"""What a benchmark reports: rows of one table, medians of alternating runs, and the machine they ran on.

A module of this folder that has a function `rows() -> list[Row]` is a benchmark. Ours and its reference run in
turns in one process, and the ratio is the median over the turns: what else the machine does meets both alike.
"""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from mutineck.system.files import read_json

Result = TypeVar("Result")

FLAGS = ("sse4_2", "avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd", "sve")
"""Features of a processor that matrix products look for."""


@dataclass(frozen=True)
class Target:
    """What a row has to reach: a bound on its ratio, or on its value where it has no reference."""

    sense: Literal["at least", "at most"]
    bound: float

    def shortfall(self, number: float) -> float:
        """Return by which share of the bound a number misses it, 0 if it does not."""
        short = self.bound - number if self.sense == "at least" else number - self.bound
        return max(0.0, short / self.bound)


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: what was measured, its size with it.
        value: ours.
        unit: of `value` and `reference_value`.
        reference: what stands beside it; empty where the target is a bound on the value itself.
        reference_value: its value.
        ratio: the number that the target bounds: how many times as fast as the reference where at least something is
            asked, how many times as much as the reference where at most something is.
        target: what is to be reached; None for a row that only states.
        note: why a target was missed, or what the number means.
    """

    name: str
    value: float
    unit: str
    reference: str = ""
    reference_value: float | None = None
    ratio: float | None = None
    target: Target | None = None
    note: str = ""

    @property
    def shortfall(self) -> float:
        """By which share of its bound the row misses its target, 0 if it does not or has none."""
        return 0.0 if self.target is None else self.target.shortfall(self.value if self.ratio is None else self.ratio)


@dataclass(frozen=True)
class Rounds:
    """Seconds of several runs, each called once a round: name to one number a round."""

    seconds: Mapping[str, Sequence[float]]

    def median(self, name: str) -> float:
        """Return a run's median seconds."""
        return statistics.median(self.seconds[name])

    def ratio(self, name: str, *others: str) -> float:
        """Return the median over the rounds of a run's seconds over those of the others together."""
        rounds = zip(self.seconds[name], *(self.seconds[other] for other in others), strict=True)
        return statistics.median(own / sum(rest) for own, *rest in rounds)

    def faster(self, name: str, ours: str, reference: str, least: float | None = None, note: str = "") -> Row:
        """Return the row that says how many times as fast as its reference a run is."""
        target = None if least is None else Target("at least", least)
        ratio = self.ratio(reference, ours)
        return Row(name, self.median(ours), "s", reference, self.median(reference), ratio, target, note)

    def longer(self, name: str, ours: str, reference: str, most: float | None = None, note: str = "") -> Row:
        """Return the row that says how many times as long as its reference a run takes."""
        target = None if most is None else Target("at most", most)
        ratio = self.ratio(ours, reference)
        return Row(name, self.median(ours), "s", reference, self.median(reference), ratio, target, note)


def with_section(document: str, name: str, text: str, writer: str) -> str:
    """Return a document with other text between the markers of a section; `writer` is the command that does it."""
    begin, end = f"<!-- {name}: written by {writer} -->", f"<!-- end of {name} -->"
    before, rest = document.split(begin)
    _, after = rest.split(end)
    return f"{before}{begin}\n\n{text.rstrip()}\n\n{end}{after}"


def clock_of(*, gpu: bool) -> Callable[[], float]:
    """Return the clock that runs are timed by: of processor time on one CPU thread, else the one on the wall."""
    import torch

    return time.process_time if torch.get_num_threads() == 1 and not gpu else time.perf_counter


def side_by_side(
    runs: Mapping[str, Callable[[], object]], *, rounds: int = 7, warm: int = 1, wall: bool = False
) -> Rounds:
    """Call each of several functions once a round, in turns, and return their seconds.

    Every second round goes backwards, so that none is always the one whose memory is warm. On one CPU thread these
    are seconds of processor time: a neighbour on the machine is no part of what is measured.

    Args:
        runs: by name.
        rounds: how often each is measured.
        warm: how often each is called before, unmeasured.
        wall: take the wall clock in any case; for runs that wait for files or other processes.
    """
    import torch

    clock = time.perf_counter if wall else clock_of(gpu=torch.cuda.is_available())
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(-warm, rounds):
        order = list(runs)[:: 1 if turn % 2 == 0 else -1]
        for name in order:
            gc.collect()
            started = clock()
            runs[name]()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn >= 0:
                seconds[name].append(clock() - started)
    return Rounds(seconds)


def peak_bytes(run: Callable[[], object]) -> int:
    """Return the most memory that a run's tensors hold at once, beside what is there before it."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    if torch.cuda.is_available():
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() - before
    # Resident memory would do no better: the allocator keeps what an earlier run has freed.
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as found:
        run()
    events = [e for e in found.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = itertools.accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns()))
    return max(held, default=0)


def in_child(function: Callable[..., Result], *arguments: object) -> Result:
    """Call a function in a new process that has imported nothing yet, and return what it returns."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as child:
        return child.submit(function, *arguments).result()


def peak_resident() -> int:
    """Return the most resident bytes that this process has had (Linux)."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    if found is None:
        raise RuntimeError("/proc/self/status names no VmHWM: peaks of resident memory are measured on Linux only")
    return 1024 * int(found.group(1))


def machine() -> dict[str, Any]:
    """Return what a measurement depends on: processor, cores, threads, GPU, versions; and the machine's class."""
    import torch

    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").is_file() else ""
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    listed = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    flags = set(listed.group(1).split()) if listed else set()
    cores = len(os.sched_getaffinity(0))
    return {
        "class": f"cpu-{cores}" if gpu is None else re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-"),
        "processor": model.group(1) if model else platform.machine(),
        "flags": [flag for flag in FLAGS if flag in flags],
        "cores": cores,
        "gpu": gpu,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def as_json(row: Row) -> dict[str, Any]:
    """Return a row as JSON holds it; `from_json` is the way back."""
    return asdict(row)


def from_json(fields: Mapping[str, Any]) -> Row:
    """Return the row that `as_json` wrote."""
    target = fields["target"]
    return Row(**{**fields, "target": None if target is None else Target(**target)})


def kept_rows(path: Path) -> list[Row]:
    """Return all rows of a file of results, in the order of the benchmarks."""
    return [from_json(row) for kept in read_json(path)["benchmarks"].values() for row in kept["rows"]]


def markdown(rows: Sequence[Row]) -> str:
    """Return rows as a Markdown table."""
    lines = ["| measured | ours | beside it | its | ratio | target | met |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        theirs = "" if row.reference_value is None else number(row.reference_value, row.unit)
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        cells = [row.name, number(row.value, row.unit), row.reference, theirs, ratio, _wanted(row), _met(row)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def number(value: float, unit: str) -> str:
    """Return a value with three digits and its unit; seconds below one as milliseconds."""
    if unit == "s" and value < 1:
        value, unit = 1000 * value, "ms"
    digits = f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{digits} {unit}".strip()


def _wanted(row: Row) -> str:
    if row.target is None:
        return ""
    bound = number(row.target.bound, row.unit) if row.ratio is None else f"{row.target.bound:g}"
    return f"{'≥' if row.target.sense == 'at least' else '≤'} {bound}"


def _met(row: Row) -> str:
    if row.target is None:
        return row.note
    word = "yes" if row.shortfall == 0 else f"no, by {100 * row.shortfall:.2g} %"
    return f"{word}: {row.note}" if row.note else word
