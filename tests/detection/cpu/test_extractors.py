"""Pooling of a network that only looks, against mmdet's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mutineck.detection.compat import prepare
from mutineck.detection.cpu.extractors import InferenceExtractor, inference_extractor

BOXES = {
    "every_level": [20, 60, 130, 200, 300, 500, 30, 250],
    "one_level": [20, 30, 50],
    "coarse_levels_alone": [300, 520],
}


def extractor() -> nn.Module:
    prepare()
    from mmdet.models.roi_heads import SingleRoIExtractor

    layer = {"type": "RoIAlign", "output_size": 7, "sampling_ratio": 2}
    return SingleRoIExtractor(layer, out_channels=3, featmap_strides=[4, 8, 16, 32]).eval()


@pytest.mark.parametrize("name", sorted(BOXES))
def test_regions_are_pooled_as_mmdet_pools_them_and_in_their_order(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    maps = tuple(torch.randn(2, 3, 640 // s, 640 // s, generator=generator) for s in (4, 8, 16, 32))
    sides = torch.tensor(BOXES[name], dtype=torch.float32)
    corners = torch.rand(len(sides), 2, generator=generator) * 100
    image = torch.arange(len(sides)).float() % 2
    regions = torch.cat([image[:, None], corners, corners + sides[:, None]], dim=1)
    theirs = extractor()
    with torch.no_grad():
        assert torch.equal(inference_extractor(theirs)(maps, regions), theirs(maps, regions))
        # As the double head asks for the regions that it regresses on.
        larger = inference_extractor(theirs)(maps, regions, roi_scale_factor=1.3)
        assert torch.equal(larger, theirs(maps, regions, roi_scale_factor=1.3))
        assert torch.equal(
            inference_extractor(theirs)(maps[:1], regions, roi_scale_factor=1.3),
            theirs(maps[:1], regions, roi_scale_factor=1.3),
        )


def test_each_stage_of_a_cascade_is_taken_and_others_are_left() -> None:
    stages = inference_extractor(nn.ModuleList([extractor(), extractor()]))
    assert [type(stage) for stage in stages] == [InferenceExtractor, InferenceExtractor]
    other = nn.Identity()
    assert inference_extractor(other) is other
