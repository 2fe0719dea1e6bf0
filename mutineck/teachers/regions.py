"""Centre, boundary and background of every target, from the stacked proposals of several teachers.

Two steps. `match_proposals` asks, once a batch, which of each teacher's proposals mean which target and
how good they are. `build_regions` draws that on the grid of one level. The second step never draws a
proposal by itself: a box is a product of rows and columns, and so is a Gaussian, so stacking all of
them is one matrix product for each target.

Boxes are `(x_min, y_min, x_max, y_max)` in pixels of the network's input. N images, J targets an image
(padded), n teachers, P proposals a teacher and target (padded). Nothing here takes a gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from torchvision.ops import box_iou

from mutineck.detection.cells import cell_indicators, cell_ranges, pad_boxes, range_masks, spread

SLACK = 1e-6
"""Sums of shares are 1 up to rounding; thresholds on them give way by this much."""


class Proposals(Protocol):
    """One teacher's proposals on one image, before non-maximum suppression."""

    @property
    def boxes(self) -> Tensor:
        """`(M, 4)`, pixels of the network's input."""

    @property
    def scores(self) -> Tensor:
        """`(M,)` in [0, 1], of the label beside it."""

    @property
    def labels(self) -> Tensor:
        """`(M,)` int64 in the student's numbering; negative where the student lacks the category."""


@dataclass(frozen=True)
class RegionSettings:
    """Thresholds of the regions.

    Attributes:
        iou: least overlap of a proposal with the target it may mean.
        score: least score of the target's category.
        top: proposals kept for each teacher and target.
        score_power: exponent of the score in a proposal's goodness; overlap has the rest.
        quality_temperature: of the softmax over teachers.
        region: least coverage that makes a cell part of the target's region.
        centre: least coverage of a centre cell.
        rho: how much the proposals' Gaussians raise the centre's weight.
        sigma: of a proposal's Gaussian, as a part of its width and height.
    """

    iou: float = 0.5
    score: float = 0.05
    top: int = 10
    score_power: float = 0.2
    quality_temperature: float = 0.25
    region: float = 0.2
    centre: float = 0.8
    rho: float = 1.0
    sigma: float = 0.25

    def __post_init__(self) -> None:
        for name in ("iou", "score", "score_power", "region", "centre"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"RegionSettings.{name} must lie in [0, 1], got {getattr(self, name)}")
        for name in ("top", "quality_temperature", "region", "centre", "sigma"):
            if getattr(self, name) <= 0:
                raise ValueError(f"RegionSettings.{name} must be above 0, got {getattr(self, name)}")
        if self.rho < 0:
            raise ValueError(f"RegionSettings.rho must not be negative, got {self.rho}")


DEFAULT_SETTINGS = RegionSettings()


@dataclass(frozen=True)
class Targets:
    """A batch's ground truth with each teacher's proposals for it.

    Attributes:
        boxes: `(N, J, 4)` ground truth, zero where padded.
        valid: `(N, J)` bool, False where padded.
        proposals: `(N, J, n, P, 4)` the same-target sets, best first.
        goodness: `(N, J, n, P)` u = score^0.2 IoU^0.8; 0 where there is no proposal.
        weights: `(N, J, n)` omega, the teachers' weights for a target; their sum is 1.
    """

    boxes: Tensor
    valid: Tensor
    proposals: Tensor
    goodness: Tensor
    weights: Tensor

    @property
    def quality(self) -> Tensor:
        """`(N, J, n)` q: the goodness of a teacher's best proposal for a target, 0 without one."""
        return self.goodness.amax(dim=-1)

    @property
    def found(self) -> Tensor:
        """`(N, J)` bool: whether any teacher has a proposal for the target."""
        return (self.goodness > 0).flatten(2).any(dim=-1)

    @property
    def shares(self) -> Tensor:
        """`(N, J, n, P)`: what each proposal counts in the stack; sum 1 for a found target, else 0."""
        total = self.goodness.sum(dim=-1, keepdim=True)
        return self.weights[..., None] * self.goodness / total.clamp(min=torch.finfo(total.dtype).tiny)


def teacher_weights(quality: Tensor, temperature: float) -> Tensor:
    """Return omega: the softmax of `q / temperature` over the teachers that have proposals.

    Args:
        quality: `(..., n)`, 0 for a teacher without proposals.
        temperature: of the softmax.

    Returns:
        `(..., n)`, sum 1; uniform where no teacher has a proposal.
    """
    silent = quality <= 0
    logits = (quality / temperature).masked_fill(silent & ~silent.all(dim=-1, keepdim=True), -torch.inf)
    return logits.softmax(dim=-1)


