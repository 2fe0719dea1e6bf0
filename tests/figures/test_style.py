"""Colours that stay what they are and can be told apart."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb

from mutineck.figures.style import (
    _perceived,
    arm_colours,
    category_colours,
    distinct_colours,
    in_words,
    new_figure,
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


def test_letters_that_no_font_has_are_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    figure = new_figure(2, 1)
    figure.subplots().set_title("US$ 5/10 $ \U00012000\U00012000")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure._repr_png_()
    told = capsys.readouterr().out
    assert (
        told.startswith("this figure: no font here has '\U00012000', so they are drawn as boxes")
        and told.count("\n") == 1
    )


def test_a_dollar_sign_is_a_letter() -> None:
    widths = []
    for title in ("US$ 5/10 $", "US 5/10"):
        figure = new_figure(4, 1)
        text = figure.text(0, 0, title)
        widths.append(text.get_window_extent(FigureCanvasAgg(figure).get_renderer()).width)
    assert widths[0] > 1.15 * widths[1]
