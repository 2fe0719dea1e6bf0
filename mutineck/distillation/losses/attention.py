"""Attention of a feature map over places and channels, as FGD defines it.

References:
    [1] Focal and Global Knowledge Distillation for Detectors, CVPR 2022, equations 2 to 5,
        https://arxiv.org/abs/2111.11837
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mutineck.distillation.losses.pair import full_precision, map_pair, widen


class Attention(NamedTuple):
    """Where and in which channels a map is strong: spatial `(N, H, W)`, mean 1; channel `(N, C)`, mean 1."""

    spatial: Tensor
    channel: Tensor


def spatial_attention(features: Tensor, temperature: float) -> Tensor:
    """Return `HW softmax_ij(mean_c |F| / T)`.

    Args:
        features: `(N, C, H, W)`, any float type.
        temperature: T, above 0.

    Returns:
        `(N, H, W)`, float32 or wider, mean 1 for each image.
    """
    n, _, height, width = features.shape
    strength = widen(features).abs().mean(dim=1).reshape(n, -1) / temperature
    return (height * width * strength.softmax(dim=1)).reshape(n, height, width)


def channel_attention(features: Tensor, temperature: float) -> Tensor:
    """Return `C softmax_c(mean_ij |F| / T)`.

    Args:
        features: `(N, C, H, W)`, any float type.
        temperature: T, above 0.

    Returns:
        `(N, C)`, float32 or wider, mean 1 for each image.
    """
    strength = widen(features).abs().mean(dim=(2, 3)) / temperature
    return features.shape[1] * strength.softmax(dim=1)


def attend(features: Tensor, temperature: float) -> Attention:
    """Return both attentions of a map `(N, C, H, W)`."""
    return Attention(spatial_attention(features, temperature), channel_attention(features, temperature))


def attended_error(student: Tensor, teacher: Tensor, attention: Attention) -> Tensor:
    """Return `sum_c A^S A^C (F_T - F_S)^2`, the squared error of each cell under the teacher's attention.

    Masks differ between losses, this map does not: it is made once and weighed several times.

    Args:
        student: `(N, C, H, W)`.
        teacher: `(N, C, H, W)`; takes no gradient.
        attention: of the teacher; takes no gradient.

    Returns:
        `(N, H, W)`, float32 or wider.
    """
    student, teacher = map_pair(student, teacher)
    with full_precision(student):
        squared = (teacher - student).square()
        error = torch.einsum("nc,nchw->nhw", attention.channel.detach().to(squared), squared)
        return error * attention.spatial.detach()


def attention_distance(student: Attention, teacher: Attention) -> Tensor:
    """Return `(1/N) (|A^S_T - A^S_S|_1 + |A^C_T - A^C_S|_1)`, a scalar; the teacher takes no gradient."""
    spatial = (teacher.spatial.detach() - student.spatial).abs().sum()
    channel = (teacher.channel.detach() - student.channel).abs().sum()
    return (spatial + channel) / len(student.spatial)
