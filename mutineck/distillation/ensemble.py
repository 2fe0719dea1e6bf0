"""The detectors that teach in one arm: single frozen teachers, or an intermediate teacher that merges them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from mutineck.detection.frozen import FrozenDetector, Proposals, detector_strides
from mutineck.detection.protocols import Metas
from mutineck.detectors.cache import open_cache
from mutineck.detectors.folders import load_folder
from mutineck.detectors.outputs import BatchOutputs, by_image, outputs_of
from mutineck.distillation.heads import SecondStage
from mutineck.study.arms import ArmSpec
from mutineck.study.experiment import INTERMEDIATE
from mutineck.system.errors import ExperimentError
from mutineck.teachers.merge import IntermediateTeacher, MergedTeachers
from mutineck.teachers.regions import match_batch


class Source(NamedTuple):
    """Where one set of teaching maps comes from: a teacher's name, its strides, and the channels of its maps."""

    name: str
    strides: tuple[int, ...]
    channels: int


class TeacherOutputs(NamedTuple):
    """What an ensemble computes of a batch.

    Attributes:
        maps: of each source, stride to `(N, C, H, W)`, no gradient.
        proposals: for each image, for each single teacher, its proposals; empty where nobody asks for them.
        losses: L_merge's terms, where the intermediate teacher learns in the student's run.
    """

    maps: list[dict[int, Tensor]]
    proposals: list[list[Proposals]]
    losses: dict[str, Any]


class TeacherEnsemble(nn.Module):
    """The teachers of one arm. Its parameters are those of an intermediate teacher that learns in the student's run.

    Args:
        arm: what is learnt from whom.
        teachers: each `{name, folder, aliases}`, in the experiment's order; the first is the anchor.
        intermediate: folder of the intermediate teacher, or None.
        joint: config of an `IntermediateTeacher` that learns in the student's run, or None.
        categories: the student's.
        normalisation: of the student's input.
        cache: fields of `TensorCache` for the outputs of frozen teachers, or None.

    Raises:
        ExperimentError: the arm needs an intermediate teacher and there is none.
    """

    def __init__(
        self,
        arm: ArmSpec,
        *,
        teachers: Sequence[Mapping[str, Any]],
        intermediate: str | None,
        joint: Mapping[str, Any] | None,
        categories: Sequence[str],
        normalisation: Mapping[str, Any],
        cache: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.cache = open_cache(cache)
        self.joint: IntermediateTeacher | None = None
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
            self.intermediate = load(INTERMEDIATE, intermediate)
        else:
            chosen = [t for t in teachers if t["name"] == arm.source] or list(teachers)
            self.teachers = [load(t["name"], t["folder"], t.get("aliases")) for t in chosen]

    @property
    def merged(self) -> MergedTeachers | None:
        """Single teachers and merge neck of the intermediate teacher; None where single teachers teach."""
        if self.joint is not None:
            return self.joint.merged
        return None if self.intermediate is None else cast(MergedTeachers, self.intermediate.model.backbone)

    @property
    def single(self) -> list[FrozenDetector]:
        """The single teachers, merged or not, the anchor first."""
        return self.teachers if self.merged is None else self.merged.teachers

    @property
    def sources(self) -> list[Source]:
        """Whose maps teach."""
        if self.merged is not None:
            return [Source(INTERMEDIATE, self.merged.strides, self.merged.out_channels)]
        return [Source(teacher.name, teacher.strides, teacher.channels) for teacher in self.teachers]

    @property
    def second_stage(self) -> SecondStage | None:
        """The second stage of the intermediate teacher, if it has one that can be compared."""
        if self.joint is None and self.intermediate is None:
            return None
        model = self.joint.detector if self.joint is not None else self.intermediate.model  # type: ignore[union-attr]
        return SecondStage.of(model, detector_strides(model))

    def forward(
        self,
        image: Tensor,
        metas: Metas,
        boxes: Sequence[Tensor],
        labels: Sequence[Tensor],
        *,
        proposals: bool,
        ignored: Sequence[Tensor] | None = None,
    ) -> TeacherOutputs:
        """Return the teaching maps of a batch, the proposals if they are asked for, and L_merge's terms.

        Args:
            image: `(N, 3, H, W)`, as the student sees it.
            metas: mmdet's `img_metas`.
            boxes: for each image `(n, 4)` as `(x_min, y_min, x_max, y_max)`, input pixels.
            labels: for each image `(n,)` int64.
            proposals: whether the single teachers' proposals are needed.
            ignored: for each image `(m, 4)`, boxes that L_merge leaves out; None for none.
        """
        outputs = outputs_of(image, metas, self.cache)
        found = self._proposals(outputs) if proposals else []
        merged = self.merged
        if merged is None:
            return TeacherOutputs([outputs.maps(teacher) for teacher in self.teachers], found, {})
        if self.intermediate is not None:
            self.intermediate.to(image.device)  # merged maps that were kept come from no pass of it
            if merged.neck.gates:
                return TeacherOutputs([outputs.merged(self.intermediate)], found, {})
            # `mode: prior`: the quality of the proposals for this batch's truth mixes, which no cache can know.
            with torch.no_grad():
                own = [outputs.maps(teacher) for teacher in merged.teachers]
                targets = match_batch(found or self._proposals(outputs), boxes, labels, merged.settings)
                return TeacherOutputs([merged.neck(own, merged.prior(targets, own))], found, {})
        assert self.joint is not None
        with merged.using(outputs):
            terms = self.joint.forward_train(image, metas, list(boxes), list(labels), gt_bboxes_ignore=ignored)
        with torch.no_grad():
            maps = merged.neck([outputs.maps(teacher) for teacher in merged.teachers])
        return TeacherOutputs([maps], found, {f"merge.{name}": value for name, value in terms.items()})

    def _proposals(self, outputs: BatchOutputs) -> list[list[Proposals]]:
        return by_image([outputs.proposals(teacher) for teacher in self.single])
