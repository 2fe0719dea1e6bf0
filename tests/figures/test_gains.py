"""The figure of several studies shows the numbers of their tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from mutineck.figures.gains import gains, save_gains
from mutineck.figures.style import GREY, OKABE_ITO
from tests.ablations.test_studies import ARMS, results


def test_each_panel_shows_the_paired_differences() -> None:
    figure = gains([results(), results("two", ARMS | {"mutineck": (0.30, 0.31, 0.30)})])
    panels = {axis.get_title().replace("\n", " "): axis for axis in figure.axes}
    assert list(panels) == ["student alone", "best single teacher's"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["one", "two"]
    one, two = panels["best single teacher's"].containers
    (line, _, (bar,)) = one.lines
    difference = np.subtract(ARMS["mutineck"], ARMS["fgd:good"])
    low, high = stats.t.interval(0.95, 2, loc=difference.mean(), scale=stats.sem(difference))
    assert line.get_xdata() == pytest.approx([5.0])
    assert bar.get_segments()[0][:, 0] == pytest.approx([100 * low, 100 * high])
    assert (line.get_color(), two.lines[0].get_color()) == (OKABE_ITO[0], GREY)


def test_the_same_results_give_the_same_file(tmp_path: Path) -> None:
    first, second = (save_gains([results()], tmp_path / name).read_bytes() for name in ("a.png", "b.png"))
    assert first == second and first.startswith(b"\x89PNG")


def test_a_study_of_one_seed_has_no_line() -> None:
    figure = gains([results(), results("two", {"student": (0.2,), "mutineck": (0.3,)})])
    assert [len(axis.containers) for axis in figure.axes] == [2, 1]
