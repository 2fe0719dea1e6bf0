"""What every feature loss does first: compare the shapes, widen the numbers, detach the teacher."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

PIECE = {"cpu": 1 << 18, "cuda": 1 << 24}
"""Numbers of a map that are worked on at once: a core's cache, and enough to keep a GPU busy."""


def widen(tensor: Tensor) -> Tensor:
    """Return the tensor in float32 if it is narrower; sums over a map overflow half precision."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def full_precision(tensor: Tensor) -> torch.autocast:
    """Return a context in which autocast on the tensor's device is off."""
    return torch.autocast(tensor.device.type, enabled=False)


def map_pair(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Return student and teacher maps in float32 or wider, the teacher without gradient.

    Args:
        student: `(N, C, H, W)`.
        teacher: `(N, C, H, W)`.

    Raises:
        ValueError: if a map is not four-dimensional or the shapes differ.
    """
    if student.dim() != 4 or student.shape != teacher.shape:
        raise ValueError(
            "student and teacher maps must share one shape (N, C, H, W), got "
            f"{tuple(student.shape)} and {tuple(teacher.shape)}; where only the channels differ, "
            "pass the student's map through a 1x1 convolution first"
        )
    return widen(student), widen(teacher.detach())


def total(values: Tensor, pictures: Tensor | None) -> Tensor:
    """Return the sum of values `(N, ...)`, of each picture times its weight if there are `pictures` `(N,)`."""
    return values.sum() if pictures is None else (values.flatten(1).sum(dim=1) * pictures).sum()


def pieces(maps: Tensor) -> Iterator[slice]:
    """Yield slices that cover the places P of maps `(N, C, P)`, so few at a time that a pass stays in the cache."""
    n, c, places = maps.shape
    step = max(16, PIECE.get(maps.device.type, PIECE["cuda"]) // max(1, n * c))
    for first in range(0, places, step):
        yield slice(first, first + step)
