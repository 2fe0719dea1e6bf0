"""Box-to-cell arithmetic against counting by hand."""

from __future__ import annotations

import pytest
import torch

from mutineck.detection.cells import (
    box_levels,
    cell_masks,
    cell_maximum,
    cell_ranges,
    pad_boxes,
    spread,
)


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        pytest.param((8.0, 4.0, 16.0, 12.0), (1, 2, 3, 4), id="on cell borders the end cell belongs to it"),
        pytest.param((9.0, 5.0, 10.0, 6.0), (1, 2, 2, 3), id="smaller than a cell"),
        pytest.param((8.0, 4.0, 8.0, 4.0), (1, 2, 1, 2), id="a point covers one cell"),
        pytest.param((-9.0, -1.0, 5.0, 3.0), (0, 0, 1, 2), id="partly outside is clipped"),
        pytest.param((30.0, 20.0, 99.0, 99.0), (5, 7, 5, 7), id="the far corner is clipped"),
    ],
)
def test_ranges_are_floor_to_ceil_inclusive(box, expected):
    ranges = cell_ranges(torch.tensor([box]), stride=4, height=6, width=8)
    assert (ranges.top.item(), ranges.left.item(), ranges.bottom.item(), ranges.right.item()) == expected


@pytest.mark.parametrize(
    "box",
    [
        pytest.param((-40.0, 0.0, -8.0, 8.0), id="left"),
        pytest.param((0.0, 40.0, 8.0, 80.0), id="below"),
    ],
)
def test_a_box_beside_the_map_covers_nothing(box):
    boxes = torch.tensor([box])
    assert not cell_masks(boxes, 4, 6, 8).any()
    assert cell_ranges(boxes, 4, 6, 8).count.item() == 0


def test_masks_equal_a_loop_over_cells():
    boxes = torch.rand(2, 9, 4, generator=torch.Generator().manual_seed(0)) * 60 - 10
    boxes[..., 2:] = boxes[..., :2] + boxes[..., 2:].clamp(min=0)
    masks = cell_masks(boxes, 4, 7, 10)
    for n in range(2):
        for j in range(9):
            x1, y1, x2, y2 = (v.item() for v in boxes[n, j])
            for row in range(7):
                for column in range(10):
                    # In [floor(min), ceil(max)] means: less than a cell from the box on either side.
                    inside = x1 / 4 < column + 1 and column - 1 < x2 / 4
                    inside = inside and y1 / 4 < row + 1 and row - 1 < y2 / 4
                    assert masks[n, j, row, column].item() == inside
    assert torch.equal(cell_ranges(boxes, 4, 7, 10).count, masks.sum(dim=(2, 3)))


def test_half_precision_boxes_are_placed_as_well_as_their_numbers_allow():
    box = torch.tensor([[4.0, 4.0, 1001.0, 600.0]])
    for dtype in (torch.float16, torch.bfloat16):
        expected = cell_ranges(box.to(dtype).double(), 4, 200, 300)
        assert vars(cell_ranges(box.to(dtype), 4, 200, 300)) == vars(expected)


@pytest.mark.parametrize("count", [1, 9, 127, 300])
def test_the_highest_weight_in_every_cell_equals_a_maximum_over_masks(count):
    generator = torch.Generator().manual_seed(count)
    corner = torch.rand(2, count, 2, generator=generator) * 60 - 12  # some lie beside the map
    boxes = torch.cat([corner, corner + torch.rand(2, count, 2, generator=generator) * 30], dim=2)
    weights = torch.randint(0, 50, (2, count), generator=generator) / 50  # with ties and zeros
    ranges = cell_ranges(boxes, 4, 9, 12)
    expected = (cell_masks(boxes, 4, 9, 12) * weights[..., None, None]).amax(dim=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(cell_maximum(ranges, weights, 9, 12), expected)


def test_of_boxes_within_boxes_the_innermost_counts():
    steps = torch.arange(127.0)
    boxes = torch.stack([steps, steps, 508 - steps, 508 - steps], dim=1)[None]
    ranges = cell_ranges(boxes, 1, 508, 508)
    weights = 1.0 / ranges.count
    assert cell_maximum(ranges, weights, 508, 508)[0, 254, 254] == weights[0, -1]


def test_padding_boxes_keeps_every_box_and_marks_the_rest():
    boxes = [torch.rand(2, 4), torch.zeros(0, 4), torch.rand(3, 4)]
    padded, valid = pad_boxes(boxes)
    assert padded.shape == (3, 3, 4)
    assert valid.tolist() == [[True, True, False], [False] * 3, [True] * 3]
    assert torch.equal(padded[valid], torch.cat(boxes))
    assert pad_boxes([torch.zeros(0, 4)])[1].tolist() == [[False]]


def test_spread_divides_one_over_the_cells():
    cells = torch.zeros(2, 3, 4, dtype=torch.bool)
    cells[0, 1] = True
    weights = spread(cells)
    assert weights[0, 1].tolist() == [0.25] * 4
    assert weights[1].sum() == 0


@pytest.mark.parametrize(
    ("side", "strides", "expected"),
    [
        pytest.param(0, (4, 8, 16, 32), 4, id="empty box"),
        pytest.param(111, (4, 8, 16, 32), 4, id="just under two times 56"),
        pytest.param(112, (4, 8, 16, 32), 8, id="two times 56"),
        pytest.param(300, (4, 8, 16, 32), 16, id="300 pixels"),
        pytest.param(5000, (4, 8, 16, 32), 32, id="clamped to the coarsest"),
        pytest.param(60, (8, 16, 32, 64, 128), 8, id="a pyramid without stride 4 clamps to its finest"),
        pytest.param(300, (8, 16, 32, 64, 128), 16, id="shared strides pool alike"),
    ],
)
def test_levels_go_by_size_and_stride(side, strides, expected):
    index = box_levels(torch.tensor([[5.0, 7.0, 5.0 + side, 7.0 + side]]), strides)
    assert strides[index.item()] == expected


@pytest.mark.parametrize("strides", [(), (8, 4), (4, 4)], ids=["none", "falling", "twice"])
def test_strides_that_do_not_rise_are_refused(strides):
    with pytest.raises(ValueError, match="strides must rise"):
        box_levels(torch.zeros(1, 4), strides)


def test_boxes_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"\(3, 5\)"):
        cell_ranges(torch.zeros(3, 5), 4, 6, 8)