def _stack(proposals: Sequence[Sequence[Proposals]], settings: RegionSettings) -> tuple[Tensor, ...]:
    """Return boxes `(N, n, M, 4)`, scores and labels `(N, n, M)`, padded with score 0 and label -1."""
    boxes, scores, labels = [], [], []
    for image in proposals:
        for teacher in image:
            if not len(teacher.boxes) == len(teacher.scores) == len(teacher.labels):
                raise ValueError(
                    "a teacher's boxes, scores and labels must be of one length, got "
                    f"{len(teacher.boxes)}, {len(teacher.scores)} and {len(teacher.labels)}"
                )
            keep = (teacher.scores >= settings.score).nonzero().squeeze(1)  # most of them go here, the rest is small
            boxes.append(teacher.boxes[keep].float())
            scores.append(teacher.scores[keep].float())
            labels.append(teacher.labels[keep])
    shape = (len(proposals), len(proposals[0]), -1)
    room = max(0, settings.top - max(len(s) for s in scores))  # topk needs `top` entries to choose from

    def padded(rows: list[Tensor], value: int) -> Tensor:
        stacked = pad_sequence(rows, batch_first=True, padding_value=value)
        return functional.pad(stacked, (0, 0) * (stacked.dim() - 2) + (0, room), value=value)

    return padded(boxes, 0).view(*shape, 4), padded(scores, 0).view(shape), padded(labels, -1).view(shape)


@torch.no_grad()
def match_batch(
    proposals: Sequence[Sequence[Proposals]],
    boxes: Sequence[Tensor],
    labels: Sequence[Tensor],
    settings: RegionSettings = DEFAULT_SETTINGS,
) -> Targets:
    """Find each teacher's proposals for each target of a batch, their goodness and the teachers' weights.

    A proposal means a target if it has its label, overlaps it by `settings.iou` and scores
    `settings.score`; one proposal may mean several targets. A teacher that lacks a category has no
    proposal of that label and so no weight for it.

    Args:
        proposals: for each of N images, for each of n teachers in one fixed order, its proposals.
        boxes: for each image `(n, 4)` ground truth, crowd left out.
        labels: for each image `(n,)` int64, not negative.
        settings: thresholds.

    Raises:
        ValueError: if the sequences disagree in length or there is no teacher.
    """
    counts = {len(image) for image in proposals}
    if len(counts) != 1 or 0 in counts:
        raise ValueError(f"every image needs the same teachers, at least one; got counts {sorted(counts)}")
    if not len(proposals) == len(boxes) == len(labels):
        raise ValueError(
            "proposals, boxes and labels must be of as many images, got "
            f"{len(proposals)}, {len(boxes)} and {len(labels)}"
        )
    truth, valid = pad_boxes([b.float() for b in boxes])  # (N, J, 4), (N, J)
    label = truth.new_full(valid.shape, -2, dtype=torch.int64)  # never a padded proposal's -1
    label[valid] = torch.cat(list(labels)).to(label)
    candidates, scores, names = _stack(proposals, settings)
    overlap = box_iou(truth[:, None], candidates).nan_to_num(0.0)  # (N, n, J, M); 0/0 for two empty boxes
    means = (names[:, :, None] == label[:, None, :, None]) & (overlap >= settings.iou)
    goodness = scores[:, :, None].pow(settings.score_power) * overlap.pow(1 - settings.score_power)
    best = (goodness * means).topk(settings.top, dim=-1)  # (N, n, J, P)
    flat = best.indices.flatten(2)[..., None].expand(-1, -1, -1, 4)
    chosen = candidates.gather(2, flat).unflatten(2, best.indices.shape[2:])
    goodness = best.values.transpose(1, 2)
    return Targets(
        boxes=truth,
        valid=valid,
        proposals=chosen.transpose(1, 2),
        goodness=goodness,
        weights=teacher_weights(goodness.amax(dim=-1), settings.quality_temperature),
    )


def match_proposals(
    teachers: Sequence[Proposals], boxes: Tensor, labels: Tensor, settings: RegionSettings = DEFAULT_SETTINGS
) -> Targets:
    """Return `match_batch` of one image: n teachers' proposals, boxes `(J, 4)` and labels `(J,)`."""
    return match_batch([teachers], [boxes], [labels], settings)


@dataclass(frozen=True)
class Regions:
    """Weights of one level's cells, and what they were made from.

    `centre`, `boundary` and `background` are never above 0 in the same cell, and one of them is
    everywhere. Each target spreads mass 1 over its own centre and boundary.

    Attributes:
        centre: `(N, H, W)` weight of centre cells, the highest over targets; 0 elsewhere.
        boundary: `(N, H, W)` weight of boundary cells that are no target's centre.
        background: `(N, H, W)` 1 / count outside every region.
        coverage: `(N, J, H, W)` V in [0, 1], how much of the stack covers a cell.
        response: `(N, J, H, W)` G in [0, 1], the proposals' Gaussians; 0 for a target without proposals.
        mass: `(N, J, H, W)` each target's own weights before the maximum over targets.
        centres: `(N, J, H, W)` bool, each target's centre.
    """

    centre: Tensor
    boundary: Tensor
    background: Tensor
    coverage: Tensor
    response: Tensor
    mass: Tensor
    centres: Tensor


