"""Attention of a feature map over places and channels, as FGD defines it.

References:
    [1] Focal and Global Knowledge Distillation for Detectors, CVPR 2022, equations 2 to 5,
        https://arxiv.org/abs/2111.11837
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mutineck.distillation.losses.maps import pieces, total, widen


class Strength(NamedTuple):
    """Mean |F| of each place over channels, `(N, H, W)`, and of each channel over places, `(N, C)`."""

    places: Tensor
    channels: Tensor


class Attention(NamedTuple):
    """Where and in which channels a map is strong: spatial `(N, H, W)`, mean 1; channel `(N, C)`, mean 1."""

    spatial: Tensor
    channel: Tensor


@torch.no_grad()
def strength_of(features: Tensor) -> Strength:
    """Return the strength of a map `(N, C, H, W)` of any float type, in float32 or wider; it takes no gradient."""
    n, c, height, width = features.shape
    flat = features.flatten(2)
    numbers = widen(features.new_empty(0))
    places, channels = numbers.new_empty(n, height * width), numbers.new_zeros(n, c)
    for part in pieces(flat):
        strong = widen(flat[:, :, part]).abs()
        places[:, part] = strong.sum(dim=1)
        channels += strong.sum(dim=2)
    return Strength((places / c).view(n, height, width), channels / (height * width))


def attend(strength: Strength, temperature: float) -> Attention:
    """Return `HW softmax_ij(mean_c |F| / T)` and `C softmax_c(mean_ij |F| / T)`.

    Args:
        strength: of a map; takes gradient.
        temperature: T, above 0.
    """
    places, channels = (part / temperature for part in strength)
    spatial = places[0].numel() * places.flatten(1).softmax(dim=1)
    return Attention(spatial.view_as(places), channels.shape[1] * channels.softmax(dim=1))


def attention_distance(student: Attention, teacher: Attention, pictures: Tensor | None = None) -> Tensor:
    """Return `(1/N) (|A^S_T - A^S_S|_1 + |A^C_T - A^C_S|_1)`, a scalar; the teacher takes no gradient.

    Each picture counts by its weight if there are `pictures` `(N,)`.
    """
    spatial = total((teacher.spatial.detach() - student.spatial).abs(), pictures)
    channel = total((teacher.channel.detach() - student.channel).abs(), pictures)
    return (spatial + channel) / len(student.spatial)
