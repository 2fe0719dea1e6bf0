"""Instance vectors: what a pyramid of feature maps says about a box, pooled to one size.

The features stage writes these vectors and the centroid loss compares with them, so both call this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torchvision.ops import roi_align

from mutineck.detection.cells import box_levels, pad_boxes

SAMPLES = 2
"""Sampling points a bin and axis: fixed, so that cost and rounding do not depend on a box's size."""


def instance_features(maps: Mapping[int, Tensor], boxes: Sequence[Tensor], *, output: int = 7) -> Tensor:
    """Return the RoIAlign of each box on its own level.

    Args:
        maps: stride to `(N, C, H, W)`, one number of channels.
        boxes: for each of N images `(n, 4)` as `(x_min, y_min, x_max, y_max)`, input pixels.
        output: side of the pooled map.

    Returns:
        `(J, C, output, output)` float32 or wider, images in order, then boxes in order; J may be 0 and
        still carries a gradient (of zero) to every map.

    Raises:
        ValueError: if there is no map, or channels or images disagree in number.
    """
    strides = _check(maps, boxes)
    flat = torch.cat([b.reshape(-1, 4) for b in boxes]).float()
    counts = torch.tensor([len(b) for b in boxes], device=flat.device)
    image = torch.arange(len(boxes), device=flat.device).repeat_interleave(counts)
    rois = torch.cat([image[:, None].to(flat), flat], dim=1)  # (J, 5)
    level = box_levels(flat, strides)
    pooled, order = [], []
    for index, stride in enumerate(strides):
        chosen = (level == index).nonzero().squeeze(1)
        features = maps[stride].to(torch.promote_types(maps[stride].dtype, torch.float32))
        pooled.append(roi_align(features, rois[chosen].to(features), output, 1 / stride, SAMPLES, aligned=True))
        order.append(chosen)
    return torch.cat(pooled)[torch.cat(order).argsort()]


def _check(maps: Mapping[int, Tensor], boxes: Sequence[Tensor]) -> list[int]:
    """Return the strides, rising, of maps that belong to as many images as boxes do."""
    strides = sorted(maps)
    shapes = {(len(maps[s]), maps[s].shape[1]) for s in strides}
    if len(shapes) != 1 or {n for n, _ in shapes} != {len(boxes)}:
        raise ValueError(
            f"maps must share images and channels with boxes of {len(boxes)} images, got "
            f"{ {s: tuple(maps[s].shape) for s in strides} }"
        )
    return strides


def instance_vectors(maps: Mapping[int, Tensor], boxes: Sequence[Tensor], *, output: int = 7) -> Tensor:
    """Return the mean over cells `(J, C)` of `instance_features`, without pooling a box.

    The mean of RoIAlign's samples is linear in the map and a product of rows and columns, so all boxes of an image are
    one matrix product a level: several times as fast as sampling, forward and backward, and the same on each run on a
    GPU too.

    Args:
        maps: see `instance_features`.
        boxes: see `instance_features`.
        output: see `instance_features`.
    """
    strides = _check(maps, boxes)
    padded, valid = pad_boxes([b.float() for b in boxes])  # (N, J, 4), (N, J)
    level = box_levels(padded.flatten(0, 1), strides).view_as(valid)
    total: Tensor | float = 0.0
    for index, stride in enumerate(strides):
        features = maps[stride].to(torch.promote_types(maps[stride].dtype, torch.float32))
        scaled = padded.to(features) / stride - 0.5  # cells, from the middle of the first one
        here = (valid & (level == index))[..., None]
        columns = _sample_weights(scaled[..., 0], scaled[..., 2], features.shape[3], SAMPLES * output) * here
        rows = _sample_weights(scaled[..., 1], scaled[..., 3], features.shape[2], SAMPLES * output)
        with torch.autocast(features.device.type, enabled=False):
            across = torch.einsum("nchw,njw->nchj", features, columns)
        total = total + (across * rows.transpose(1, 2)[:, None]).sum(dim=2)  # (N, C, J)
    assert isinstance(total, Tensor)
    return total.transpose(1, 2)[valid]


def _sample_weights(first: Tensor, last: Tensor, cells: int, samples: int) -> Tensor:
    """Return what each of a row of cells counts in the mean of even, linearly interpolated samples `(..., cells)`.

    Samples beyond the outermost middles take the outermost cell, and beyond that by a cell nothing, as in RoIAlign.

    Args:
        first: `(...)` start of each box, in cells from the middle of the first one.
        last: `(...)` its end.
        cells: in the row.
        samples: number of them.
    """
    steps = (torch.arange(samples, device=first.device, dtype=first.dtype) + 0.5) / samples
    places = first[..., None] + (last - first)[..., None] * steps  # (..., samples)
    counts = (places >= -1) & (places <= cells)
    middles = torch.arange(cells, device=first.device, dtype=first.dtype)
    nearness = 1 - (places.clamp(0, cells - 1)[..., None] - middles).abs()  # (..., samples, cells)
    return (nearness.clamp(min=0) * counts[..., None]).mean(dim=-2)
