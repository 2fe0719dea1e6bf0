"""Aligning the channels of one detector's maps with another's: ridge regression over sampled cells, in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Alignment:
    """An affine map of channels.

    Attributes:
        weight: `(C_to, C_from)` float64.
        bias: `(C_to,)` float64.
        explained: R^2, the share of the reference's variance that the map explains on the sampled cells.
        cells: number of cells seen.
    """

    weight: Tensor
    bias: Tensor
    explained: float
    cells: int


class RidgeRegression:
    """Regression of maps on maps, gathered batch by batch; nothing but second moments is kept.

    Minimises `mean ||y - W x - b||^2 + ridge * v ||W||^2`, v the mean variance of a channel of x.

    Args:
        channels_from: C of the maps to be aligned.
        channels_to: C of the reference.
        ridge: relative strength of the penalty.
        seed: of the draw of cells, where not all are taken in.
    """

    def __init__(self, channels_from: int, channels_to: int, *, ridge: float = 1e-3, seed: int = 0) -> None:
        self.ridge = ridge
        self._draw = torch.Generator().manual_seed(seed)
        self._cells = 0
        self._sum = torch.zeros(channels_from + channels_to, dtype=torch.float64)
        self._moment = torch.zeros(channels_from + channels_to, channels_from + channels_to, dtype=torch.float64)
        self._from = channels_from

    def add(self, source: Tensor, reference: Tensor, *, every: int = 1) -> None:
        """Take in maps `(N, C_from, H, W)` and `(N, C_to, H, W)`, one of `every` cells, drawn.

        A stride over the cells would keep to a few columns wherever it shares a divisor with the width.

        Raises:
            ValueError: the two differ in N, H or W.
        """
        if source.shape[0] != reference.shape[0] or source.shape[2:] != reference.shape[2:]:
            raise ValueError(f"maps must share N, H and W, got {tuple(source.shape)} and {tuple(reference.shape)}")
        rows = torch.cat([source, reference], dim=1).permute(0, 2, 3, 1).flatten(0, 2)
        if every > 1:
            drawn = torch.randperm(len(rows), generator=self._draw)[: -(-len(rows) // every)]
            rows = rows[drawn.to(rows.device)]
        rows = rows.double().cpu()
        self._cells += len(rows)
        self._sum += rows.sum(dim=0)
        self._moment += rows.T @ rows

    def solve(self) -> Alignment:
        """Return the alignment.

        Raises:
            ValueError: fewer cells than two were taken in.
        """
        if self._cells < 2:
            raise ValueError(f"an alignment needs at least 2 cells, got {self._cells}")
        mean = self._sum / self._cells
        covariance = self._moment / self._cells - torch.outer(mean, mean)
        n = self._from
        own, cross, reference = covariance[:n, :n], covariance[:n, n:], covariance[n:, n:]
        penalty = self.ridge * own.diagonal().mean().clamp(min=1e-12)
        weight = torch.linalg.solve(own + penalty * torch.eye(n, dtype=torch.float64), cross)  # (C_from, C_to)
        bias = mean[n:] - mean[:n] @ weight
        residual = reference.diagonal().sum() - 2 * (weight * cross).sum() + (weight * (own @ weight)).sum()
        total = reference.diagonal().sum().clamp(min=1e-12)
        return Alignment(weight.T.contiguous(), bias, float(1 - residual / total), self._cells)
