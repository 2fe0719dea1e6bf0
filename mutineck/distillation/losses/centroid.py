"""Centroid loss: keep an instance's vector near its category's centroid, in direction and in distance.

With z_s, z_m the standardised vectors of student and intermediate teacher, E the centroid of the box's
category nearest to z_m by cosine (the teacher chooses, so the student cannot switch) and the gate
h = [cos(z_m, E) >= threshold]:

    direction = sum h (1 - cos(z_s, E)) / max(1, sum h)
    distance  = sum h SmoothL1(|z_s - E| / |E|) / max(1, sum h)

References:
    [1] Central and Directional Multi-neck Knowledge Distillation, PRCV 2023,
        https://doi.org/10.1007/978-981-99-8540-1_38 (the idea; the formulas are ours)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from mutineck.clusters.centroids import Centroids
from mutineck.distillation.losses.maps import full_precision, widen


class Choice(NamedTuple):
    """The teacher's choice: `row` `(J,)` of the centroid and `gate` `(J,)` bool whether it counts."""

    row: Tensor
    gate: Tensor


@torch.no_grad()
def choose_centroids(teacher: Tensor, labels: Tensor, centroids: Centroids, threshold: float = 0.5) -> Choice:
    """Choose for each instance its category's centroid nearest to the teacher's vector by cosine.

    Args:
        teacher: z_m `(J, C)`, standardised.
        labels: `(J,)` int64.
        centroids: M of them.
        threshold: least cosine that opens the gate.

    Returns:
        row and gate `(J,)`; the gate is shut where the category has no centroid.
    """
    with full_precision(teacher):
        teacher = functional.normalize(widen(teacher), dim=1)
        nearness = teacher @ functional.normalize(centroids.centroids.to(teacher), dim=1).T  # (J, M)
    nearness = nearness.masked_fill(labels[:, None] != centroids.category.to(labels), -torch.inf)
    best, row = nearness.max(dim=1)
    return Choice(row, best >= threshold)  # False for -inf (no centroid) and for nan


def centroid_terms(
    student: Tensor, chosen: Tensor, gate: Tensor, count: Tensor, shares: Tensor | None = None
) -> dict[str, Tensor]:
    """Return the scalars `direction` and `distance`, not weighted; 0 with a gradient if nothing is gated.

    Args:
        student: z_s `(J, C)`, standardised.
        chosen: E `(J, C)`.
        gate: h `(J,)` bool.
        count: scalar, the number of open gates (averaged over processes); the divisor is at least 1.
        shares: `(J,)`, what each instance counts; 1 if None.
    """
    # Rows with a shut gate are dropped, not multiplied by 0, which would keep a non-finite row's nan.
    student, chosen = widen(student)[gate], widen(chosen.detach())[gate]
    turn = 1 - functional.cosine_similarity(student, chosen, dim=1)
    reach = torch.linalg.vector_norm(student - chosen, dim=1)
    size = torch.linalg.vector_norm(chosen, dim=1).clamp(min=1e-6)
    relative = reach / size
    away = functional.smooth_l1_loss(relative, torch.zeros_like(relative), reduction="none")
    divisor = count.to(turn).clamp(min=1)
    if shares is not None:
        turn, away = turn * shares[gate], away * shares[gate]
    return {"direction": turn.sum() / divisor, "distance": away.sum() / divisor}


class InstanceLoss(nn.Module):
    """A loss of instance vectors beside a teacher's centroids, unweighted; has no parameters.

    Args:
        centroids: of the teacher's instance vectors, with the statistics that bring vectors into their space.
        reduce: averages a scalar over processes; None in a single one. All processes must call the loss in every step,
            with or without boxes.
    """

    def __init__(self, centroids: Centroids, *, reduce: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        # A plain attribute: buffers would enter the student's checkpoint.
        self.centroids = centroids
        self.reduce = reduce

    def forward(
        self, student: Tensor, teacher: Tensor, labels: Tensor, shares: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return the loss's scalars by name, not weighted; 0 with a gradient without an instance.

        Args:
            student: instance vectors `(J, C)` as pooled, after the student's channel adapter.
            teacher: instance vectors `(J, C)` as pooled from the teacher; take no gradient.
            labels: `(J,)` int64, the student's labels.
            shares: `(J,)`, what each instance counts; 1 if None.

        Raises:
            ValueError: if the vectors differ in shape from each other or in length from the centroids.
        """
        width = self.centroids.centroids.shape[1]
        if student.shape != teacher.shape or student.shape[1:] != (width,) or len(labels) != len(student):
            raise ValueError(
                f"instance vectors must be (J, {width}) with labels (J,), got student "
                f"{tuple(student.shape)}, teacher {tuple(teacher.shape)}, labels {tuple(labels.shape)}"
            )
        ours, theirs = (self.centroids.standardise(vectors) for vectors in (student, teacher.detach()))
        return self.terms(ours, theirs, labels, shares)

    def terms(self, student: Tensor, teacher: Tensor, labels: Tensor, shares: Tensor | None) -> dict[str, Tensor]:
        """Return what `forward` does, given standardised vectors."""
        raise NotImplementedError

    def count(self, counted: Tensor, like: Tensor) -> Tensor:
        """Return how many instances are counted, `(J,)` bool, the mean over processes."""
        count = counted.sum().to(like)
        return count if self.reduce is None else self.reduce(count)


class CentroidLoss(InstanceLoss):
    """Centroid loss over a batch's ground-truth boxes: the terms `direction` and `distance`.

    Args:
        centroids: see `InstanceLoss`.
        threshold: least cosine between the teacher's vector and its centroid.
        reduce: see `InstanceLoss`.
    """

    def __init__(
        self, centroids: Centroids, *, threshold: float = 0.5, reduce: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        super().__init__(centroids, reduce=reduce)
        self.threshold = threshold

    def terms(self, student: Tensor, teacher: Tensor, labels: Tensor, shares: Tensor | None) -> dict[str, Tensor]:
        """Return `direction` and `distance`; see `InstanceLoss.forward`."""
        choice = choose_centroids(teacher, labels, self.centroids, self.threshold)
        chosen = self.centroids.centroids.to(student)[choice.row]
        return centroid_terms(student, chosen, choice.gate, self.count(choice.gate, student), shares)
