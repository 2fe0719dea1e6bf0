"""Rows, their targets, their way to JSON and Markdown, and the turns in which runs are measured."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.processes import boxes_apart, gradients_apart, vectors_apart
from benchmarks.table import (
    Rounds,
    Row,
    Target,
    as_json,
    from_json,
    in_child,
    machine,
    markdown,
    peak_bytes,
    side_by_side,
)

ROWS = [
    Row("fast", 0.5, "s", "slow", 3.0, 6.0, Target("at least", 5)),
    Row("not fast", 1.0, "s", "slow", 3.0, 3.0, Target("at least", 5), "because"),
    Row("too much", 300.0, "MiB", target=Target("at most", 200)),
    Row("stated", 12.345, "s", "another", 10.0, 1.2345, note="no target"),
]


@pytest.mark.parametrize(
    ("row", "shortfall", "cells"),
    [
        (ROWS[0], 0.0, "fast | 500 ms | slow | 3 s | 6.00 | ≥ 5 | yes"),
        (ROWS[1], 0.4, "not fast | 1 s | slow | 3 s | 3.00 | ≥ 5 | no, by 40 %: because"),
        (ROWS[2], 0.5, "too much | 300 MiB |  |  |  | ≤ 200 MiB | no, by 50 %"),
        (ROWS[3], 0.0, "stated | 12.3 s | another | 10 s | 1.23 |  | no target"),
    ],
    ids=lambda value: value.name if isinstance(value, Row) else None,
)
def test_a_row_says_whether_its_target_is_met(row: Row, shortfall: float, cells: str) -> None:
    assert row.shortfall == pytest.approx(shortfall)
    assert markdown([row]).splitlines()[-1] == f"| {cells} |"
    assert from_json(as_json(row)) == row


def test_ratios_are_medians_over_rounds_and_not_ratios_of_medians() -> None:
    rounds = Rounds({"ours": [1.0, 2.0, 9.0], "loop": [2.0, 8.0, 9.0], "other": [1.0, 1.0, 1.0]})
    assert rounds.faster("x", "ours", "loop", 2.0) == Row("x", 2.0, "s", "loop", 8.0, 2.0, Target("at least", 2.0))
    assert rounds.longer("x", "ours", "loop").ratio == 0.5
    assert rounds.ratio("loop", "ours", "other") == pytest.approx(1.0)


def test_runs_take_turns_forth_and_back() -> None:
    called: list[str] = []
    found = side_by_side({name: lambda name=name: called.append(name) for name in "abc"}, rounds=3, warm=1)
    assert "".join(called) == "cba" + "abc" + "cba" + "abc"
    assert {name: len(seconds) for name, seconds in found.seconds.items()} == dict.fromkeys("abc", 3)


def test_peak_memory_counts_what_is_held_at_once() -> None:
    vector = torch.zeros(1000, 1000)

    def run() -> None:
        held = vector + 1
        del held
        assert (vector * 2 + vector).sum() == 0

    assert 8e6 <= peak_bytes(run) < 9e6


def test_a_child_returns_its_result() -> None:
    assert in_child(np.add, 2, 3) == 5


def test_the_machine_is_described_without_its_name() -> None:
    import platform

    assert platform.node() not in {str(value) for value in machine().values()}
    assert machine()["cores"] > 0


def test_results_of_processes_are_compared_target_by_target() -> None:
    one = {"w": torch.tensor([1.0, 4.0]), "small": torch.tensor([0.01])}
    two = {"w": torch.tensor([1.0, 3.0]), "small": torch.tensor([0.03])}
    assert gradients_apart(one, two) == pytest.approx(0.25)
    with pytest.raises(ValueError, match="other weights"):
        gradients_apart(one, {"w": two["w"]})
    rows = {"annotation_id": np.array([7, 3]), "vector": np.array([[1.0, -2.0], [0.0, 0.0]], np.float16)}
    swapped = {"annotation_id": np.array([3, 7]), "vector": np.array([[0.0, 0.5], [1.0, -2.0]], np.float16)}
    assert vectors_apart(rows, rows) == 0 and vectors_apart(rows, swapped) == 0.25
    with pytest.raises(ValueError, match="other targets"):
        vectors_apart(rows, {**swapped, "annotation_id": np.array([3, 8])})
    box = {"image_id": 1, "category_id": 2, "bbox": [0.0, 1.0, 2.0, 3.0]}
    assert boxes_apart([box], [{**box, "bbox": [0.0, 1.0, 2.5, 3.0]}]) == 0.5
    with pytest.raises(ValueError, match="1 and 2 boxes"):
        boxes_apart([box], [box, box])
