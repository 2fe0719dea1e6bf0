"""RoI pooling of a network that only looks, without what its training needs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def looking(extractor: Any) -> nn.Module:
    """Return an extractor's (or several extractors') stand-in for a network that only looks, itself if it has none."""
    from mmdet.models.roi_heads import SingleRoIExtractor

    if isinstance(extractor, nn.ModuleList):
        return nn.ModuleList(looking(each) for each in extractor)
    return LookingExtractor(extractor) if type(extractor) is SingleRoIExtractor else extractor


class LookingExtractor(nn.Module):
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
        self.num_inputs = extractor.num_inputs

    def forward(self, features: tuple[Tensor, ...], regions: Tensor) -> Tensor:
        """Return the pooled regions `(R, C, h, w)`.

        Args:
            features: maps `(N, C, H, W)` by level.
            regions: `(R, 5)` as `(image, x_min, y_min, x_max, y_max)`, pixels; R above 0.
        """
        level = self.levels_of(regions, len(features))
        order = level.argsort(stable=True)
        counts = torch.bincount(level, minlength=len(features)).tolist()
        parts = zip(self.layers, features, regions[order].split(counts), strict=False)
        pooled = [layer(own, chosen) for layer, own, chosen in parts if len(chosen)]
        return pooled[0] if len(pooled) == 1 else torch.cat(pooled)[order.argsort()]


class RowAlign(nn.Module):
    """RoIAlign of a few samples a bin as sums of whole rows of channels: five times as fast on a CPU, to rounding.

    Args:
        layer: mmcv's `RoIAlign`; it does itself what this does not serve (gradients, other devices and types).
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    @staticmethod
    def suits(layer: Any) -> bool:
        """Whether a layer takes the mean of a fixed number of samples."""
        from mmcv.ops import RoIAlign

        return type(layer) is RoIAlign and layer.sampling_ratio > 0 and layer.pool_mode == "avg" and layer.aligned

    def forward(self, maps: Tensor, regions: Tensor) -> Tensor:
        """Return the pooled regions `(R, C, h, w)` of maps `(N, C, H, W)`; `regions` as for `LookingExtractor`."""
        learns = torch.is_grad_enabled() and maps.requires_grad
        if maps.device.type != "cpu" or maps.dtype != torch.float32 or learns:
            return self.layer(maps, regions)
        samples, (high, wide) = self.layer.sampling_ratio, self.layer.output_size
        _, c, height, width = maps.shape
        corners = regions[:, 1:] * self.layer.spatial_scale - 0.5  # cells, from the middle of the first one
        x, across = _taps(corners[:, 0], corners[:, 2], width, wide, samples)
        y, down = _taps(corners[:, 1], corners[:, 3], height, high, samples)
        y = y * width + (regions[:, 0].int() * (height * width))[:, None, None]
        index = y[:, :, None, :, None] + x[:, None, :, None, :]  # (R, h, w, taps, taps)
        weight = down[:, :, None, :, None] * across[:, None, :, None, :]
        rows = maps.permute(0, 2, 3, 1).reshape(-1, c)
        taps = (2 * samples) ** 2
        summed = functional.embedding_bag(
            index.view(-1, taps), rows, mode="sum", per_sample_weights=weight.view(-1, taps)
        )
        return summed.view(len(regions), high * wide, c).transpose(1, 2).reshape(len(regions), c, high, wide)


def _taps(first: Tensor, last: Tensor, cells: int, bins: int, samples: int) -> tuple[Tensor, Tensor]:
    """Return which cells of a row each bin of each region reads, and what each of them counts.

    Args:
        first: `(R,)` start of each region, in cells from the middle of the first one.
        last: `(R,)` its end.
        cells: in the row.
        bins: of a region.
        samples: of a bin, each between two cells.

    Returns:
        Indices int32 and weights float32, `(R, bins, 2 samples)` each.
    """
    steps = (torch.arange(bins * samples, dtype=first.dtype) + 0.5) / (bins * samples)
    places = first[:, None] + (last - first)[:, None] * steps
    counts = ((places >= -1) & (places <= cells)) / samples
    places = places.clamp(0, cells - 1)
    lower = places.floor()
    part = places - lower
    weights = torch.stack([1 - part, part], dim=-1) * counts[..., None]
    index = torch.stack([lower, (lower + 1).clamp(max=cells - 1)], dim=-1).int()
    shape = len(first), bins, 2 * samples
    return index.view(shape), weights.view(shape)


def align_rows(module: nn.Module) -> nn.Module:
    """Put `RowAlign` in the place of every RoIAlign of a network that it suits; return the network."""
    if RowAlign.suits(module):
        return RowAlign(module)
    for name, child in module.named_children():
        setattr(module, name, align_rows(child))
    return module
