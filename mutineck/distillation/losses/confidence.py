"""Confidence of teachers: who errs less on the ground truth is listened to more.

References:
    [1] Confidence-Aware Multi-Teacher Knowledge Distillation, ICASSP 2022, equation 3,
        https://arxiv.org/abs/2201.00007
"""

from __future__ import annotations

import torch
from torch import Tensor

from mutineck.distillation.losses.maps import widen


@torch.no_grad()
def ca_mkd_weights(losses: Tensor) -> Tensor:
    """Return `(1 - softmax(losses)) / (n - 1)`, the weights of n teachers; their sum is 1.

    Args:
        losses: `(..., n)`, each teacher's loss against the ground truth.

    Returns:
        `(..., n)`, float32 or wider, without gradient; 1 for a single teacher.

    Raises:
        ValueError: if there is no teacher.
    """
    if losses.dim() == 0 or losses.shape[-1] == 0:
        raise ValueError(f"losses must be (..., n) of at least one teacher, got {tuple(losses.shape)}")
    losses = widen(losses)
    if losses.shape[-1] == 1:
        return torch.ones_like(losses)
    return (1 - losses.softmax(dim=-1)) / (losses.shape[-1] - 1)
