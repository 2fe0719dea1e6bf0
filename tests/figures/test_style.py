"""Colours that stay what they are and can be told apart."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from mutineck.figures.style import (
    _perceived,
    arm_colours,
    category_colours,
    distinct_colours,
    in_words,
)


def test_few_colours_are_a_prefix_of_many() -> None:
    assert distinct_colours(80)[:20] == distinct_colours(20)
    assert len(set(distinct_colours(80))) == 80


@pytest.mark.parametrize(("count", "least"), [(8, 0.07), (20, 0.06), (80, 0.02)])
def test_colours_can_be_told_apart(count: int, least: float) -> None:
    rgb = np.array([to_rgb(colour) for colour in distinct_colours(count)])
    seen = _perceived(rgb).transpose(1, 0, 2)  # normal, deuteranopic, protanopic
    distances = np.linalg.norm(seen[:, :, None] - seen[:, None], axis=-1)
    distances[:, np.arange(count), np.arange(count)] = np.inf
    assert distances.min() > least


def test_white_and_black_are_seen_as_such() -> None:
    seen = _perceived(np.array([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]))
    assert seen[0] == pytest.approx(0, abs=1e-6)
    assert seen[1, 0] == pytest.approx([1, 0, 0], abs=1e-3)


def test_categories_keep_their_colour_in_the_data_sets_order() -> None:
    assert category_colours(["a", "b"])["b"] == category_colours(["a", "b", "c"])["b"]


def test_student_is_grey_and_no_arm_black() -> None:
    colours = arm_colours(["student", *(f"arm{i}" for i in range(12))])
    assert colours["student"] == "#6E6E6E"
    assert "#000000" not in colours.values()
    assert len(set(colours.values())) == 13


@pytest.mark.parametrize(
    ("names", "words"), [([], "none"), (["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c")]
)
def test_in_words(names: list[str], words: str) -> None:
    assert in_words(names) == words
