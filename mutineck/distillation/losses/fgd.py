"""Focal and Global Distillation (FGD), for one level of the pyramid.

References:
    [1] Focal and Global Knowledge Distillation for Detectors, CVPR 2022, https://arxiv.org/abs/2111.11837

With F_T, F_S the maps of teacher and student, A^S, A^C the teacher's attentions at temperature T:

    foreground = (1/N) sum M_fg A^S A^C (F_T - F_S)^2      M_fg = max over boxes of 1 / cells of the box
    background = (1/N) sum M_bg A^S A^C (F_T - F_S)^2      M_bg = 1 / cells outside every box
    attention  = (1/N) (|A^S_T - A^S_S|_1 + |A^C_T - A^C_S|_1)
    global     = (1/N) ||R_T(F_T) - R_S(F_S)||^2

The region loss is the same under three masks (`mutineck.distillation.losses.region`). The terms are sums over channels
and cells, so the weights that stand outside them are tiny and hold for one number of channels and one image size only.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mutineck.detection.cells import cell_maximum, cell_ranges, spread
from mutineck.distillation.losses.attention import attend, attention_distance, strength_of
from mutineck.distillation.losses.fused import Sums, compare
from mutineck.distillation.losses.maps import full_precision, map_pair, total, widen


class FGDLoss(nn.Module):
    """FGD of one level, unweighted: the attended difference under each mask, attention, and global term.

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

    def forward(
        self, student: Tensor, teacher: Tensor, masks: Mapping[str, Tensor], pictures: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return a scalar for each mask, by its name, and `attention` and `global`.

        Args:
            student: `(N, C, H, W)`, after its channel adapter.
            teacher: `(N, C, H, W)`; takes no gradient.
            masks: name to weights of cells `(N, H, W)`: FGD's, or the regions'.
            pictures: `(N,)`, what each picture counts; 1 if None.

        Raises:
            ValueError: if the maps differ in shape, or a mask was drawn for another size or batch.
        """
        student, teacher = map_pair(student, teacher)
        n, _, height, width = student.shape
        for name, mask in masks.items():
            if mask.shape != (n, height, width):
                raise ValueError(
                    f"the {name} is (N, H, W) = {tuple(mask.shape)}, the maps need {(n, height, width)}: build it "
                    "with this level's size and batch"
                )
        attention = attend(strength_of(teacher), self.temperature)
        ours, theirs = self.student_context, self.teacher_context
        sums = compare(student, teacher, attention.channel, ours.place.weight.flatten(), theirs.place.weight.flatten())
        with full_precision(student):
            shift = theirs.shift(sums.teacher_context) - ours.shift(sums.student_context)
        error = sums.error * attention.spatial  # (N, H, W): A^S sum_c A^C (F_T - F_S)^2
        return {
            **{name: total(mask * error, pictures) / n for name, mask in masks.items()},
            "attention": attention_distance(attend(sums.strength, self.temperature), attention, pictures),
            "global": global_distance(sums, shift, height * width, pictures),
        }


@torch.no_grad()
def fgd_masks(
    boxes: Tensor, valid: Tensor, stride: int, size: tuple[int, int], *, weights: Tensor | None = None
) -> dict[str, Tensor]:
    """Return the masks `foreground` and `background` of a batch, `(N, H, W)` float32 each, disjoint.

    Args:
        boxes: `(N, J, 4)` as `(x_min, y_min, x_max, y_max)`, input pixels.
        valid: `(N, J)` bool, False where padded.
        stride: pixels a cell.
        size: `(H, W)` of the map.
        weights: `(N, J)`, what each box's foreground is multiplied by; 1 if None.
    """
    ranges = cell_ranges(boxes, stride, *size)
    share = valid / ranges.count.clamp(min=1)
    foreground = cell_maximum(ranges, share, *size)
    background = spread(foreground == 0)
    if weights is not None:  # a cell stays foreground where the weight of its box is 0
        foreground = cell_maximum(ranges, valid * weights / ranges.count.clamp(min=1), *size)
    return {"foreground": foreground, "background": background}


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


def global_distance(sums: Sums, shift: Tensor, places: int, pictures: Tensor | None = None) -> Tensor:
    """Return `(1/N) ||R_T(F_T) - R_S(F_S)||^2` without making either: `||D||^2 + 2 shift . sum D + HW ||shift||^2`.

    Args:
        sums: of student and teacher.
        shift: `(N, C)`, what R_T adds to every place less what R_S adds; takes gradient, as both learn.
        places: HW.
        pictures: `(N,)`, what each picture counts; 1 if None.
    """
    cross, own = total(sums.difference * shift, pictures), total(shift.square(), pictures)
    return (total(sums.squared[:, None], pictures) + 2 * cross + places * own) / len(shift)
