"""Pearson Knowledge Distillation (PKD): half the squared error of per-channel z-scores.

    0.5 mean (z(F_S) - z(F_T))^2,  z over (N, H, W) of each channel; close to 1 - Pearson's r

References:
    [1] PKD: General Distillation Framework for Object Detectors via Pearson Correlation Coefficient,
        NeurIPS 2022, equations 3 to 5, https://arxiv.org/abs/2207.02039
"""

from __future__ import annotations

from torch import Tensor, nn

from mutineck.distillation.losses.maps import map_pair, total

PUBLISHED_WEIGHT = 6.0


def standardised(features: Tensor) -> Tensor:
    """Return the z-scores of each channel over images and cells of a map `(N, C, H, W)`; 0 if constant."""
    count = features.numel() // features.shape[1]
    axes = (0, 2, 3)
    mean = features.mean(dim=axes, keepdim=True)
    variance = features.var(dim=axes, correction=min(1, count - 1), keepdim=True)
    # The published code divides by std + 1e-6; under the root, a constant channel's gradient stays finite.
    return (features - mean) / (variance + 1e-12).sqrt()


class PKDLoss(nn.Module):
    """PKD of one level, unweighted; has no parameters and does not see a channel's scale or offset."""

    def forward(self, student: Tensor, teacher: Tensor, pictures: Tensor | None = None) -> Tensor:
        """Return the loss, a scalar.

        Args:
            student: `(N, C, H, W)`, after its channel adapter.
            teacher: `(N, C, H, W)`; takes no gradient.
            pictures: `(N,)`, what each picture counts; 1 if None.
        """
        student, teacher = map_pair(student, teacher)
        squares = (standardised(student) - standardised(teacher)).square()
        return 0.5 * (squares.mean() if pictures is None else total(squares, pictures) / squares.numel())
