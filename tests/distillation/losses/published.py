"""FGD's masks as its published code draws them, written again from its lines, number by number.

It finds cells by the image's size and not by the stride, which stretches boxes over the padding of a batch, and divides
by a box's cells on and off the map.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def published_masks(boxes: Sequence[Tensor], image_sizes: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
    """Return `foreground` and `background` `(N, H, W)` float64.

    Args:
        boxes: for each image `(n, 4)` as `(x_min, y_min, x_max, y_max)`, pixels.
        image_sizes: `(N, 2)` as `(height, width)`, without padding.
        size: `(H, W)` of the map.
    """
    h, w = size
    foreground = torch.zeros(len(boxes), h, w, dtype=torch.float64)
    for i, (height, width) in enumerate(image_sizes.tolist()):
        for x1, y1, x2, y2 in boxes[i].tolist():
            left, right = math.floor(x1 / width * w), math.ceil(x2 / width * w)
            top, bottom = math.floor(y1 / height * h), math.ceil(y2 / height * h)
            for y in range(max(top, 0), min(bottom, h - 1) + 1):
                for x in range(max(left, 0), min(right, w - 1) + 1):
                    area = (right + 1 - left) * (bottom + 1 - top)
                    foreground[i, y, x] = max(foreground[i, y, x].item(), 1 / area)
    background = (foreground == 0).double()
    return {"foreground": foreground, "background": background / background.sum(dim=(1, 2), keepdim=True).clamp(min=1)}


def as_published(boxes: Tensor, image_sizes: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
    """Return boxes `(N, J, 4)` moved so that their cells by the stride are those that the published code finds."""
    sides = image_sizes[:, None, [1, 0, 1, 0]].to(boxes)
    return boxes / sides * boxes.new_tensor([size[1], size[0], size[1], size[0]]) * stride
