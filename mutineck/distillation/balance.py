"""Balanced losses: a distillation term's weight from what its gradient is beside that of the detection losses.

References:
    [1] GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep Multitask Networks, ICML 2018,
        https://arxiv.org/abs/1711.02257 (the norms of gradients at shared features; measuring once is ours)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mutineck.distillation.gradients import gradient_norms


class Balance(nn.Module):
    """Multiplies terms so that the norm of each one's gradient is a given ratio of the detection losses' norm.

    A term is measured in the first steps in which it has a gradient, and weighed by what is measured so far, this step
    included; from then on its factor stays. What is measured lies in the training's state.

    Args:
        steps: in which each term is measured, at least 1.
        ratios: term to the ratio wanted; other terms are left as they are.
    """

    own: Tensor
    detection: Tensor
    count: Tensor

    def __init__(self, steps: int, ratios: Mapping[str, float]) -> None:
        super().__init__()
        self.steps = steps
        self.ratios = dict(ratios)
        # Sums over the measured steps, one number a term: norms of its own gradient and of the detection losses'.
        for name in ("own", "detection", "count"):
            self.register_buffer(name, torch.zeros(len(self.ratios), dtype=torch.float64))

    def forward(
        self, terms: Mapping[str, Tensor], warmth: Mapping[str, float], detection: Tensor, maps: Sequence[Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the terms, each times its factor, and the factors of those that are balanced.

        In several processes all of them have to call it, with the same terms: all reach the same factors.

        Args:
            terms: name to a scalar, multiplied by its warmth already.
            warmth: name to what a warm-up leaves of the term in this step; the factor knows nothing of it.
            detection: scalar, the sum of the detection losses.
            maps: `(N, C, H, W)` each, the student's.
        """
        self._measure(terms, warmth, detection, maps)
        wanted = self.own.new_tensor(list(self.ratios.values()))
        factors = torch.where(self.count > 0, wanted * self.detection / self.own, 1.0).unbind()
        found = {name: f for name, f in zip(self.ratios, factors, strict=True) if name in terms}
        return {name: found[name].to(t) * t if name in found else t for name, t in terms.items()}, found

    @torch.no_grad()
    def _measure(
        self, terms: Mapping[str, Tensor], warmth: Mapping[str, float], detection: Tensor, maps: Sequence[Tensor]
    ) -> None:
        from mmdet.core import reduce_mean

        pending = [i for i, n in enumerate(self.count.tolist()) if n < self.steps]
        names = [(i, name) for i, name in enumerate(self.ratios) if i in pending and name in terms]
        if not names:
            return
        # What is 0, without boxes or before it warms up, in every process has no gradient to ask for.
        values = reduce_mean(torch.stack([terms[name].detach() for _, name in names])).tolist()
        names = [pair for pair, value in zip(names, values, strict=True) if value != 0]
        if not names:
            return
        *norms, whole = gradient_norms([*(terms[name] for _, name in names), detection], maps)
        for (i, name), norm in zip(names, norms, strict=True):
            if norm > 0:
                self.own[i] += norm / warmth[name]
                self.detection[i] += whole
                self.count[i] += 1
