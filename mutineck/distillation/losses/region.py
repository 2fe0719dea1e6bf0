"""The region loss: FGD's difference under centre, boundary and background of stacked proposals.

With F_m the merged map, F_s the student's, A^S, A^C the attentions of F_m:

    centre     = (1/N) sum M_centre     A^S A^C (F_m - F_s)^2
    boundary   = (1/N) sum M_boundary   A^S A^C (F_m - F_s)^2
    background = (1/N) sum M_background A^S A^C (F_m - F_s)^2

and FGD's attention and global terms: `FGDLoss` under the masks below. With one teacher, no proposals and rho = 0 this
is FGD.

References:
    [1] Central and Directional Multi-neck Knowledge Distillation, PRCV 2023,
        https://doi.org/10.1007/978-981-99-8540-1_38 (centre, boundary and background; the formulas are ours)
    [2] Focal and Global Knowledge Distillation for Detectors, CVPR 2022, https://arxiv.org/abs/2111.11837
"""

from __future__ import annotations

from torch import Tensor

from mutineck.teachers.regions import DEFAULT_SETTINGS, RegionSettings, Targets, build_regions


def region_masks(
    targets: Targets, stride: int, size: tuple[int, int], settings: RegionSettings = DEFAULT_SETTINGS
) -> dict[str, Tensor]:
    """Return the masks `centre`, `boundary` and `background` of a batch on one level, `(N, H, W)` each, disjoint.

    Args:
        targets: of `match_batch`.
        stride: pixels a cell.
        size: `(H, W)` of the map.
        settings: thresholds of the regions.
    """
    regions = build_regions(targets, size, stride, settings)
    return {"centre": regions.centre, "boundary": regions.boundary, "background": regions.background}
