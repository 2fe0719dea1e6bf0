"""Focal and Global Distillation (FGD), for one level of the pyramid.

References:
    [1] Focal and Global Knowledge Distillation for Detectors, CVPR 2022, https://arxiv.org/abs/2111.11837

With F_T, F_S the maps of teacher and student, A^S, A^C the teacher's attentions at temperature T:

    foreground = (1/N) sum M_fg A^S A^C (F_T - F_S)^2      M_fg = max over boxes of 1 / cells of the box
    background = (1/N) sum M_bg A^S A^C (F_T - F_S)^2      M_bg = 1 / cells outside every box
    attention  = (1/N) (|A^S_T - A^S_S|_1 + |A^C_T - A^C_S|_1)
    global     = (1/N) ||R_T(F_T) - R_S(F_S)||^2

These are sums over channels and cells, so the weights that stand outside them are tiny and hold for
one number of channels and one image size only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mutineck.detection.cells import cell_ranges, heaviest, pad_boxes, published_cell_ranges, spread
from mutineck.distillation.losses.attention import attend, attention_distance, strength_of
from mutineck.distillation.losses.fused import Sums, compare
from mutineck.distillation.losses.shapes import full_precision, map_pair, widen


@dataclass(frozen=True)
class FGDWeights:
    """FGD's weights and temperature; the defaults are the paper's for Faster and Mask R-CNN."""

    alpha: float = 5e-5
    beta: float = 2.5e-5
    gamma: float = 5e-5
    lambda_: float = 5e-7
    temperature: float = 0.5

    def weigh(self, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the terms of `FGDLoss`, each times its weight."""
        weights = dict(foreground=self.alpha, background=self.beta, attention=self.gamma, **{"global": self.lambda_})
        return {name: weights[name] * term for name, term in terms.items()}


PUBLISHED_WEIGHTS: dict[str, FGDWeights] = {
    "two_stage": FGDWeights(),
    "retinanet": FGDWeights(alpha=1e-3, beta=5e-4, gamma=5e-4, lambda_=5e-6),
    "gfl": FGDWeights(alpha=1e-3, beta=5e-4, gamma=5e-4, lambda_=5e-6),
    "fcos": FGDWeights(alpha=1.6e-3, beta=8e-4, gamma=8e-4, lambda_=8e-6, temperature=0.8),
}
"""The paper's weights by detector family, for 256 channels at 1333x800."""


class FGDMasks(NamedTuple):
    """Weights of cells: foreground `(N, H, W)` and background `(N, H, W)`, float32, disjoint."""

    foreground: Tensor
    background: Tensor


@torch.no_grad()
def fgd_masks(
    boxes: Sequence[Tensor],
    stride: int,
    size: tuple[int, int],
    *,
    image_sizes: Tensor | None = None,
    compat: bool = False,
) -> FGDMasks:
    """Return the foreground and background masks of a batch.

    Args:
        boxes: for each of N images `(n, 4)` as `(x_min, y_min, x_max, y_max)`, input pixels.
        stride: pixels a cell.
        size: `(H, W)` of the map.
        image_sizes: `(N, 2)` as `(height, width)` without padding; only read with `compat`.
        compat: find cells and count them as FGD's published code does (by image size, unclipped),
            which displaces masks in a padded batch. For comparison with it only.

    Raises:
        ValueError: if `compat` is asked for without `image_sizes`.
    """
    height, width = size
    padded, valid = pad_boxes(boxes)
    if compat:
        if image_sizes is None:
            raise ValueError("compat=True needs image_sizes (N, 2) as (height, width), got None")
        ranges = published_cell_ranges(padded, image_sizes, height, width)
        counts = ranges.published
    else:
        ranges = cell_ranges(padded, stride, height, width)
        counts = ranges.count
    foreground = heaviest(ranges, valid / counts.clamp(min=1), height, width)
    return FGDMasks(foreground, spread(foreground == 0))


