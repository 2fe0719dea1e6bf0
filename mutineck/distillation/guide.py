"""What a student's maps are compared with: one guide for each set of teaching maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mutineck.clusters.centroids import Centroids
from mutineck.detection.cells import box_levels, cell_ranges, heaviest, spread
from mutineck.detection.roi import instance_vectors
from mutineck.distillation.losses import cwd, mgd, pkd
from mutineck.distillation.losses.centroid import CentroidLoss, CentroidWeights
from mutineck.distillation.losses.cwd import CWDLoss
from mutineck.distillation.losses.fgd import FGDMasks, FGDWeights, FocalGlobal, fgd_masks
from mutineck.distillation.losses.mgd import MGDLoss
from mutineck.distillation.losses.pkd import PKDLoss
from mutineck.distillation.losses.region import RegionWeights
from mutineck.teachers.regions import Regions, Targets


@dataclass(frozen=True)
class GuideSettings:
    """How one guide compares maps.

    Attributes:
        feature: `fgd`, `mgd`, `pkd` or `cwd`.
        fgd: weights and temperature of the FGD terms.
        peer: weight of MGD, PKD or CWD as `feature`; the published one if None.
        cwd: weight of CWD's term beside FGD's; 0 for FGD's alone.
        student_kind: `two_stage` or `one_stage` (MGD publishes two settings).
        centroid: weights of the centroid terms.
        centroid_cosine: gate of the centroid terms.
    """

    feature: str = "fgd"
    fgd: FGDWeights = field(default_factory=FGDWeights)
    peer: float | None = None
    cwd: float = 0.0
    student_kind: str = "two_stage"
    centroid: CentroidWeights = field(default_factory=CentroidWeights)
    centroid_cosine: float = 0.5


class Guide(nn.Module):
    """Losses of the student's maps against one set of teaching maps, level by level.

    Args:
        name: whose maps these are, for logs.
        student_channels: C of the student's maps.
        teacher_channels: C of the teaching maps.
        strides: levels to compare.
        shared_strides: levels that student and teacher share, compared or not; `strides` if None.
        teacher_strides: all levels of the teacher, from which centroids' vectors were pooled; the shared ones if None.
        settings: how.
        centroids: of the teaching maps' instance vectors, or None for no centroid loss.
        always_adapt: a 1x1 convolution on the student's side even where channels agree.
        reduce: averages a scalar over processes; None in a single one.
    """

    def __init__(
        self,
        name: str,
        *,
        student_channels: int,
        teacher_channels: int,
        strides: Sequence[int],
        settings: GuideSettings,
        shared_strides: Sequence[int] | None = None,
        teacher_strides: Sequence[int] | None = None,
        centroids: Centroids | None = None,
        always_adapt: bool = False,
        reduce: Any = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.strides = tuple(strides)
        self.shared_strides = tuple(shared_strides or strides)
        self.teacher_strides = tuple(teacher_strides or self.shared_strides)
        self.settings = settings
        adapted = self.strides if centroids is None else self.shared_strides
        adapt = always_adapt or student_channels != teacher_channels
        self.adapters = nn.ModuleDict()
        if adapt:
            self.adapters.update({str(s): nn.Conv2d(student_channels, teacher_channels, 1) for s in adapted})
        self.losses = nn.ModuleDict({str(s): self._loss(teacher_channels) for s in strides})
        self.channel_wise = CWDLoss()
        self.centroid_loss = None
        if centroids is not None:
            self.centroid_loss = CentroidLoss(centroids, threshold=settings.centroid_cosine, reduce=reduce)

    def _loss(self, channels: int) -> nn.Module:
        settings = self.settings
        if settings.feature == "fgd":
            return FocalGlobal(channels, temperature=settings.fgd.temperature)
        if settings.feature == "mgd":
            return MGDLoss(channels, mask_ratio=mgd.PUBLISHED_MASK_RATIOS[settings.student_kind])
        return PKDLoss() if settings.feature == "pkd" else CWDLoss()

    def adapt(self, maps: Mapping[int, Tensor], strides: Sequence[int]) -> dict[int, Tensor]:
        """Return the student's maps of some levels as this guide's teacher would have them in channels."""
        return {s: self.adapters[str(s)](maps[s]) if self.adapters else maps[s] for s in strides}

    def forward(
        self,
        student: Mapping[int, Tensor],
        teacher: Mapping[int, Tensor],
        boxes: Sequence[Tensor],
        labels: Sequence[Tensor],
        *,
        regions: Mapping[int, Regions] | None = None,
        targets: Targets | None = None,
        teacher_index: int | None = None,
    ) -> dict[str, Tensor]:
        """Return weighted scalars, each summed over levels.

        Args:
            student: stride to `(N, C, H, W)`.
            teacher: stride to `(N, C', H, W)`; takes no gradient.
            boxes: for each image `(n, 4)` as `(x_min, y_min, x_max, y_max)`, input pixels.
            labels: for each image `(n,)` int64.
            regions: stride to regions: centre, boundary and background take the place of FGD's two masks.
            targets: with `teacher_index`, a target's foreground counts by this teacher's weight for it, 1 on average.
            teacher_index: see `targets`.
        """
        adapted = self.adapt(student, self.strides if self.centroid_loss is None else self.shared_strides)
        terms: dict[str, Tensor] = {}
        for stride in self.strides:
            found = self._level(adapted[stride], teacher[stride], stride, boxes, regions, targets, teacher_index)
            for term, value in found.items():
                terms[term] = terms[term] + value if term in terms else value
        if self.centroid_loss is not None:
            boxes, labels = self._poolable(boxes, labels)
            ours = instance_vectors(adapted, boxes)
            theirs = instance_vectors({s: teacher[s].detach() for s in self.shared_strides}, boxes)
            terms |= self.settings.centroid.weigh(self.centroid_loss(ours, theirs, torch.cat(labels)))
        return terms

    def _poolable(self, boxes: Sequence[Tensor], labels: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return the targets that the teacher pools from a level that the student has too.

        Centroids are of vectors from all of the teacher's levels: from another one, a vector lies in another space.
        """
        shared = torch.tensor([s in self.shared_strides for s in self.teacher_strides])
        kept = [shared.to(b.device)[box_levels(b, self.teacher_strides)] for b in boxes]
        pairs = [(b[keep], label[keep]) for b, label, keep in zip(boxes, labels, kept, strict=True)]
        return [b for b, _ in pairs], [label for _, label in pairs]

    def _level(
        self,
        student: Tensor,
        teacher: Tensor,
        stride: int,
        boxes: Sequence[Tensor],
        regions: Mapping[int, Regions] | None,
        targets: Targets | None,
        teacher_index: int | None,
    ) -> dict[str, Tensor]:
        settings = self.settings
        loss = self.losses[str(stride)]
        if settings.feature != "fgd":
            return {settings.feature: self._peer_weight() * loss(student, teacher)}
        found = loss(student, teacher)
        _, height, width = found.error.shape
        if regions is not None:
            terms = RegionWeights.from_fgd(settings.fgd).weigh(found.under(regions[stride].masks))
        else:
            if targets is not None and teacher_index is not None:
                masks = weighted_masks(targets, teacher_index, stride, (height, width))
            else:
                masks = fgd_masks(boxes, stride, (height, width))
            terms = settings.fgd.weigh(found.under(masks._asdict()))
        if settings.cwd:
            terms["cwd"] = settings.cwd * self.channel_wise(student, teacher)
        return terms

    def _peer_weight(self) -> float:
        settings = self.settings
        if settings.peer is not None:
            return settings.peer
        if settings.feature == "mgd":
            return mgd.PUBLISHED_WEIGHTS[settings.student_kind]
        return pkd.PUBLISHED_WEIGHT if settings.feature == "pkd" else cwd.PUBLISHED_WEIGHT


@torch.no_grad()
def weighted_masks(targets: Targets, teacher: int, stride: int, size: tuple[int, int]) -> FGDMasks:
    """Return FGD's masks with each target's foreground multiplied by n omega, one of n teachers' weight for it.

    The mean of n teachers' masks is FGD's own: where all weights are equal, each teacher's masks are.
    """
    ranges = cell_ranges(targets.boxes, stride, *size)
    weight = targets.weights[..., teacher] * targets.weights.shape[-1]
    covered = heaviest(ranges, targets.valid, *size) > 0  # also where the teacher's share is 0
    return FGDMasks(heaviest(ranges, targets.valid * weight / ranges.count.clamp(min=1), *size), spread(~covered))
