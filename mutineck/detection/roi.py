"""Instance vectors: what a pyramid of feature maps says about a box, pooled to one size.

The features stage writes these vectors and the centroid loss compares with them, so both call this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torchvision.ops import roi_align

from mutineck.detection.cells import box_levels

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
    strides = sorted(maps)
    shapes = {(len(maps[s]), maps[s].shape[1]) for s in strides}
    if len(shapes) != 1 or {n for n, _ in shapes} != {len(boxes)}:
        raise ValueError(
            f"maps must share images and channels with boxes of {len(boxes)} images, got "
            f"{ {s: tuple(maps[s].shape) for s in strides} }"
        )
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


def instance_vectors(maps: Mapping[int, Tensor], boxes: Sequence[Tensor], *, output: int = 7) -> Tensor:
    """Return the mean over cells `(J, C)` of `instance_features`."""
    return instance_features(maps, boxes, output=output).mean(dim=(2, 3))
