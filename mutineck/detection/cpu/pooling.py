"""RoIAlign as sums of rows: a bin's value is a few cells' channels, each times a weight, and so are the gradients.

Read channels-last, a map is a table with a row a cell, and pooling is what embedding bags do: sum chosen rows by
weights. Back, a cell's gradient is a sum of bins' rows, with the same weights in the order of cells. Both run at the
speed of memory; loops over channels, bins and samples take five to ten times as long.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def install() -> None:
    """Put `pool` in the place of the forward pass of mmcv's `RoIAlign`."""
    from mmcv.ops import RoIAlign

    RoIAlign.forward = functools.partialmethod(pool, RoIAlign.forward)


def pool(layer: Any, published: Any, maps: Tensor, regions: Tensor) -> Tensor:
    """Return what mmcv's `RoIAlign` returns, to rounding.

    Args:
        layer: mmcv's.
        published: its `forward`, for what `align_rows` does not do.
        maps: `(N, C, H, W)`.
        regions: `(R, 5)` as `(image, x_min, y_min, x_max, y_max)`, pixels.
    """
    suits = layer.sampling_ratio > 0 and layer.pool_mode == "avg" and layer.aligned
    if not suits or maps.device.type != "cpu" or maps.dtype != torch.float32:
        return published(layer, maps, regions)
    return align_rows(maps, regions, layer.output_size, layer.spatial_scale, layer.sampling_ratio)


def align_rows(maps: Tensor, regions: Tensor, size: tuple[int, int], scale: float, samples: int) -> Tensor:
    """Return RoIAlign (`aligned=True`, mean of samples) of regions on maps in the CPU's memory.

    Args:
        maps: `(N, C, H, W)` float32.
        regions: `(R, 5)` as `(image, x_min, y_min, x_max, y_max)`, pixels; they take no gradient.
        size: bins `(h, w)` of a region.
        scale: cells a pixel.
        samples: of a bin along each axis.

    Returns:
        `(R, C, h, w)`.
    """
    found: Tensor = _AlignRows.apply(maps, regions.detach(), size, scale, samples)
    return found


class _AlignRows(torch.autograd.Function):
    """`align_rows`; T taps a bin, B = R h w bins."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, regions: Tensor, size: tuple[int, int], scale: float, samples: int) -> Tensor:
        n, c, height, width = maps.shape
        high, wide = size
        corners = regions[:, 1:] * scale - 0.5  # cells, from the middle of the first one
        x, across = _taps(corners[:, 0], corners[:, 2], width, wide, samples)
        y, down = _taps(corners[:, 1], corners[:, 3], height, high, samples)
        y = y * width + (regions[:, 0].int() * (height * width))[:, None, None]
        shape = len(regions) * high * wide, (2 * samples) ** 2  # (B, T)
        index = (y[:, :, None, :, None] + x[:, None, :, None, :]).view(shape)
        weight = (down[:, :, None, :, None] * across[:, None, :, None, :]).view(shape)
        rows = maps.permute(0, 2, 3, 1).reshape(-1, c)
        pooled = functional.embedding_bag(index, rows, mode="sum", per_sample_weights=weight)
        ctx.save_for_backward(index, weight)
        ctx.maps = n, c, height, width
        return pooled.view(len(regions), high * wide, c).transpose(1, 2).reshape(len(regions), c, high, wide)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        index, weight = ctx.saved_tensors
        n, c, height, width = ctx.maps
        rows = gradient.flatten(2).transpose(1, 2).reshape(-1, c)  # (B, C)
        cells = index.flatten()
        order = cells.sort(stable=True).indices
        counts = torch.bincount(cells, minlength=n * height * width)
        found = functional.embedding_bag(
            (order // index.shape[1]).int(),
            rows,
            (counts.cumsum(0) - counts).int(),
            mode="sum",
            per_sample_weights=weight.flatten()[order],
        )
        return found.view(n, height, width, c).permute(0, 3, 1, 2), None, None, None, None


def _taps(first: Tensor, last: Tensor, cells: int, bins: int, samples: int) -> tuple[Tensor, Tensor]:
    """Return which cells of a row each bin of each region reads, and what each of them counts.

    Args:
        first: `(R,)` start of each region, in cells from the middle of the first one.
        last: `(R,)` its end.
        cells: in the row.
        bins: of a region.
        samples: of a bin, each between two cells.

    Returns:
        Indices int32 and weights float32, `(R, bins, 2 samples)` each.
    """
    side = ((last - first) / bins)[:, None, None]
    bin_, sample = torch.arange(bins, dtype=first.dtype)[:, None], torch.arange(samples, dtype=first.dtype) + 0.5
    places = first[:, None, None] + bin_ * side + sample * side / samples  # (R, bins, samples), as torchvision has them
    counts = ((places >= -1) & (places <= cells)) / samples
    places = places.clamp(0, cells - 1)
    lower = places.floor()
    part = places - lower
    weights = torch.stack([1 - part, part], dim=-1) * counts[..., None]
    index = torch.stack([lower, (lower + 1).clamp(max=cells - 1)], dim=-1).int()
    return index.flatten(2), weights.flatten(2)