class GlobalContext(nn.Module):
    """FGD's R: a map plus what its attention-weighted mean says, `F + W2 ReLU(LN(W1 context))`.

    The context is `sum_ij softmax_ij(w . F_ij) F_ij`. The last convolution is zero at the start, so R
    starts as identity. Learns in float32 whatever the map's type is.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        bottleneck = max(1, channels // 2)
        self.place = nn.Conv2d(channels, 1, kernel_size=1, bias=False)  # softmax does not see a bias
        nn.init.kaiming_normal_(self.place.weight, mode="fan_in", nonlinearity="relu")
        last = nn.Conv2d(bottleneck, channels, kernel_size=1)
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
        self.transform = nn.Sequential(
            nn.Conv2d(channels, bottleneck, kernel_size=1),
            nn.LayerNorm([bottleneck, 1, 1]),
            nn.ReLU(inplace=True),
            last,
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return R(F) `(N, C, H, W)` in float32 for a map `(N, C, H, W)`."""
        features = widen(features)
        with full_precision(features):
            place = self.place(features).flatten(2).softmax(dim=2)  # (N, 1, HW)
            context = torch.einsum("nci,noi->nc", features.flatten(2), place)
            return features + self.shift(context)[..., None, None]

    def shift(self, context: Tensor) -> Tensor:
        """Return R(F) - F `(N, C)`, alike in every place, for a context `(N, C)`."""
        return self.transform(context[..., None, None]).flatten(1)


def global_distance(sums: Sums, shift: Tensor, places: int) -> Tensor:
    """Return `(1/N) ||R_T(F_T) - R_S(F_S)||^2` without making either: `||D||^2 + 2 shift . sum D + HW ||shift||^2`.

    Args:
        sums: of student and teacher.
        shift: `(N, C)`, what R_T adds to every place less what R_S adds; takes gradient, as both learn.
        places: HW.
    """
    cross = (sums.difference * shift).sum()
    return (sums.squared.sum() + 2 * cross + places * shift.square().sum()) / len(shift)


class Comparison(NamedTuple):
    """What FGD and the region loss share: `error` `(N, H, W)` and two scalars, none of them weighted."""

    error: Tensor
    attention: Tensor
    global_: Tensor

    def under(self, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the error under each mask `(N, H, W)`, summed and divided by N, by its name; and the two scalars.

        Raises:
            ValueError: if a mask was drawn for another size or batch.
        """
        for name, mask in masks.items():
            if mask.shape != self.error.shape:
                raise ValueError(
                    f"the {name} is (N, H, W) = {tuple(mask.shape)}, the maps need {tuple(self.error.shape)}: build it "
                    "with this level's size and batch"
                )
        errors = {name: (mask * self.error).sum() / len(self.error) for name, mask in masks.items()}
        return errors | {"attention": self.attention, "global": self.global_}


class FocalGlobal(nn.Module):
    """Compare two maps of one level: attended error a cell, attention and global terms.

    Args:
        channels: of the teacher's map and of the student's after its adapter.
        temperature: T of the attentions.
    """

    def __init__(self, channels: int, *, temperature: float = 0.5) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        self.temperature = temperature
        self.student_context = GlobalContext(channels)
        self.teacher_context = GlobalContext(channels)

    def forward(self, student: Tensor, teacher: Tensor) -> Comparison:
        """Return the comparison of maps `(N, C, H, W)`; the teacher's takes no gradient."""
        student, teacher = map_pair(student, teacher)
        look = attend(strength_of(teacher), self.temperature)
        ours, theirs = self.student_context, self.teacher_context
        sums = compare(student, teacher, look.channel, ours.place.weight.flatten(), theirs.place.weight.flatten())
        with full_precision(student):
            shift = theirs.shift(sums.teacher_context) - ours.shift(sums.student_context)
        return Comparison(
            error=sums.error * look.spatial,
            attention=attention_distance(attend(sums.strength, self.temperature), look),
            global_=global_distance(sums, shift, look.spatial[0].numel()),
        )


class FGDLoss(nn.Module):
    """FGD of one level: its four terms, unweighted.

    Args:
        channels: of the teacher's map and of the student's after its adapter.
        temperature: T of the attentions.
        compat: see `fgd_masks`.
    """

    def __init__(self, channels: int, *, temperature: float = 0.5, compat: bool = False) -> None:
        super().__init__()
        self.compare = FocalGlobal(channels, temperature=temperature)
        self.compat = compat

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        boxes: Sequence[Tensor],
        stride: int,
        image_sizes: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return the scalars `foreground`, `background`, `attention` and `global`, not weighted.

        Args:
            student: `(N, C, H, W)`, after its channel adapter.
            teacher: `(N, C, H, W)`; takes no gradient.
            boxes: for each image `(n, 4)` as `(x_min, y_min, x_max, y_max)`, input pixels.
            stride: of the level, pixels a cell.
            image_sizes: `(N, 2)` as `(height, width)`; only read where `compat` is on.
        """
        found = self.compare(student, teacher)
        _, height, width = found.error.shape
        masks = fgd_masks(boxes, stride, (height, width), image_sizes=image_sizes, compat=self.compat)
        return found.under(masks._asdict())
