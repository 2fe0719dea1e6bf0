"""What each loss term does: the norm of its gradient at the student's maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

OTHERS = "merge."
"""Begins the losses of an intermediate teacher that learns in the student's run: they have no gradient there."""


def loss_terms(losses: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the scalars that a student's loss is the sum of, as mmdet adds them up, without what is only logged."""
    return {
        name: sum(part.mean() for part in value) if isinstance(value, list | tuple) else value.mean()
        for name, value in losses.items()
        if "loss" in name and not name.startswith(OTHERS)
    }


def gradient_norms(terms: Sequence[Tensor], maps: Sequence[Tensor]) -> Tensor:
    """Return the norm of each term's gradient at all maps together, over the batches of all processes.

    The graph stays, and no parameter takes a gradient: the step goes on as without this call. In several processes all
    of them have to call it, with as many terms.

    Args:
        terms: T scalars.
        maps: `(N, C, H, W)` each, that the terms were computed from.

    Returns:
        `(T,)` float64, without gradient; 0 for a term that does not depend on the maps. Of several processes it is the
        root of the mean square: their norms are of equal parts of one gradient.
    """
    from mmdet.core import reduce_mean

    squares = []
    for value in terms:
        found = torch.autograd.grad(value, maps, retain_graph=True, allow_unused=True) if value.requires_grad else ()
        norms = [torch.linalg.vector_norm(g, dtype=torch.float64).square() for g in found if g is not None]
        squares.append(torch.stack(norms).sum() if norms else maps[0].new_zeros((), dtype=torch.float64))
    return reduce_mean(torch.stack(squares)).sqrt()


def gradient_shares(losses: Mapping[str, Any], maps: Sequence[Tensor]) -> dict[str, float]:
    """Return each loss term's share of the sum of the terms' norms; all are 0 where none has a gradient.

    Args:
        losses: as a detector's `forward_train` returns them.
        maps: the student's, as for `gradient_norms`.
    """
    terms = loss_terms(losses)
    norms = gradient_norms(list(terms.values()), maps)
    whole = norms.sum()
    return dict(zip(terms, (norms / whole.where(whole > 0, 1.0)).tolist(), strict=True))
