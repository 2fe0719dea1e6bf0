"""Which cells of a feature map a box covers, and which level of a pyramid a box belongs to.

This is the only place that divides a box by a stride. Boxes are `(x_min, y_min, x_max, y_max)` in
pixels of the network's input, padding included; a cell's index is `(row, column)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

FINEST_SIDE = 56.0
"""A box under twice this side (pixels) is pooled from the stride-4 level, as in mmdet's RoI extractors."""
FLOAT_RANKS = 127
"""Powers of 4 that are normal numbers in float32."""


@dataclass(frozen=True)
class CellRanges:
    """Inclusive cell ranges of boxes, clipped to the map; empty where last < first.

    Each field is `(...)` int64, one entry a box.
    """

    top: Tensor
    left: Tensor
    bottom: Tensor
    right: Tensor

    def __getitem__(self, index: Any) -> CellRanges:
        """Return the ranges of some of the boxes."""
        return CellRanges(**{name: field[index] for name, field in vars(self).items()})

    @property
    def count(self) -> Tensor:
        """Number of cells of each box that lie on the map, `(...)` int64."""
        return (self.bottom - self.top + 1).clamp(min=0) * (self.right - self.left + 1).clamp(min=0)


def _check_boxes(boxes: Tensor) -> Tensor:
    if boxes.shape[-1:] != (4,):
        raise ValueError(f"boxes must be (..., 4) as (x_min, y_min, x_max, y_max), got {tuple(boxes.shape)}")
    # Half precision counts whole pixels only up to 2048: its floor and ceil would pick wrong cells.
    return boxes.to(torch.promote_types(boxes.dtype, torch.float32))


def cell_ranges(boxes: Tensor, stride: int, height: int, width: int) -> CellRanges:
    """Return the cells `floor(min / stride) .. ceil(max / stride)`, inclusive, of each box.

    Args:
        boxes: `(..., 4)` as `(x_min, y_min, x_max, y_max)` in pixels of the network's input.
        stride: pixels a cell.
        height: rows of the map.
        width: columns of the map.

    Returns:
        Ranges with fields `(...)`, clipped to the map, empty for a box beside it.

    Raises:
        ValueError: if the last dimension of `boxes` is not 4.
    """
    scaled = _check_boxes(boxes) / stride
    first, last = scaled[..., :2].floor().long(), scaled[..., 2:].ceil().long()  # each (..., 2) as x, y
    left, top = first.clamp(min=0).unbind(dim=-1)
    right, bottom = torch.minimum(last, last.new_tensor([width - 1, height - 1])).unbind(dim=-1)
    return CellRanges(top, left, bottom, right)


