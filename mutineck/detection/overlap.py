"""Boxes and points that lie in other boxes; boxes are `(x_min, y_min, x_max, y_max)`."""

from __future__ import annotations

import torch
from torch import Tensor

LEAST_PART = 0.5
"""Part of a box that has to lie in another: COCO's evaluation takes a detection for a crowd's from 0.5 on."""


@torch.no_grad()
def lies_in(boxes: Tensor, others: Tensor) -> Tensor:
    """Return which boxes `(n, 4)` lie to a half or more in one of the others `(m, 4)`: `(n,)` bool."""
    from mmdet.core import bbox_overlaps

    return (bbox_overlaps(boxes, others, mode="iof") >= LEAST_PART).any(dim=1)


@torch.no_grad()
def holds(boxes: Tensor, points: Tensor) -> Tensor:
    """Return which points `(n, 2)` lie in one of the boxes `(m, 4)`: `(n,)` bool."""
    low, high = boxes[:, None, :2], boxes[:, None, 2:]
    return ((points >= low) & (points <= high)).all(dim=2).any(dim=0)
