"""The region loss: FGD's imitation, weighed by centre, boundary and background of stacked proposals.

With F_m the merged map, F_s the student's, A^S, A^C the attentions of F_m:

    centre     = (1/N) sum M_centre     A^S A^C (F_m - F_s)^2
    boundary   = (1/N) sum M_boundary   A^S A^C (F_m - F_s)^2
    background = (1/N) sum M_background A^S A^C (F_m - F_s)^2

with the masks of `mutineck.teachers.regions`, and FGD's attention and global terms. With one
teacher, no proposals and rho = 0 this is FGD.

References:
    [1] Central and Directional Multi-neck Knowledge Distillation, PRCV 2023,
        https://doi.org/10.1007/978-981-99-8540-1_38 (centre, boundary and background; the formulas are ours)
    [2] Focal and Global Knowledge Distillation for Detectors, CVPR 2022, https://arxiv.org/abs/2111.11837
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from mutineck.distillation.losses.fgd import FGDWeights, FocalGlobal
from mutineck.teachers.regions import Regions


@dataclass(frozen=True)
class RegionWeights:
    """Weights of the region loss; the defaults are FGD's for Faster and Mask R-CNN."""

    alpha_centre: float = 5e-5
    alpha_boundary: float = 5e-5
    beta: float = 2.5e-5
    gamma: float = 5e-5
    lambda_: float = 5e-7
    temperature: float = 0.5

    @classmethod
    def from_fgd(cls, weights: FGDWeights) -> RegionWeights:
        """Return FGD's weights with alpha for centre and boundary alike."""
        return cls(
            alpha_centre=weights.alpha,
            alpha_boundary=weights.alpha,
            beta=weights.beta,
            gamma=weights.gamma,
            lambda_=weights.lambda_,
            temperature=weights.temperature,
        )

    def weigh(self, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the terms of `RegionLoss`, each times its weight."""
        weights = dict(
            centre=self.alpha_centre,
            boundary=self.alpha_boundary,
            background=self.beta,
            attention=self.gamma,
            **{"global": self.lambda_},
        )
        return {name: weights[name] * term for name, term in terms.items()}


class RegionLoss(nn.Module):
    """The region loss of one level: its five terms, unweighted.

    Args:
        channels: of the merged map and of the student's after its adapter.
        temperature: T of the attentions.
    """

    def __init__(self, channels: int, *, temperature: float = 0.5) -> None:
        super().__init__()
        self.compare = FocalGlobal(channels, temperature=temperature)

    def forward(self, student: Tensor, teacher: Tensor, regions: Regions) -> dict[str, Tensor]:
        """Return the scalars `centre`, `boundary`, `background`, `attention`, `global`, not weighted.

        Args:
            student: `(N, C, H, W)`, after its channel adapter.
            teacher: `(N, C, H, W)`, the merged map; takes no gradient.
            regions: of this level and batch.

        Raises:
            ValueError: if the maps differ in shape or the regions were built for another size.
        """
        return self.compare(student, teacher).under(regions.masks)
