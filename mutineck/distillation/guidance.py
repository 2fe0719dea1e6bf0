"""What teaches a student in one arm: frozen teachers, intermediate teacher, and how their guides are combined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mutineck.clusters.centroids import load_centroids
from mutineck.detection.frozen import FrozenDetector, Proposals, detector_channels, detector_strides
from mutineck.detectors.batch_view import by_image, view_of
from mutineck.detectors.cache import open_cache
from mutineck.detectors.folders import load_folder
from mutineck.distillation.guide import Guide, GuideSettings
from mutineck.distillation.heads import Pair, SecondStage, boxes_to_ask, comparable, compare_heads
from mutineck.distillation.losses.centroid import CentroidWeights
from mutineck.distillation.losses.confidence import ca_mkd_weights
from mutineck.distillation.losses.fgd import FGDWeights
from mutineck.study.arms import ArmSpec
from mutineck.study.experiment import DistillationSpec
from mutineck.system.errors import ExperimentError
from mutineck.teachers.merge import MergedTeachers
from mutineck.teachers.regions import Regions, RegionSettings, Targets, build_regions, match_batch

CENTROID_WARMUP_EPOCHS = 1.0


class Donor(NamedTuple):
    """A detector that a student may inherit from: its strides, and the student's label of each of its categories."""

    name: str
    model: Any
    strides: tuple[int, ...]
    label_map: Tensor

    @classmethod
    def of(cls, teacher: FrozenDetector) -> Donor:
        """Return a frozen teacher as a donor."""
        return cls(teacher.name, teacher.model, teacher.strides, teacher.label_map)


