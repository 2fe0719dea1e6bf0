"""Operators dispatched in one training step, by part: what a GPU waits for where networks are small.

Counted on a CPU with mmcv's own operators (`MUTINECK_CPU=off`), so that it is what a GPU is given; views are left out,
since they compute nothing. The count is the same on each run and hardly depends on the pictures' size.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.stopwatch import REST, Parts, within
from benchmarks.table import Row, Target, in_child

SIZES: dict[str, tuple[str, dict[str, Any]]] = {
    "shapes": ("size of shapes, 8 x 192x144", {"dataset.shapes.images": 40}),
    "published": ("R101 + R101 to R50, 2 x 160x128", {"dataset.shapes.size": [160, 128], "input.scale": [160, 128]}),
}
"""Name of a size, and what makes it of `shapes`; the published networks are those of `benchmarks.step`."""
OWN = ("student's forward pass", "optimiser")
"""Parts in which mmdet's heads, and torch's optimiser for its counts on the CPU, do what they do without a teacher."""
ARMS = {"mutineck": 1.35, "fgd": 1.15}
"""Bound of the ratio to the student's step and plain passes of the arm's teachers; `fgd` learns from the first one."""


class Operators(TorchDispatchMode):
    """Counts what is dispatched within the block, by part and operator, and notes what waits for a GPU.

    Attributes:
        counts: part to operators by name; views are left out.
        waits: part to operators that wait for a GPU, or would copy from the host to it and wait.
    """

    def __init__(self) -> None:
        super().__init__()
        self.parts = [REST]
        self.counts: dict[str, Counter[str]] = {}
        self.waits: dict[str, Counter[str]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count an operator, and call it."""
        name = func._schema.name
        if not func.is_view:
            self.counts.setdefault(self.parts[-1], Counter())[name] += 1
        if name in WAITS or (name in INDEXING and any(_is_mask(index) for index in args[1])):
            self.waits.setdefault(self.parts[-1], Counter())[name] += 1
        return func(*args, **(kwargs or {}))

    @property
    def total(self) -> int:
        """Operators in all."""
        return sum(count.total() for count in self.counts.values())


WAITS = frozenset(
    f"aten::{name}"
    for name in (
        "_local_scalar_dense",  # item(), float(), int(), bool()
        "is_nonzero",
        "equal",
        "nonzero",
        "masked_select",
        "_unique2",
        "repeat_interleave",
        "lift_fresh",  # a tensor of numbers from the host
    )
)
INDEXING = frozenset(f"aten::{name}" for name in ("index", "index_put", "index_put_", "_index_put_impl_"))


def _is_mask(index: Any) -> bool:
    return isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8)


def count(run: Callable[[], object], parts: Parts) -> Operators:
    """Return the operators of a run, by parts as `benchmarks.stopwatch.shares` takes them."""
    found = Operators()

    def counted(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            found.parts.append(part)
            try:
                return function(*args, **kwargs)
            finally:
                found.parts.pop()

        return call

    with within(parts, counted), found:
        run()
    return found


def rows() -> list[Row]:
    """Count at the size of `shapes` and for the published networks."""
    return [row for size in SIZES for row in in_child(partial(rows_of, size))]


def rows_of(size: str) -> list[Row]:
    """Return the rows of one size; in a process that has not called `prepare` yet."""
    os.environ["MUTINECK_CPU"] = "off"
    from benchmarks.step import PARTS, PUBLISHED, Stepper
    from benchmarks.study import random_study
    from mutineck.detectors.folders import load_model
    from mutineck.study.experiment import load_experiment

    name, changed = SIZES[size]
    if size == "published":
        changed = PUBLISHED | changed
    first = "first" if size == "published" else "faster"
    arms = {"mutineck": "mutineck", "fgd": f"fgd:{first}"}
    changes = [f"{key}={json.dumps(value)}" for key, value in changed.items()]
    changes += [f"arms={json.dumps(dict.fromkeys(['student', *arms.values()]))}", "resources.cache=off"]
    found = []
    with tempfile.TemporaryDirectory() as folder:
        study = random_study(load_experiment("shapes", changes), Path(folder))
        alone = Stepper(study, "student")
        own = _counted(alone, PARTS)
        image = alone.data["img"]
        for kind, arm in arms.items():
            stepper = Stepper(study, arm.replace(":", "-"))
            plain = [load_model(study.path("teachers", t.name))[0].eval() for t in stepper.teachers]
            passes = sum(count(partial(torch.no_grad()(each.extract_feat), image), {}).total for each in plain)
            whole = _counted(stepper, PARTS)
            floor = own.total + passes
            told = ", ".join(
                f"{part} {counts.total()}"
                for part, counts in sorted(whole.counts.items(), key=lambda item: -item[1].total())
            )
            note = f"{told}; the student's step {own.total}, plain passes {passes}"
            found.append(
                Row(
                    f"operators of a step of `{arm}`, {name}",
                    whole.total,
                    "",
                    "student's step + plain `extract_feat` of the teachers",
                    floor,
                    whole.total / floor,
                    Target("at most", ARMS[kind]),
                    note,
                )
            )
            waits = sum(n.total() for part, n in whole.waits.items() if part not in OWN)
            waits -= sum(n.total() for part, n in own.waits.items() if part not in OWN)
            found.append(Row(f"waits for a GPU in a step of `{arm}`, beyond the student's own, {name}", waits, ""))
    return found


def _counted(stepper: Any, parts: Parts) -> Operators:
    stepper()  # once before: constants are made, and the optimiser's state
    return count(stepper, parts)