def _stacked(shares: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return `sum_p share_p row_p column_p` `(N, J, H, W)` of factors `(N, J, p, H)` and `(N, J, p, W)`."""
    with torch.autocast(shares.device.type, enabled=False):
        return torch.einsum("njp,njph,njpw->njhw", shares, rows, columns)


def _bells(centres: Tensor, sigmas: Tensor, stride: int, cells: int) -> Tensor:
    """Return Gaussians `(..., cells)` along one axis, read in the middle of each cell."""
    middles = (torch.arange(cells, device=centres.device, dtype=centres.dtype) + 0.5) * stride
    # Below half a cell a Gaussian falls between the middles and its maximum would round to 0.
    sigmas = sigmas.clamp(min=stride / 2)
    return torch.exp(-0.5 * ((middles - centres[..., None]) / sigmas[..., None]).square())


@torch.no_grad()
def build_regions(
    targets: Targets,
    size: tuple[int, int],
    stride: int,
    settings: RegionSettings = DEFAULT_SETTINGS,
) -> Regions:
    """Draw the regions of a batch on one level.

    A cell belongs to a target's region if the ground-truth box holds it or a fifth of the stack does.
    Its centre are the box's cells that `settings.centre` of the stack agrees on (else those near the
    highest agreement, else, where the stack misses the box, all of them); the rest is boundary. The
    centre weighs 1 + rho G, the boundary 1 inside the box and V outside, divided by their sum.
    A target without proposals is all centre and weighs its cells evenly, as in FGD.

    Args:
        targets: of `match_batch`.
        size: `(H, W)` of the map.
        stride: pixels a cell.
        settings: thresholds.
    """
    height, width = size
    shares = targets.shares.flatten(2)  # (N, J, p), p = n P
    proposals = targets.proposals.flatten(2, 3)  # (N, J, p, 4)
    ground = cell_ranges(targets.boxes, stride, height, width)
    cells = range_masks(ground, height, width) & targets.valid[..., None, None]

    rows, columns = cell_indicators(cell_ranges(proposals, stride, height, width), height, width)
    coverage = _stacked(shares, rows.to(shares), columns.to(shares)).clamp(max=1)
    coverage = torch.where(targets.found[..., None, None], coverage, cells.to(coverage))

    wide, high = proposals[..., 2] - proposals[..., 0], proposals[..., 3] - proposals[..., 1]
    response = _stacked(
        shares,
        _bells((proposals[..., 1] + proposals[..., 3]) / 2, high * settings.sigma, stride, height),
        _bells((proposals[..., 0] + proposals[..., 2]) / 2, wide * settings.sigma, stride, width),
    )
    peak = response.amax(dim=(2, 3), keepdim=True)
    response = response / peak.clamp(min=torch.finfo(peak.dtype).tiny)

    region = cells | ((coverage >= settings.region - SLACK) & targets.valid[..., None, None])
    inside = coverage * cells
    agreed = inside.amax(dim=(2, 3), keepdim=True)  # 0 where the stack misses the box: all its cells pass
    # One threshold serves all three cases: where no cell reaches `centre`, the highest agreement sets it.
    bar = torch.where(agreed >= settings.centre - SLACK, torch.ones_like(agreed), agreed) * settings.centre
    centres = cells & (coverage >= bar - SLACK)

    weight = torch.where(centres, 1 + settings.rho * response, torch.where(cells, 1.0, coverage)) * region
    mass = weight / weight.sum(dim=(2, 3), keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny)
    centre = (mass * centres).amax(dim=1)
    boundary = (mass * ~centres).amax(dim=1) * (centre == 0)
    return Regions(
        centre=centre,
        boundary=boundary,
        background=spread(~region.any(dim=1)),
        coverage=coverage,
        response=response,
        mass=mass,
        centres=centres,
    )


@torch.no_grad()
def quality_prior(targets: Targets, regions: Regions, temperature: float = 0.25) -> Tensor:
    """Return Q_n(x): the highest `q_nj / temperature` of the targets whose region covers x; 0 elsewhere.

    Args:
        targets: of `match_batch`.
        regions: of `build_regions` on the level asked for.
        temperature: of the softmax over teachers that reads Q.

    Returns:
        `(N, n, H, W)`.
    """
    region = regions.mass > 0  # (N, J, H, W)
    quality = targets.quality / temperature  # (N, J, n)
    # A loop over the few teachers: (N, J, n, H, W) at once would be the largest tensor of the step.
    return torch.stack([(region * q[..., None, None]).amax(dim=1) for q in quality.unbind(dim=2)], dim=1)