class Guidance(nn.Module):
    """The teaching side of one arm.

    Its parameters (adapters, FGD's R, a jointly trained merge neck) are no part of the student.

    Args:
        arm: what is learnt from whom.
        weights: loss weights, the arm's overrides applied.
        teachers: each `{name, folder, aliases}`, in the experiment's order; the first is the anchor.
        intermediate: folder of the intermediate teacher, or None.
        joint: config of an `IntermediateTeacher` that learns in the student's run, or None.
        centroids: name of a teacher (or `intermediate`) to its centroid file.
        student: the detector that learns; looked at, not held.
        categories: the student's.
        normalisation: of the student's input.
        cache: fields of `TensorCache` for what frozen teachers say, or None.
    """

    def __init__(
        self,
        *,
        arm: ArmSpec,
        weights: DistillationSpec,
        teachers: Sequence[Mapping[str, Any]],
        intermediate: str | None,
        joint: Mapping[str, Any] | None,
        centroids: Mapping[str, str],
        student: Any,
        categories: Sequence[str],
        normalisation: Mapping[str, Any],
        cache: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.arm = arm
        self.categories = len(categories)
        self.cache = open_cache(cache)
        self.weights = weights
        self.region_settings = RegionSettings(**weights.regions.model_dump())
        self.joint: Any = None
        # Frozen detectors are no modules: they stay outside of state_dict, train() and the optimiser.
        self.intermediate: FrozenDetector | None = None
        self.teachers: list[FrozenDetector] = []

        def load(name: str, folder: str, aliases: Mapping[str, str] | None = None) -> FrozenDetector:
            return load_folder(
                Path(folder),
                name=name,
                student_categories=categories,
                student_normalisation=normalisation,
                aliases=aliases,
            )

        if arm.needs_intermediate and joint is not None:
            from mmdet.models import build_detector

            self.joint = build_detector(joint)
        elif arm.needs_intermediate:
            if intermediate is None:
                raise ExperimentError("this arm learns from the intermediate teacher, and none was given")
            self.intermediate = load("intermediate", intermediate)
        else:
            chosen = [t for t in teachers if arm.source in ("", t["name"])] or list(teachers)
            self.teachers = [load(t["name"], t["folder"], t.get("aliases")) for t in chosen]
        fgd = FGDWeights(weights.alpha, weights.beta, weights.gamma, weights.lambda_, weights.temperature)
        settings = GuideSettings(
            feature=arm.feature,
            fgd=fgd,
            peer=weights.peer,
            cwd=weights.cwd,
            student_kind="two_stage" if hasattr(student, "roi_head") else "one_stage",
            centroid=CentroidWeights(weights.centroid, weights.centroid_distance),
            centroid_cosine=weights.centroid_cosine,
        )
        student_strides, student_channels = detector_strides(student), detector_channels(student)
        self.heads: Pair | None = None
        self.remark = ""
        """Why second stages are not compared, where `distillation.logits` asks for it."""
        if arm.compares_heads and weights.logits:
            taught = SecondStage.of(student, student_strides)
            self.heads, self.remark = comparable(taught, self._intermediate_second_stage())
        self.guides: Any = nn.ModuleList()
        for name, strides, channels in self._sources():
            levels = match_strides(name, strides, student_strides, weights.strides)
            found = load_centroids(Path(centroids[name])) if arm.centroids else None
            self.guides.append(
                Guide(
                    name,
                    student_channels=student_channels,
                    teacher_channels=channels,
                    strides=levels,
                    shared_strides=match_strides(name, strides, student_strides, None),
                    teacher_strides=sorted(strides),
                    settings=settings,
                    centroids=found,
                    always_adapt=arm.source == "adapters",
                    reduce=_mean_over_processes,
                )
            )

    def _intermediate_second_stage(self) -> SecondStage | None:
        model = self.joint.detector if self.joint is not None else self.intermediate.model  # type: ignore[union-attr]
        return SecondStage.of(model, detector_strides(model))

    def _sources(self) -> list[tuple[str, tuple[int, ...], int]]:
        merged = self._merged()
        if merged is not None:
            return [("intermediate", merged.strides, merged.out_channels)]
        return [(teacher.name, teacher.strides, teacher.channels) for teacher in self.teachers]

    def _merged(self) -> MergedTeachers | None:
        if self.joint is not None:
            return self.joint.merged
        return _merged_of(self.intermediate) if self.intermediate is not None else None

    @property
    def donors(self) -> list[Donor]:
        """The detectors that the student may inherit from, later ones on top of earlier ones.

        The intermediate teacher has heads and no neck of the student's kind: that comes from the anchor below it. Where
        it learns in the student's run, its heads are those that both start with.
        """
        merged = self._merged()
        if merged is None:
            return [Donor.of(teacher) for teacher in self.teachers[:1]]
        anchor = Donor.of(merged.teachers[0])
        if self.intermediate is not None:
            return [anchor, Donor.of(self.intermediate)]
        learning = self.joint.detector
        same = torch.arange(self.categories, device=anchor.label_map.device)
        return [anchor, Donor("the start of the intermediate teacher", learning, detector_strides(learning), same)]

    def forward(
        self,
        image: Tensor,
        metas: list[dict[str, Any]],
        boxes: Sequence[Tensor],
        labels: Sequence[Tensor],
        student: Mapping[int, Tensor],
        *,
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
            epoch: epochs trained so far, with the part of the current one.
            epochs: of the whole run.
        """
        maps, proposals, losses = self._look(image, metas, boxes, labels)
        targets = match_batch(proposals, boxes, labels, self.region_settings) if proposals else None
        regions = self._regions(targets, student) if self.arm.regions and targets is not None else None
        shares = self._shares(targets, epoch / max(1, epochs))
        by_target = self.arm.source == "adapters"
        totals: dict[str, Tensor] = {}
        logs: dict[str, Tensor] = {}
        warmth = _warmth(epoch, self.weights.warmup_epochs)
        for index, (guide, own) in enumerate(zip(self.guides, maps, strict=True)):
            if float(shares[index]) == 0.0:
                # A teacher whose turn it is not: no comparison, but its parameters stay part of the step.
                terms = {"idle": sum((p.sum() for p in guide.parameters()), start=image.new_zeros(()))}
            else:
                terms = guide(
                    student,
                    own,
                    boxes,
                    labels,
                    regions=regions,
                    targets=targets if by_target else None,
                    teacher_index=index if by_target else None,
                )
            for term, value in terms.items():
                scale = warmth * (_warmth(epoch, CENTROID_WARMUP_EPOCHS) if term in ("direction", "distance") else 1.0)
                weighted = shares[index] * scale * value
                totals[term] = totals[term] + weighted if term in totals else weighted
                if len(self.guides) > 1:
                    logs[f"kd/{guide.name}/{term}"] = value.detach()
        totals |= {term: warmth * value for term, value in self._said(student, maps[0], proposals, boxes).items()}
        if targets is not None and targets.weights.shape[-1] > 1:
            omega = (
                targets.weights[targets.valid].mean(dim=0) if targets.valid.any() else targets.weights.mean(dim=(0, 1))
            )
            merged = self._merged()
            names = [teacher.name for teacher in (merged.teachers if merged is not None else self.teachers)]
            logs |= {f"omega/{name}": value.detach() for name, value in zip(names, omega, strict=True)}
        return losses | {f"loss_kd_{term}": value for term, value in totals.items()} | logs

    def _look(
        self, image: Tensor, metas: list[dict[str, Any]], boxes: Sequence[Tensor], labels: Sequence[Tensor]
    ) -> tuple[list[dict[int, Tensor]], list[list[Proposals]], dict[str, Any]]:
        """Return each guide's teaching maps, the teachers' proposals (none if not needed), and L_merge's terms."""
        view = view_of(image, metas, self.cache)
        merged = self._merged()
        teachers = merged.teachers if merged is not None else self.teachers
        wanted = self.arm.needs_proposals
        proposals = by_image([view.proposals(teacher) for teacher in teachers]) if wanted else []
        if self.intermediate is not None and merged is not None and not merged.neck.gates:
            # `mode: prior`: the quality of the proposals for this batch's truth mixes, which no cache can know.
            said = proposals or by_image([view.proposals(teacher) for teacher in teachers])
            self.intermediate.to(image.device)
            with torch.no_grad():
                own = [view.maps(teacher) for teacher in teachers]
                prior = merged.prior(match_batch(said, boxes, labels, merged.settings), own)
                return [merged.neck(own, prior)], proposals, {}
        if self.intermediate is not None:
            return [view.merged(self.intermediate)], proposals, {}
        if merged is None:
            return [view.maps(teacher) for teacher in teachers], proposals, {}
        with merged.seeing(view):
            terms = self.joint.forward_train(image, metas, list(boxes), list(labels))
        with torch.no_grad():
            maps = merged.neck([view.maps(teacher) for teacher in teachers])
        return [maps], proposals, {f"merge.{name}": value for name, value in terms.items()}

    def _said(
        self,
        student: Mapping[int, Tensor],
        merged: Mapping[int, Tensor],
        proposals: list[list[Proposals]],
        boxes: Sequence[Tensor],
    ) -> dict[str, Tensor]:
        """Return the weighted terms of second stages, none if these are not compared."""
        if self.heads is None:
            return {}
        if self.intermediate is not None:
            self.intermediate.to(boxes[0].device)  # merged maps that were kept come from no pass of it
        asked = boxes_to_ask(proposals, boxes, most=self.weights.logit_proposals)
        terms = compare_heads(self.heads, student, merged, asked, reduce=_mean_over_processes)
        return {name: self.weights.logits * value for name, value in terms.items()}

    def _regions(self, targets: Targets, student: Mapping[int, Tensor]) -> dict[int, Regions]:
        # By the student's maps: it has every level that any guide compares, which no single teacher need have.
        strides = sorted({s for guide in self.guides for s in guide.strides})
        sizes = {s: (student[s].shape[2], student[s].shape[3]) for s in strides}
        return {s: build_regions(targets, size, s, self.region_settings) for s, size in sizes.items()}

    def _shares(self, targets: Targets | None, progress: float) -> Tensor | list[float]:
        """Return what each guide counts in this step."""
        n = len(self.guides)
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


def _merged_of(intermediate: FrozenDetector) -> MergedTeachers:
    return intermediate.model.backbone  # type: ignore[return-value]


def match_strides(
    name: str, teacher: Sequence[int], student: Sequence[int], wanted: Sequence[int] | None
) -> tuple[int, ...]:
    """Return the strides that student and teacher share (and that are wanted), rising.

    Raises:
        ExperimentError: there is none; names both.
    """
    shared = sorted(set(teacher) & set(student))
    chosen = tuple(s for s in shared if wanted is None or s in wanted)
    if not chosen:
        raise ExperimentError(
            f"no level to distil: the student has strides {tuple(student)}, {name!r} has {tuple(teacher)}"
            + (f", distillation.strides asks for {tuple(wanted)}" if wanted else "")
        )
    return chosen


def _warmth(epoch: float, epochs: float) -> float:
    return 1.0 if epochs <= 0 else min(1.0, epoch / epochs)


def _mean_over_processes(value: Tensor) -> Tensor:
    from mmdet.core import reduce_mean

    return reduce_mean(value)
