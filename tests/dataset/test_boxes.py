from __future__ import annotations

import math

import pytest

from mutineck.dataset.boxes import (
    NOT_FINITE,
    OUTSIDE,
    PARTLY_OUTSIDE,
    ZERO_AREA,
    bbox_to_corners,
    clip_bbox,
    corners_to_bbox,
    order_corners,
)


@pytest.mark.parametrize(
    ("corners", "offset", "bbox"),
    [
        pytest.param((1, 1, 10, 20), 1, [0, 0, 10, 20], id="first pixel of VOC is 1, the last one counts"),
        pytest.param((5, 6, 6, 7), 1, [4, 5, 2, 2], id="two pixels wide"),
        pytest.param((0, 0, 10, 20), 0, [0, 0, 10, 20], id="edges from 0"),
        pytest.param((45.7, 1.25, 99.3, 8.5), 1, [44.7, 0.25, 54.6, 8.25], id="fractions"),
    ],
)
def test_corners_become_boxes_and_back(corners, offset, bbox):
    assert corners_to_bbox(corners, offset) == bbox
    assert bbox_to_corners(bbox, offset) == list(corners)


@pytest.mark.parametrize(
    ("corners", "ordered", "swapped"),
    [
        pytest.param((1, 2, 3, 4), (1, 2, 3, 4), False, id="in order"),
        pytest.param((3, 2, 1, 4), (1, 2, 3, 4), True, id="x swapped"),
        pytest.param((3, 4, 1, 2), (1, 2, 3, 4), True, id="both swapped"),
        pytest.param((1, 4, 3, 2), (1, 2, 3, 4), True, id="y swapped"),
    ],
)
def test_corners_are_ordered(corners, ordered, swapped):
    assert order_corners(corners) == (ordered, swapped)


@pytest.mark.parametrize(
    ("bbox", "expected", "reason"),
    [
        pytest.param([0, 0, 40, 30], [0, 0, 40, 30], None, id="the whole image"),
        pytest.param([-3, 5, 10, 10], [0, 5, 7, 10], PARTLY_OUTSIDE, id="over the left border"),
        pytest.param([35, 25, 10, 10], [35, 25, 5, 5], PARTLY_OUTSIDE, id="over the corner"),
        pytest.param([40, 0, 5, 5], None, OUTSIDE, id="begins where the image ends"),
        pytest.param([-5, 0, 5, 5], None, OUTSIDE, id="ends where the image begins"),
        pytest.param([4, 4, 0, 5], None, ZERO_AREA, id="no width"),
        pytest.param([4, 4, 5, -1], None, ZERO_AREA, id="negative height"),
        pytest.param([4, 4, math.nan, 5], None, NOT_FINITE, id="not a number"),
        pytest.param([4, 4, math.inf, 5], None, NOT_FINITE, id="infinite"),
    ],
)
def test_boxes_are_cut_at_the_border(bbox, expected, reason):
    assert clip_bbox(bbox, 40, 30) == (expected, reason)


def test_a_tolerated_overhang_is_left_as_it_is():
    assert clip_bbox([30, 0, 10.7, 5], 40, 30, tolerance=1) == ([30, 0, 10.7, 5], None)
    assert clip_bbox([30, 0, 11.2, 5], 40, 30, tolerance=1) == ([30, 0, 10, 5], PARTLY_OUTSIDE)
