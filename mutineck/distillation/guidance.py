"""What a student is taught in one arm: the terms of its teachers, weighted and combined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mutineck.clusters.centroids import load_centroids
from mutineck.detection.frozen import Proposals, detector_channels, detector_strides
from mutineck.distillation.ensemble import TeacherEnsemble
from mutineck.distillation.heads import SecondStage, SecondStagePair, comparable, compare_heads, comparison_boxes
from mutineck.distillation.losses.confidence import ca_mkd_weights
from mutineck.distillation.losses.region import region_masks
from mutineck.distillation.teacher_loss import TeacherLoss, match_levels, omega_masks
from mutineck.study.arms import ArmSpec
from mutineck.study.experiment import DistillationSpec
from mutineck.teachers.regions import RegionSettings, Targets, match_batch

CENTROID_WARMUP_EPOCHS = 1.0


class Guidance(nn.Module):
    """The teaching side of one arm.

    Its parameters (adapters, FGD's R, a jointly trained merge neck) are no part of the student.

    Args:
        arm: what is learnt from whom.
        weights: loss weights, the arm's overrides applied.
        ensemble: the teachers.
        student: the detector that learns; its strides and channels are read, it is not held.
        centroids: name of a teacher (or `intermediate`) to its centroid file.
    """

    def __init__(
        self,
        arm: ArmSpec,
        weights: DistillationSpec,
        ensemble: TeacherEnsemble,
        student: Any,
        centroids: Mapping[str, str],
    ) -> None:
        super().__init__()
        self.arm = arm
        self.weights = weights
        self.region_settings = RegionSettings(**weights.regions.model_dump())
        self.ensemble = ensemble
        strides = detector_strides(student)
        self.heads: SecondStagePair | None = None
        self.remark = ""
        """Why second stages are not compared, where `distillation.logits` asks for it."""
        if arm.compares_heads and weights.logits:
            self.heads, self.remark = comparable(SecondStage.of(student, strides), ensemble.second_stage)
        self.teacher_losses: Any = nn.ModuleList(
            TeacherLoss(
                source.name,
                student_channels=detector_channels(student),
                teacher_channels=source.channels,
                levels=match_levels(source.name, source.strides, strides, weights.strides),
                feature=arm.feature,
                weights=weights,
                two_stage=hasattr(student, "roi_head"),
                centroids=load_centroids(Path(centroids[source.name])) if arm.centroids else None,
                always_adapt=arm.source == "adapters",
                reduce=_mean_over_processes,
            )
            for source in ensemble.sources
        )

    def forward(
        self,
        image: Tensor,
        metas: list[dict[str, Any]],
        boxes: Sequence[Tensor],
        labels: Sequence[Tensor],
        student: Mapping[int, Tensor],
        *,
        ignored: Sequence[Tensor] | None = None,
        epoch: float,
        epochs: int,
    ) -> dict[str, Tensor]:
        """Return the terms to add to the student's detection losses (`loss_kd_*`), and per-teacher values to log.

        Args:
            image: `(N, 3, H, W)`, the batch that the student saw.
            metas: mmdet's `img_metas`.
            boxes: for each image `(n, 4)` as `(x_min, y_min, x_max, y_max)`, input pixels.
            labels: for each image `(n,)` int64.
            student: the student's maps, stride to `(N, C, H, W)`.
            ignored: for each image `(m, 4)`, boxes that are neither object nor background; None for none.
            epoch: epochs trained so far, with the part of the current one.
            epochs: of the whole run.
        """
        maps, proposals, losses = self.ensemble(
            image, metas, boxes, labels, proposals=self.arm.needs_proposals, ignored=ignored
        )
        targets = match_batch(proposals, boxes, labels, self.region_settings) if proposals else None
        regions = self._region_masks(targets, student) if self.arm.regions and targets is not None else None
        shares = self._shares(targets, epoch / max(1, epochs))
        totals: dict[str, Tensor] = {}
        logs: dict[str, Tensor] = {}
        warmth = _warmth(epoch, self.weights.warmup_epochs)
        for index, (loss, own) in enumerate(zip(self.teacher_losses, maps, strict=True)):
            if float(shares[index]) == 0.0:
                # A teacher whose turn it is not: no comparison, but its parameters stay part of the step.
                terms = {"idle": sum((p.sum() for p in loss.parameters()), start=image.new_zeros(()))}
            else:
                masks = regions
                if targets is not None and self.arm.source == "adapters":
                    masks = {s: omega_masks(targets, index, s, _size(student[s])) for s in loss.levels.compared}
                terms = loss(student, own, boxes, labels, masks=masks, ignored=ignored)
            for term, value in terms.items():
                scale = warmth * (_warmth(epoch, CENTROID_WARMUP_EPOCHS) if term in ("direction", "distance") else 1.0)
                weighted = shares[index] * scale * value
                totals[term] = totals[term] + weighted if term in totals else weighted
                if len(self.teacher_losses) > 1:
                    logs[f"kd/{loss.name}/{term}"] = value.detach()
        second = self._second_stage_terms(student, maps[0], proposals, boxes, ignored)
        totals |= {term: warmth * value for term, value in second.items()}
        if targets is not None and targets.weights.shape[-1] > 1:
            logs |= self._mean_omega(targets)
        return losses | {f"loss_kd_{term}": value for term, value in totals.items()} | logs

    def _region_masks(self, targets: Targets, student: Mapping[int, Tensor]) -> dict[int, dict[str, Tensor]]:
        """Return centre, boundary and background of every level that any teacher's maps are compared on."""
        # By the student's maps: it has every such level, which no single teacher need have.
        strides = sorted({s for loss in self.teacher_losses for s in loss.levels.compared})
        return {s: region_masks(targets, s, _size(student[s]), self.region_settings) for s in strides}

    def _second_stage_terms(
        self,
        student: Mapping[int, Tensor],
        merged: Mapping[int, Tensor],
        proposals: list[list[Proposals]],
        boxes: Sequence[Tensor],
        ignored: Sequence[Tensor] | None,
    ) -> dict[str, Tensor]:
        """Return the weighted terms of second stages, none if these are not compared."""
        if self.heads is None:
            return {}
        asked = comparison_boxes(proposals, boxes, ignored, most=self.weights.logit_proposals)
        terms = compare_heads(self.heads, student, merged, asked, reduce=_mean_over_processes)
        return {name: self.weights.logits * value for name, value in terms.items()}

    def _mean_omega(self, targets: Targets) -> dict[str, Tensor]:
        """Return each teacher's weight by the name that it is logged under, mean over targets."""
        valid = targets.valid
        omega = targets.weights[valid].mean(dim=0) if valid.any() else targets.weights.mean(dim=(0, 1))
        names = [teacher.name for teacher in self.ensemble.single]
        return {f"omega/{name}": value.detach() for name, value in zip(names, omega, strict=True)}

    def _shares(self, targets: Targets | None, progress: float) -> Tensor | list[float]:
        """Return what each teacher counts in this step."""
        n = len(self.teacher_losses)
        if self.arm.source == "confidence" and n > 1:
            return confidence_shares(targets)
        if self.arm.source == "sequential":
            turn = min(n - 1, int(progress * n))
            # The anchor, which is of the student's own type, has the last word.
            return [1.0 if index == n - 1 - turn else 0.0 for index in range(n)]
        return [1.0 / n] * n


def confidence_shares(targets: Targets | None) -> Tensor:
    """Return CA-MKD's weights `(n,)` of the teachers for a batch.

    A teacher's loss against the ground truth is the mean over targets of `-log q`, q the goodness of its best proposal
    for the target (at least 0.01): the cross entropy of what it says of them, without running its training heads.
    """
    if targets is None:
        raise RuntimeError("confidence weights need the teachers' proposals")
    quality = targets.quality.clamp(min=0.01)[targets.valid]  # (targets, n)
    if len(quality) == 0:
        return ca_mkd_weights(targets.quality.new_zeros(targets.quality.shape[-1]))
    return ca_mkd_weights(-quality.log().mean(dim=0))


def _warmth(epoch: float, epochs: float) -> float:
    return 1.0 if epochs <= 0 else min(1.0, epoch / epochs)


def _size(maps: Tensor) -> tuple[int, int]:
    return maps.shape[2], maps.shape[3]


def _mean_over_processes(value: Tensor) -> Tensor:
    from mmdet.core import reduce_mean

    return reduce_mean(value)
