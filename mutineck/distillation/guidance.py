"""What a student is taught in one arm: the terms of its teachers, weighted and combined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mutineck.clusters.centroids import load_centroids
from mutineck.detection.frozen import Proposals, detector_channels, detector_strides
from mutineck.distillation.balance import Balance
from mutineck.distillation.ensemble import TeacherEnsemble
from mutineck.distillation.gradients import loss_terms
from mutineck.distillation.heads import SecondStage, SecondStagePair, comparable, compare_heads, comparison_boxes
from mutineck.distillation.losses.confidence import ca_mkd_weights
from mutineck.distillation.losses.region import region_masks
from mutineck.distillation.teacher_loss import TeacherLoss, match_levels, omega_masks
from mutineck.distillation.weights import term_weights
from mutineck.study.arms import ArmSpec
from mutineck.study.experiment import DistillationSpec
from mutineck.teachers.regions import RegionSettings, Targets, match_batch

CENTROID_WARMUP_EPOCHS = 1.0
CENTROID_TERMS = ("direction", "distance", "contrast")


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
        self.balance: Balance | None = None
        if weights.balance:
            fixed = term_weights(weights, arm.feature, two_stage=hasattr(student, "roi_head"))
            ratios = weights.ratios.model_dump(by_alias=True)
            self.balance = Balance(weights.balance, {t: r for t, r in ratios.items() if fixed.get(t)})

    def forward(
        self,
        image: Tensor,
        metas: list[dict[str, Any]],
        boxes: Sequence[Tensor],
        labels: Sequence[Tensor],
        student: Mapping[int, Tensor],
        *,
        detection: Mapping[str, Any],
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
            detection: the student's detection losses, which balanced terms are weighed by.
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
        warmth = self._warmth(epoch)
        for index, (loss, own) in enumerate(zip(self.teacher_losses, maps, strict=True)):
            share, own_shares = (1.0, shares[:, index]) if isinstance(shares, Tensor) else (shares[index], None)
            if share == 0.0:
                # A teacher whose turn it is not: no comparison, but its parameters stay part of the step.
                terms = {"idle": sum((p.sum() for p in loss.parameters()), start=image.new_zeros(()))}
            else:
                by_omega = targets is not None and self.arm.source == "adapters"
                masks = self._omega_masks(targets, index, student) if by_omega else regions
                counts = {"shares": self._level_shares(index, shares), "pictures": own_shares}
                terms = loss(student, own, boxes, labels, masks=masks, ignored=ignored, **counts)
            for term, value in terms.items():
                weighted = share * warmth.get(term, 1.0) * value
                totals[term] = totals[term] + weighted if term in totals else weighted
                if len(self.teacher_losses) > 1:
                    logs[f"kd/{loss.name}/{term}"] = value.detach()
        second = self._second_stage_terms(student, maps[0], proposals, boxes, ignored)
        totals |= {term: warmth[term] * value for term, value in second.items()}
        if self.balance is not None:
            basis = torch.stack(list(loss_terms(detection).values())).sum()
            totals, factors = self.balance(totals, warmth, basis, list(student.values()))
            logs |= {f"weight/{t}": self.teacher_losses[0].weights[t] * factor for t, factor in factors.items()}
        if targets is not None and targets.weights.shape[-1] > 1:
            logs |= self._mean_omega(targets)
        return losses | {f"loss_kd_{term}": value for term, value in totals.items()} | logs

    def _region_masks(self, targets: Targets, student: Mapping[int, Tensor]) -> dict[int, dict[str, Tensor]]:
        """Return centre, boundary and background of every level that any teacher's maps are compared on."""
        # By the student's maps: it has every such level, which no single teacher need have.
        strides = sorted({s for loss in self.teacher_losses for s in loss.levels.compared})
        return {s: region_masks(targets, s, _size(student[s]), self.region_settings) for s in strides}

    def _omega_masks(
        self, targets: Targets | None, index: int, student: Mapping[int, Tensor]
    ) -> dict[int, dict[str, Tensor]]:
        """Return FGD's masks of every level of a teacher, each target's foreground by the teacher's omega."""
        assert targets is not None
        strides = self.teacher_losses[index].levels.compared
        return {s: omega_masks(targets, index, s, _size(student[s]), self._having(s)) for s in strides}

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
        """Return what each teacher counts in this step: n numbers, or `(N, n)` of the pictures."""
        n = len(self.teacher_losses)
        if self.arm.source == "confidence" and n > 1:
            return confidence_shares(targets)
        if self.arm.source == "sequential":
            turn = min(n - 1, int(progress * n))
            # The anchor, which is of the student's own type, has the last word.
            return [1.0 if index == n - 1 - turn else 0.0 for index in range(n)]
        return [1.0 / n] * n

    def _having(self, stride: int) -> list[int]:
        """Return the teachers, by index, whose maps are compared at a level."""
        return [index for index, loss in enumerate(self.teacher_losses) if stride in loss.levels.compared]

    def _level_shares(self, index: int, shares: Tensor | list[float]) -> dict[int, float | Tensor]:
        """Return what a teacher counts at each of its levels: those who have a level divide all of it.

        That is a number beside the teacher's share, and, where shares are of the pictures, `(N,)` in its place.
        """
        found: dict[int, float | Tensor] = {}
        for stride in self.teacher_losses[index].levels.compared:
            having = self._having(stride)
            if isinstance(shares, Tensor):
                found[stride] = shares[:, index] / shares[:, having].sum(dim=1)
            else:
                found[stride] = sum(shares) / sum(shares[other] for other in having)
        return found

    def _warmth(self, epoch: float) -> dict[str, float]:
        """Return what warm-ups leave of each term."""
        warmth = dict.fromkeys(self.teacher_losses[0].weights, _warmth(epoch, self.weights.warmup_epochs))
        return warmth | {term: warmth[term] * _warmth(epoch, CENTROID_WARMUP_EPOCHS) for term in CENTROID_TERMS}


def confidence_shares(targets: Targets | None) -> Tensor:
    """Return CA-MKD's weights `(N, n)` of the teachers for each picture of a batch.

    A teacher's loss against the ground truth is the mean over a picture's targets of `-log q`, q the goodness of its
    best proposal for the target (at least 0.01): the cross entropy of what it says of them, without its training
    heads. In a picture without targets all teachers count alike.
    """
    if targets is None:
        raise RuntimeError("confidence weights need the teachers' proposals")
    entropy = -targets.quality.clamp(min=0.01).log() * targets.valid[..., None]  # (N, J, n)
    return ca_mkd_weights(entropy.sum(dim=1) / targets.valid.sum(dim=1, keepdim=True).clamp(min=1))


def _warmth(epoch: float, epochs: float) -> float:
    return 1.0 if epochs <= 0 else min(1.0, epoch / epochs)


def _size(maps: Tensor) -> tuple[int, int]:
    return maps.shape[2], maps.shape[3]


def _mean_over_processes(value: Tensor) -> Tensor:
    from mmdet.core import reduce_mean

    return reduce_mean(value)
