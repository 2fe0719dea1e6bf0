"""Contrast loss: an instance stands to the centroids of all categories as the teacher's does.

With z_s, z_m the standardised vectors of student and intermediate teacher, E_k the centroids of all categories, and
W = S^(-1/2) of the covariance S within categories:

    p(z)_k   = softmax_k(cos(W z, W E_k) / 0.1)
    contrast = sum_j KL(p(z_m) || p(z_s)) / max(1, J)

Pulled toward the nearest centroid of its category alone, an instance comes nearer to those of other categories too,
where these lie in one direction. Whitened, directions in which instances of one category differ count little.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from mutineck.clusters.centroids import Centroids
from mutineck.distillation.losses.centroid import InstanceLoss
from mutineck.distillation.losses.maps import full_precision, widen

TEMPERATURE = 0.1


def whitening(covariance: Tensor) -> Tensor:
    """Return the symmetric `S^(-1/2)` `(C, C)` float32 of a positive definite covariance `(C, C)`."""
    values, vectors = torch.linalg.eigh(covariance.double())
    return (vectors * values.rsqrt() @ vectors.T).float()


class ContrastLoss(InstanceLoss):
    """Contrast loss over a batch's ground-truth boxes: the term `contrast`.

    Args:
        centroids: see `InstanceLoss`; with the covariance of vectors within categories.
        reduce: see `InstanceLoss`.

    Raises:
        ValueError: the centroids have no covariance: they were made before there was one.
    """

    def __init__(self, centroids: Centroids, *, reduce: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__(centroids, reduce=reduce)
        if centroids.within is None:
            raise ValueError(
                "distillation.centroid_loss: contrast needs the covariance of vectors within categories, and these "
                "centroids were made without. Make them anew: mutineck run EXPERIMENT --force clusters --until clusters"
            )
        self.whiten = whitening(centroids.within)  # no buffer, as the centroids are none

    def terms(self, student: Tensor, teacher: Tensor, labels: Tensor, shares: Tensor | None) -> dict[str, Tensor]:
        """Return `contrast`; see `InstanceLoss.forward`. Instances of a category without centroid are left out."""
        known = torch.isin(labels, self.centroids.category.to(labels))
        ours, theirs = self._log_shares(student[known]), self._log_shares(teacher[known])
        each = functional.kl_div(ours, theirs, reduction="none", log_target=True).sum(dim=1)
        count = self.count(known, each)
        if shares is not None:
            each = each * shares[known]
        return {"contrast": each.sum() / count.clamp(min=1)}

    def _log_shares(self, vectors: Tensor) -> Tensor:
        """Return `log p` `(J, M)` of standardised vectors `(J, C)`."""
        vectors = widen(vectors)
        with full_precision(vectors):
            whiten = self.whiten.to(vectors)
            own = functional.normalize(vectors @ whiten, dim=1)
            known = functional.normalize(self.centroids.centroids.to(vectors) @ whiten, dim=1)
            return (own @ known.T / TEMPERATURE).log_softmax(dim=1)
