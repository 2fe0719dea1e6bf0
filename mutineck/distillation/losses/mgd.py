"""Masked Generative Distillation (MGD): the student's map, partly hidden, must generate the teacher's.

    (1/N) ||F_T - G(F_S * keep)||^2,  G = conv3x3 - ReLU - conv3x3,  keep a random cell mask

References:
    [1] Masked Generative Distillation, ECCV 2022, equations 2 to 5, https://arxiv.org/abs/2205.01529
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mutineck.distillation.losses.maps import full_precision, map_pair, total

PUBLISHED_WEIGHTS = {"one_stage": 2e-5, "two_stage": 5e-7}
PUBLISHED_MASK_RATIOS = {"one_stage": 0.65, "two_stage": 0.45}


class MGDLoss(nn.Module):
    """MGD of one level, unweighted.

    Args:
        channels: of the teacher's map and of the student's after its adapter.
        mask_ratio: part of the cells that is hidden, in [0, 1).
    """

    def __init__(self, channels: int, *, mask_ratio: float = 0.65) -> None:
        super().__init__()
        if not 0 <= mask_ratio < 1:
            raise ValueError(f"mask_ratio must lie in [0, 1), got {mask_ratio}")
        self.mask_ratio = mask_ratio
        self.generation = nn.Sequential(
            nn.Conv2d(channels, channels, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, kernel_size=3, padding=1),
        )

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        pictures: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return the loss, a scalar.

        Args:
            student: `(N, C, H, W)`, after its channel adapter.
            teacher: `(N, C, H, W)`; takes no gradient.
            pictures: `(N,)`, what each picture counts; 1 if None.
            generator: draws the mask, on its own device; torch's global one if None, which shifts every
                later random number of the run.
        """
        student, teacher = map_pair(student, teacher)
        n, _, height, width = student.shape
        device = student.device if generator is None else generator.device
        keep = torch.rand(n, 1, height, width, generator=generator, device=device) >= self.mask_ratio
        with full_precision(student):
            generated = self.generation(student * keep.to(student.device))
            return total((generated - teacher).square(), pictures) / n