def cell_indicators(ranges: CellRanges, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return the two factors of the boxes' masks: rows `(..., H)` and columns `(..., W)`, bool.

    The mask of a box is their outer product, so sums over many boxes never need every mask.
    """
    rows = torch.arange(height, device=ranges.top.device)
    columns = torch.arange(width, device=ranges.top.device)
    in_rows = (rows >= ranges.top[..., None]) & (rows <= ranges.bottom[..., None])
    in_columns = (columns >= ranges.left[..., None]) & (columns <= ranges.right[..., None])
    return in_rows, in_columns


def range_masks(ranges: CellRanges, height: int, width: int) -> Tensor:
    """Return the masks `(..., H, W)` bool of cell ranges."""
    rows, columns = cell_indicators(ranges, height, width)
    return rows[..., :, None] & columns[..., None, :]


def cell_masks(boxes: Tensor, stride: int, height: int, width: int) -> Tensor:
    """Return for each box the map's cells it covers, `(..., H, W)` bool; see `cell_ranges`."""
    return range_masks(cell_ranges(boxes, stride, height, width), height, width)


def cell_maximum(ranges: CellRanges, weights: Tensor, height: int, width: int) -> Tensor:
    """Return in every cell the highest weight of the boxes that cover it, `(N, H, W)` float32; 0 where none does.

    No box's mask is made. The boxes of an image are ranked by weight and stand for powers of 4 in one product of
    matrices, rows by columns: the sum of all lower powers is below a third of the next one, so the exponent of a
    cell's number is the rank of its box of the highest weight.

    Args:
        ranges: with fields `(N, J)`.
        weights: `(N, J)`, not negative; 0 for a box that is only padding.
        height: rows of the map.
        width: columns of the map.
    """
    n, boxes = weights.shape
    if boxes > FLOAT_RANKS:  # more than the exponents of float32
        parts = [slice(first, first + FLOAT_RANKS) for first in range(0, boxes, FLOAT_RANKS)]
        found = [cell_maximum(ranges[:, part], weights[:, part], height, width) for part in parts]
        return torch.stack(found).amax(dim=0)
    ordered, order = weights.float().sort(dim=1)
    rank = order.argsort(dim=1) + 1
    power = (rank << 24).int().view(torch.float32)  # 4^(rank - 63.5): twice the rank as a float's exponent
    rows, columns = cell_indicators(ranges, height, width)
    with torch.autocast(weights.device.type, enabled=False):
        cells = (rows * power[..., None]).transpose(1, 2) @ columns.float()  # (N, H, W)
    place = cells.view(torch.int32).bitwise_right_shift_(24)  # half the exponent: a rank, 0 where no box is
    table = functional.pad(ordered, (1, 0))
    place += table.shape[1] * torch.arange(n, dtype=torch.int32, device=place.device)[:, None, None]
    return table.flatten().index_select(0, place.flatten()).view(n, height, width)


def spread(cells: Tensor) -> Tensor:
    """Return weights `(N, H, W)` float32 that divide mass 1 evenly over each image's cells; 0 if none.

    Args:
        cells: `(N, H, W)` bool.
    """
    mass = cells.float()
    return mass.div_(mass.sum(dim=(1, 2), keepdim=True).clamp(min=1))


def pad_boxes(boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Pad the images' boxes to one tensor.

    Args:
        boxes: for each of N images `(n, 4)`; n may be 0.

    Returns:
        boxes `(N, J, 4)`, zero where padded, and valid `(N, J)` bool; J is at least 1, so that a
        batch without boxes needs no branch of its own.
    """
    if not boxes:
        raise ValueError("boxes of at least one image are needed, got none")
    counts = torch.tensor([len(b) for b in boxes], device=boxes[0].device)
    padded = pad_sequence([b.reshape(-1, 4) for b in boxes], batch_first=True)
    if padded.shape[1] == 0:
        padded = padded.new_zeros(len(boxes), 1, 4)
    return padded, torch.arange(padded.shape[1], device=padded.device) < counts[:, None]


def box_levels(boxes: Tensor, strides: Sequence[int]) -> Tensor:
    """Return the index into `strides` of the level that each box is pooled from.

    The rule of FPN as mmdet applies it, `floor(log2(sqrt(wh) / 56))`, counts levels from stride 4;
    here it names a stride and the nearest one present is taken, so that two detectors that share a
    stride pool a box from it whatever their finest level is.

    Args:
        boxes: `(J, 4)` as `(x_min, y_min, x_max, y_max)` in pixels of the network's input.
        strides: the pyramid's strides, rising.

    Returns:
        `(J,)` int64.

    Raises:
        ValueError: if `strides` is empty or does not rise.
    """
    if not strides or sorted(set(strides)) != list(strides):
        raise ValueError(f"strides must rise and hold at least one, got {tuple(strides)}")
    boxes = _check_boxes(boxes)
    area = ((boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])).clamp(min=0)
    octave = torch.floor(torch.log2(area.sqrt() / FINEST_SIDE + 1e-6))  # 1e-6: mmdet's, and log2(0)
    present = torch.log2(torch.tensor(strides, dtype=octave.dtype, device=octave.device) / 4)
    return (octave[..., None] - present).abs().argmin(dim=-1)
