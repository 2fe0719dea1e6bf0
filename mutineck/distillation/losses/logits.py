"""What two second stages say of the same boxes, compared: classes by divergence, refinements by distance.

With p = softmax(scores) over K categories and the background, d the refinements, R boxes:

    logits = sum_r KL(p_T || p_S) / max(1, R)
    deltas = sum_rk p_T,rk SmoothL1(d_S - d_T)_rk / max(1, sum_rk p_T,rk), k over the categories alone

This module gives the sums' terms, box by box; the divisors are averaged over processes.

References:
    [1] Distilling the Knowledge in a Neural Network, 2015, https://arxiv.org/abs/1503.02531 (the divergence)
    [2] Learning Efficient Object Detection Models with Knowledge Distillation, NeurIPS 2017 (at a detector's regions)
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from mutineck.distillation.losses.maps import full_precision, widen


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Return each box's KL(teacher || student) `(R,)`.

    Args:
        student: scores before the softmax `(R, K + 1)`.
        teacher: the same; takes no gradient.

    Raises:
        ValueError: if the shapes differ.
    """
    _same("scores", student, teacher)
    with full_precision(student):
        said, meant = widen(student).log_softmax(dim=1), widen(teacher.detach()).log_softmax(dim=1)
        return functional.kl_div(said, meant, reduction="none", log_target=True).sum(dim=1)


def certainty(scores: Tensor) -> Tensor:
    """Return how sure a second stage is of each category `(R, K)`, the background left out, no gradient.

    Args:
        scores: before the softmax `(R, K + 1)`, the background last.
    """
    with full_precision(scores):
        return widen(scores.detach()).softmax(dim=1)[:, :-1]


def refinement(student: Tensor, teacher: Tensor, sure: Tensor) -> Tensor:
    """Return each box's distance of two refinements `(R,)`, each category's as sure as the teacher is of it.

    Args:
        student: `(R, 4K)`, or `(R, 4)` where one serves all categories, as the heads' box coder has them.
        teacher: the same; takes no gradient.
        sure: the teacher's `certainty` `(R, K)`.

    Raises:
        ValueError: if the shapes differ.
    """
    _same("refinements", student, teacher)
    with full_precision(student):
        gap = functional.smooth_l1_loss(widen(student), widen(teacher.detach()), reduction="none")
        gap = gap.view(len(gap), -1, 4).sum(dim=2)  # (R, K or 1)
        return (sure * gap).sum(dim=1)


def _same(what: str, student: Tensor, teacher: Tensor) -> None:
    if student.shape != teacher.shape:
        raise ValueError(
            f"{what} of student and teacher must share one shape, got {tuple(student.shape)} and {tuple(teacher.shape)}"
        )
