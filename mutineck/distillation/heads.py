"""Distil the outputs of the intermediate teacher's second stage at the teachers' proposals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from mutineck.detection.overlap import lies_in
from mutineck.detection.protocols import BoxHead, Detector, RoIHead, box_heads
from mutineck.distillation.losses.logits import certainty, divergence, refinement
from mutineck.teachers.regions import Proposals


@dataclass(frozen=True)
class SecondStage:
    """The second stage of a Faster or Mask R-CNN; no module, so that whoever holds it does not own its weights.

    Attributes:
        roi_head: mmdet's.
        strides: of the levels that it pools from, rising.
    """

    roi_head: RoIHead
    strides: tuple[int, ...]

    @classmethod
    def of(cls, detector: Detector, strides: Sequence[int]) -> SecondStage | None:
        """Return a detector's; None for a one-stage detector, a cascade, and whatever else has not one plain box head.

        Args:
            detector: mmdet's.
            strides: of its maps.
        """
        from mmdet.models.roi_heads import BBoxHead, StandardRoIHead

        own = getattr(detector, "roi_head", None)
        if not isinstance(own, StandardRoIHead) or not isinstance(own.bbox_head, BBoxHead):
            return None
        head = own.bbox_head
        # One score a category and the background, and statistics that a second look in a step would not move.
        plain = head.with_cls and head.with_reg and not head.custom_cls_channels and not head.loss_cls.use_sigmoid
        if not plain or any(isinstance(part, _BatchNorm) for part in head.modules()):
            return None
        return cls(own, tuple(sorted(strides))[: own.bbox_roi_extractor.num_inputs])

    @property
    def head(self) -> BoxHead:
        """mmdet's box head."""
        return box_heads(self.roi_head)[0]

    def predict(self, maps: Mapping[int, Tensor], boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return scores `(R, K + 1)` before the softmax and refinements `(R, 4K)` or `(R, 4)`.

        Args:
            maps: stride to `(N, C, H, W)`; more levels than it pools from may be there.
            boxes: for each image `(n, 4)` as `(x_min, y_min, x_max, y_max)`, input pixels; R in all, above 0.
        """
        from mmdet.core import bbox2roi

        found = self.roi_head._bbox_forward(tuple(maps[s] for s in self.strides), bbox2roi(list(boxes)))
        return found["cls_score"], found["bbox_pred"]


SecondStagePair = tuple[SecondStage, SecondStage]
"""Of the student and of the intermediate teacher."""


def comparable(student: SecondStage | None, teacher: SecondStage | None) -> tuple[SecondStagePair | None, str]:
    """Return two second stages if their outputs can be compared, else None and why not."""
    if student is None or teacher is None:
        lacking = [name for name, stage in (("student", student), ("intermediate teacher", teacher)) if stage is None]
        return None, f"no second stage with one plain box head: {' and '.join(lacking)}"
    for what in ("num_classes", "reg_class_agnostic"):
        own, other = getattr(student.head, what), getattr(teacher.head, what)
        if own != other:
            return None, f"{what} of the student's box head is {own}, of the intermediate teacher's {other}"
    if _coding(student) != _coding(teacher):
        return None, f"the student codes boxes as {_coding(student)}, the intermediate teacher as {_coding(teacher)}"
    return (student, teacher), ""


def _coding(stage: SecondStage) -> tuple[Any, ...]:
    """Return how a second stage turns boxes into numbers: the coder's kind, its means and its deviations."""
    coder = stage.head.bbox_coder
    numbers = (tuple(map(float, getattr(coder, name, ()))) for name in ("means", "stds"))
    return (type(coder).__name__, *numbers)


@torch.no_grad()
def comparison_boxes(
    proposals: Sequence[Sequence[Proposals]],
    boxes: Sequence[Tensor],
    ignored: Sequence[Tensor] | None = None,
    *,
    most: int,
) -> list[Tensor]:
    """Return each image's ground truth and each teacher's best proposals by score, of whatever category.

    Args:
        proposals: for each of N images, for each teacher, its proposals before suppression.
        boxes: for each image `(n, 4)` ground truth.
        ignored: for each image `(m, 4)`: the proposals that lie in one of these are left out; None for none.
        most: proposals of one teacher on one image.

    Returns:
        For each image `(m, 4)` float32.
    """
    found = []
    for index, (image, truth) in enumerate(zip(proposals, boxes, strict=True)):
        best = [own.boxes[own.scores.topk(min(most, len(own.scores))).indices].float() for own in image]
        if ignored is not None:
            best = [b[~lies_in(b, ignored[index])] for b in best]
        found.append(torch.cat([truth.float(), *best]))
    return found


def compare_heads(
    heads: SecondStagePair,
    student: Mapping[int, Tensor],
    teacher: Mapping[int, Tensor],
    boxes: Sequence[Tensor],
    *,
    reduce: Callable[[Tensor], Tensor] | None = None,
) -> dict[str, Tensor]:
    """Return `logits` and `deltas`: how far two second stages' outputs at some boxes are apart, each from its own maps.

    Args:
        heads: the student's takes a gradient, the teacher's none.
        student: the student's maps, stride to `(N, C, H, W)`; they take a gradient too.
        teacher: the teacher's maps, stride to `(N, C', H, W)`.
        boxes: for each image `(m, 4)` as `(x_min, y_min, x_max, y_max)`, input pixels; both terms are 0 without any.
        reduce: averages a tensor over processes, so that a box counts alike in all of them, which then all have to call
            this; None in a single one.
    """
    count = sum(len(b) for b in boxes)
    if count:
        scores, refined = heads[0].predict(student, boxes)
        with torch.no_grad():
            meant, wanted = heads[1].predict(teacher, boxes)
            sure = certainty(meant)
        logits, deltas = divergence(scores, meant).sum(), refinement(refined, wanted, sure).sum()
    else:  # takes part in the means over processes all the same
        logits = deltas = 0 * next(iter(student.values())).sum()
        sure = logits.detach()
    divisors = torch.stack([sure.new_tensor(float(count)), sure.sum()])
    divisors = (divisors if reduce is None else reduce(divisors)).clamp(min=1)
    return {"logits": logits / divisors[0], "deltas": deltas / divisors[1]}
