"""What two second stages say of the same boxes, compared: classes by divergence, refinements by distance.

With p = softmax(scores / T) over K categories and the background, R boxes, d the refinements:

    logits = T^2 / R sum_r KL(p_T || p_S)
    deltas = sum_rk w_rk SmoothL1(d_S - d_T) / max(1, sum_rk w_rk),  w_rk = softmax(scores_T)_rk without the background

References:
    [1] Distilling the Knowledge in a Neural Network, 2015, https://arxiv.org/abs/1503.02531 (the divergence)
    [2] Learning Efficient Object Detection Models with Knowledge Distillation, NeurIPS 2017 (at a detector's regions)
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from mutineck.distillation.losses.pair import full_precision, widen


def divergence(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the mean over boxes of KL(teacher || student), times the squared temperature; a scalar.

    Args:
        student: scores before the softmax `(R, K + 1)`, R above 0.
        teacher: the same; takes no gradient.
        temperature: divides both.

    Raises:
        ValueError: if the shapes differ.
    """
    _same("scores", student, teacher)
    with full_precision(student):
        said = (widen(student) / temperature).log_softmax(dim=1)
        meant = (widen(teacher.detach()) / temperature).log_softmax(dim=1)
        return temperature**2 * functional.kl_div(said, meant, reduction="batchmean", log_target=True)


def refinement(student: Tensor, teacher: Tensor, scores: Tensor) -> Tensor:
    """Return the distance of two refinements, each category's as sure as the teacher is of it; a scalar.

    Args:
        student: `(R, 4K)`, or `(R, 4)` where one serves all categories, as the heads' box coder has them.
        teacher: the same; takes no gradient.
        scores: the teacher's before the softmax `(R, K + 1)`, the background last.

    Raises:
        ValueError: if the shapes differ.
    """
    _same("refinements", student, teacher)
    with full_precision(student):
        sure = widen(scores.detach()).softmax(dim=1)[:, :-1]  # (R, K)
        gap = functional.smooth_l1_loss(widen(student), widen(teacher.detach()), reduction="none")
        gap = gap.view(len(gap), -1, 4).sum(dim=2)  # (R, K or 1)
        return (sure * gap).sum() / sure.sum().clamp(min=1)


def _same(what: str, student: Tensor, teacher: Tensor) -> None:
    if student.shape != teacher.shape:
        raise ValueError(
            f"{what} of student and teacher must share one shape, got {tuple(student.shape)} and {tuple(teacher.shape)}"
        )
