"""A student's maps compared with one teacher's, or the intermediate teacher's, level by level."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mutineck.clusters.centroids import Centroids
from mutineck.detection.cells import box_levels, cell_maximum, cell_ranges, pad_boxes, spread
from mutineck.detection.roi import instance_vectors
from mutineck.distillation.losses import mgd
from mutineck.distillation.losses.centroid import CentroidLoss, InstanceLoss
from mutineck.distillation.losses.contrast import ContrastLoss
from mutineck.distillation.losses.cwd import CWDLoss
from mutineck.distillation.losses.fgd import FGDLoss, fgd_masks
from mutineck.distillation.losses.mgd import MGDLoss
from mutineck.distillation.losses.pkd import PKDLoss
from mutineck.distillation.weights import term_weights
from mutineck.study.experiment import DistillationSpec
from mutineck.system.errors import ExperimentError
from mutineck.teachers.regions import Targets


@dataclass(frozen=True)
class Levels:
    """Which levels are compared, by stride.

    Attributes:
        compared: those whose maps are compared, rising.
        shared: those that student and teacher share, compared or not, rising.
        teacher: all of the teacher's, rising: its instance vectors were pooled from these.
    """

    compared: tuple[int, ...]
    shared: tuple[int, ...]
    teacher: tuple[int, ...]


def match_levels(name: str, teacher: Sequence[int], student: Sequence[int], wanted: Sequence[int] | None) -> Levels:
    """Return the levels that student and teacher share, and those of them that are wanted (all if None).

    Raises:
        ExperimentError: there is none; names both.
    """
    shared = tuple(sorted(set(teacher) & set(student)))
    compared = tuple(s for s in shared if wanted is None or s in wanted)
    if not compared:
        raise ExperimentError(
            f"no level to distil: the student has strides {tuple(student)}, {name!r} has {tuple(teacher)}"
            + (f", distillation.strides asks for {tuple(wanted)}" if wanted else "")
        )
    return Levels(compared, shared, tuple(sorted(teacher)))


class TeacherLoss(nn.Module):
    """The terms of a student's maps against one set of teaching maps, weighted, each summed over levels.

    Args:
        name: whose maps these are, for logs.
        student_channels: C of the student's maps.
        teacher_channels: C of the teaching maps.
        levels: which are compared.
        feature: `fgd`, `mgd`, `pkd` or `cwd`.
        weights: of the terms, temperature, and gate of the centroids.
        two_stage: the student's kind: MGD publishes two settings.
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
        levels: Levels,
        feature: str,
        weights: DistillationSpec,
        two_stage: bool = True,
        centroids: Centroids | None = None,
        always_adapt: bool = False,
        reduce: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.levels = levels
        self.feature = feature
        self.weights = term_weights(weights, feature, two_stage=two_stage)
        adapted = levels.compared if centroids is None else levels.shared
        self.adapters = nn.ModuleDict()
        if always_adapt or student_channels != teacher_channels:
            self.adapters.update({str(s): nn.Conv2d(student_channels, teacher_channels, 1) for s in adapted})

        def loss() -> nn.Module:
            if feature == "fgd":
                return FGDLoss(teacher_channels, temperature=weights.temperature)
            if feature == "mgd":
                kind = "two_stage" if two_stage else "one_stage"
                return MGDLoss(teacher_channels, mask_ratio=mgd.PUBLISHED_MASK_RATIOS[kind])
            return PKDLoss() if feature == "pkd" else CWDLoss()

        self.losses = nn.ModuleDict({str(s): loss() for s in levels.compared})
        self.channel_wise = CWDLoss()
        self.centroid_loss: InstanceLoss | None = None
        if centroids is not None and weights.centroid_loss == "contrast":
            self.centroid_loss = ContrastLoss(centroids, reduce=reduce)
        elif centroids is not None:
            self.centroid_loss = CentroidLoss(centroids, threshold=weights.centroid_cosine, reduce=reduce)

    def adapt(self, maps: Mapping[int, Tensor], strides: Sequence[int]) -> dict[int, Tensor]:
        """Return the student's maps of some levels with the teacher's channels."""
        return {s: self.adapters[str(s)](maps[s]) if self.adapters else maps[s] for s in strides}

    def forward(
        self,
        student: Mapping[int, Tensor],
        teacher: Mapping[int, Tensor],
        boxes: Sequence[Tensor],
        labels: Sequence[Tensor],
        *,
        masks: Mapping[int, Mapping[str, Tensor]] | None = None,
        ignored: Sequence[Tensor] | None = None,
        shares: Mapping[int, float | Tensor] | None = None,
        pictures: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return weighted scalars, each summed over levels.

        Args:
            student: stride to `(N, C, H, W)`.
            teacher: stride to `(N, C', H, W)`; takes no gradient.
            boxes: for each image `(n, 4)` as `(x_min, y_min, x_max, y_max)`, input pixels.
            labels: for each image `(n,)` int64.
            masks: stride to the masks of the difference, in place of FGD's of these boxes.
            ignored: for each image `(m, 4)`, boxes whose cells are no background; None for none.
            shares: stride to what the level counts, one number or `(N,)` of the pictures; 1 if None.
            pictures: `(N,)`, what each picture counts in the centroid loss; 1 if None.
        """
        adapted = self.adapt(student, self.levels.compared if self.centroid_loss is None else self.levels.shared)
        if masks is None and self.feature == "fgd":
            padded = pad_boxes(boxes)
            masks = {s: fgd_masks(*padded, s, adapted[s].shape[2:]) for s in self.levels.compared}  # type: ignore[arg-type]
        if masks is not None and ignored is not None and any(len(b) for b in ignored):
            masks = {s: without_ignored(own, ignored, s) for s, own in masks.items()}
        terms: dict[str, Tensor] = {}
        for stride in self.levels.compared:
            share = 1.0 if shares is None else shares[stride]
            by_picture, share = (share, 1.0) if isinstance(share, Tensor) else (None, share)
            found = self._level(
                adapted[stride], teacher[stride], str(stride), masks[stride] if masks else {}, by_picture
            )
            for term, value in found.items():
                weighted = share * self.weights[term] * value
                terms[term] = terms[term] + weighted if term in terms else weighted
        if self.centroid_loss is not None:
            boxes, labels = self._poolable(boxes, labels)
            ours = instance_vectors(adapted, boxes)
            theirs = instance_vectors({s: teacher[s].detach() for s in self.levels.shared}, boxes)
            each = (
                None
                if pictures is None
                else torch.cat([p.expand(len(b)) for p, b in zip(pictures, boxes, strict=True)])
            )
            centroid = self.centroid_loss(ours, theirs, torch.cat(labels), each)
            terms |= {term: self.weights[term] * value for term, value in centroid.items()}
        return terms

    def _level(
        self, student: Tensor, teacher: Tensor, level: str, masks: Mapping[str, Tensor], pictures: Tensor | None
    ) -> dict[str, Tensor]:
        """Return the terms of one level's maps, not weighted."""
        if self.feature != "fgd":
            return {self.feature: self.losses[level](student, teacher, pictures)}
        terms = self.losses[level](student, teacher, masks, pictures)
        if self.weights["cwd"]:
            terms["cwd"] = self.channel_wise(student, teacher, pictures)
        return terms

    def _poolable(self, boxes: Sequence[Tensor], labels: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return the targets that the teacher pools from a level that the student has too.

        Centroids are of vectors from all of the teacher's levels: from another one, a vector lies in another space.
        """
        shared = torch.tensor([s in self.levels.shared for s in self.levels.teacher])
        kept = [shared.to(b.device)[box_levels(b, self.levels.teacher)] for b in boxes]
        pairs = [(b[keep], label[keep]) for b, label, keep in zip(boxes, labels, kept, strict=True)]
        return [b for b, _ in pairs], [label for _, label in pairs]


def omega_masks(
    targets: Targets, teacher: int, stride: int, size: tuple[int, int], having: Sequence[int] | None = None
) -> dict[str, Tensor]:
    """Return FGD's masks with each target's foreground multiplied by n omega, one of n teachers' weight for it.

    The mean of n teachers' masks is FGD's own: where all weights are equal, each teacher's masks are. If only some of
    them have this level (`having`, their indices), n counts those, and omega is divided by its sum over those.
    """
    n = targets.weights.shape[-1]
    weights = targets.weights[..., teacher] * n
    if having is not None and len(having) < n:
        whole = targets.weights[..., list(having)].sum(dim=-1)
        weights = torch.where(whole > 0, len(having) * targets.weights[..., teacher] / whole, 1.0)
    return fgd_masks(targets.boxes, targets.valid, stride, size, weights=weights)


@torch.no_grad()
def without_ignored(masks: Mapping[str, Tensor], ignored: Sequence[Tensor], stride: int) -> dict[str, Tensor]:
    """Return a level's masks with a background that leaves out the cells of ignored boxes; objects keep theirs.

    Args:
        masks: name to weights of cells `(N, H, W)`, `background` among them.
        ignored: for each image `(m, 4)` as `(x_min, y_min, x_max, y_max)`, input pixels.
        stride: pixels a cell.
    """
    background = masks["background"]
    boxes, valid = pad_boxes(ignored)
    height, width = background.shape[1:]
    covered = cell_maximum(cell_ranges(boxes, stride, height, width), valid.to(background), height, width) > 0
    return {**masks, "background": spread((background > 0) & ~covered)}
