"""RoI pooling of a network that is never trained, without what training needs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def inference_extractor(extractor: Any) -> nn.Module:
    """Return the inference-only version of an extractor, or of each of several; the extractor itself if it has none."""
    from mmdet.models.roi_heads import SingleRoIExtractor

    if isinstance(extractor, nn.ModuleList):
        return nn.ModuleList(inference_extractor(each) for each in extractor)
    return InferenceExtractor(extractor) if type(extractor) is SingleRoIExtractor else extractor


class InferenceExtractor(nn.Module):
    """What `SingleRoIExtractor` returns where no gradient is asked for.

    mmdet's adds zero times every map to the pooled regions, once for each level that has none, so that each map takes
    part in a training step; without gradients that is nothing but time: as much as the pooling itself.

    Args:
        extractor: mmdet's.
    """

    def __init__(self, extractor: Any) -> None:
        super().__init__()
        self.layers = extractor.roi_layers
        self.levels_of = extractor.map_roi_levels
        self.rescale = extractor.roi_rescale
        self.num_inputs = extractor.num_inputs

    def forward(self, features: tuple[Tensor, ...], regions: Tensor, roi_scale_factor: float | None = None) -> Tensor:
        """Return the pooled regions `(R, C, h, w)`.

        Args:
            features: maps `(N, C, H, W)` by level.
            regions: `(R, 5)` as `(image, x_min, y_min, x_max, y_max)`, pixels; R above 0.
            roi_scale_factor: regions are made so much larger about their centres, on the levels that they were of; as
                in mmdet, not where there is a single level.
        """
        level = self.levels_of(regions, len(features))
        if roi_scale_factor is not None and len(features) > 1:
            regions = self.rescale(regions, roi_scale_factor)
        order = level.argsort(stable=True)
        counts = torch.bincount(level, minlength=len(features)).tolist()
        parts = zip(self.layers, features, regions[order].split(counts), strict=False)
        pooled = [layer(own, chosen) for layer, own, chosen in parts if len(chosen)]
        return pooled[0] if len(pooled) == 1 else torch.cat(pooled)[order.argsort()]
