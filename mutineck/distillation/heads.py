"""Second stages that are compared: the student's says of the stacked proposals what the intermediate teacher's says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mutineck.detection.roi import instance_features
from mutineck.distillation.losses.logits import divergence, refinement
from mutineck.teachers.regions import Proposals


@dataclass(frozen=True)
class SecondStage:
    """The second stage of a Faster or Mask R-CNN; no module, so that whoever holds it does not own its weights.

    Attributes:
        head: mmdet's box head.
        strides: of the levels that it pools from, rising.
        pooled: side of what it pools.
    """

    head: Any
    strides: tuple[int, ...]
    pooled: int

    @classmethod
    def of(cls, detector: Any, strides: Sequence[int]) -> SecondStage | None:
        """Return a detector's; None for a one-stage detector, a cascade, and whatever else has not one plain box head.

        Args:
            detector: mmdet's.
            strides: of its maps.
        """
        from mmdet.models.roi_heads import StandardRoIHead

        own = getattr(detector, "roi_head", None)
        if not isinstance(own, StandardRoIHead) or type(own)._bbox_forward is not StandardRoIHead._bbox_forward:
            return None
        head = own.bbox_head
        plain = not own.with_shared_head and head.with_cls and head.with_reg
        if not plain or head.custom_cls_channels or head.loss_cls.use_sigmoid:
            return None
        levels = tuple(sorted(strides))[: own.bbox_roi_extractor.num_inputs]
        return cls(head, levels, int(head.roi_feat_size[0]))

    def says(self, maps: Mapping[int, Tensor], boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return scores `(R, K + 1)` before the softmax and refinements `(R, 4K)` or `(R, 4)`.

        Args:
            maps: stride to `(N, C, H, W)`; more levels than it pools from may be there.
            boxes: for each image `(n, 4)` as `(x_min, y_min, x_max, y_max)`, input pixels; R in all.
        """
        pooled = instance_features({s: maps[s] for s in self.strides}, boxes, output=self.pooled)
        scores, refinements = self.head(pooled)
        return scores, refinements


def difference_of(student: SecondStage | None, teacher: SecondStage | None) -> str:
    """Return in words why two second stages cannot be compared, nothing if they can."""
    if student is None or teacher is None:
        lacking = [name for name, stage in (("student", student), ("intermediate teacher", teacher)) if stage is None]
        return f"no second stage with one plain box head: {' and '.join(lacking)}"
    for what in ("num_classes", "reg_class_agnostic"):
        own, other = getattr(student.head, what), getattr(teacher.head, what)
        if own != other:
            return f"{what} of the student's box head is {own}, of the intermediate teacher's {other}"
    if coding(student) != coding(teacher):
        return f"the student codes boxes as {coding(student)}, the intermediate teacher as {coding(teacher)}"
    return ""


def coding(stage: SecondStage) -> tuple[Any, ...]:
    """Return how a second stage turns boxes into numbers: the coder's kind, its means and its deviations."""
    coder = stage.head.bbox_coder
    numbers = (tuple(map(float, getattr(coder, name, ()))) for name in ("means", "stds"))
    return (type(coder).__name__, *numbers)


@torch.no_grad()
def stacked_boxes(proposals: Sequence[Sequence[Proposals]], boxes: Sequence[Tensor], *, most: int) -> list[Tensor]:
    """Return each image's ground truth, then each teacher's best proposals by score, stacked.

    Args:
        proposals: for each of N images, for each teacher, its proposals.
        boxes: for each image `(n, 4)` ground truth.
        most: proposals of one teacher on one image.

    Returns:
        For each image `(m, 4)` float32.
    """
    stacked = []
    for image, truth in zip(proposals, boxes, strict=True):
        best = [own.boxes[own.scores.topk(min(most, len(own.scores))).indices] for own in image]
        stacked.append(torch.cat([truth.float(), *(b.float() for b in best)]))
    return stacked


def compare_heads(
    student: SecondStage,
    teacher: SecondStage,
    student_maps: Mapping[int, Tensor],
    teacher_maps: Mapping[int, Tensor],
    boxes: Sequence[Tensor],
) -> dict[str, Tensor]:
    """Return `logits` and `deltas`: how far what two second stages say of some boxes, each from its maps, is apart.

    Args:
        student: takes the gradient, and its maps do.
        teacher: takes none.
        student_maps: stride to `(N, C, H, W)`.
        teacher_maps: stride to `(N, C', H, W)`.
        boxes: for each image `(m, 4)` as `(x_min, y_min, x_max, y_max)`, input pixels; both terms are 0 without any.
    """
    scores, refinements = student.says(student_maps, boxes)
    if len(scores) == 0:
        nothing = scores.sum() + refinements.sum()
        return {"logits": nothing, "deltas": nothing}
    with torch.no_grad():
        wanted, refined = teacher.says(teacher_maps, boxes)
    return {"logits": divergence(scores, wanted), "deltas": refinement(refinements, refined, wanted)}
