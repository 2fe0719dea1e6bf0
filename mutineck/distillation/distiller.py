"""The distiller: to mmdet a detector like any other; inside, a plain student and whoever teaches it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmcv.runner import HOOKS, Hook
from mmdet.models import DETECTORS, BaseDetector, build_detector
from torch import Tensor, nn

from mutineck.detection.frozen import FrozenDetector, detector_strides
from mutineck.detection.loading import LoadReport, inherit_weights
from mutineck.detection.protocols import Detector, Metas
from mutineck.detectors.folders import load_folder
from mutineck.distillation.ensemble import TeacherEnsemble
from mutineck.distillation.gradients import gradient_shares
from mutineck.distillation.guidance import Guidance
from mutineck.study.arms import OWN, ArmSpec
from mutineck.study.experiment import DistillationSpec
from mutineck.system.errors import ExperimentError
from mutineck.system.seeding import derive_seed, seeded


@DETECTORS.register_module()
class Distiller(BaseDetector):
    """A student with its guidance.

    The student is built and initialised under a seed of its own, so it starts from the same weights in every arm,
    whatever else is built. Teachers are outside the module tree; the student's checkpoint is `student.state_dict()`.

    Args:
        student: `model` dict of the student.
        categories: the student's.
        normalisation: of its input.
        seed: of the student's weights and of the adapters'.
        start: each `{name, folder, aliases}`: detectors whose weights the student starts from, but for the backbone and
            a mask branch; later ones on top of earlier ones; none for its own.
        start_is_asked_for: refuse a start of another type, rather than start from the student's own weights.
        guidance: `arm` and `weights`, fields of `ArmSpec` and `DistillationSpec`; `teachers`, `intermediate`, `joint`
            and `cache` of a `TeacherEnsemble`; `centroids` of a `Guidance`. None for a student without a teacher.
    """

    def __init__(
        self,
        student: Mapping[str, Any],
        categories: Sequence[str],
        normalisation: Mapping[str, Any],
        seed: int = 0,
        start: Sequence[Mapping[str, Any]] = (),
        start_is_asked_for: bool = False,
        guidance: Mapping[str, Any] | None = None,
        train_cfg: Any = None,
        test_cfg: Any = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__(init_cfg)
        self.seed = seed
        self.start = [dict(donor) for donor in start]
        self.start_is_asked_for = start_is_asked_for
        self.categories, self.normalisation = list(categories), dict(normalisation)
        self.inherited: list[LoadReport] = []
        self.epoch, self.epochs = 0.0, 1
        self.measures = False
        self.shares: dict[str, float] = {}
        """Each term's share of the gradient at the student's maps in this step, where it is measured."""
        with seeded(derive_seed(seed, "student")):
            self.student: Detector = build_detector(student)
        self.guidance: Guidance | None = None
        if guidance is not None:
            fields = dict(guidance)
            arm, weights = ArmSpec(**fields.pop("arm")), DistillationSpec(**fields.pop("weights"))
            centroids = fields.pop("centroids")
            with seeded(derive_seed(seed, "guidance")):
                ensemble = TeacherEnsemble(arm, categories=categories, normalisation=normalisation, **fields)
                self.guidance = Guidance(arm, weights, ensemble, self.student, centroids)

    def init_weights(self) -> None:
        """Initialise the student by its seed, then by what it starts from; teachers and adapters have their weights.

        Raises:
            ExperimentError: the start that is asked for is of another type than the student.
        """
        with seeded(derive_seed(self.seed, "student", "weights")):
            self.student.init_weights()
        with seeded(derive_seed(self.seed, "start")):
            for donor in self.start:
                self._start_from(
                    load_folder(
                        Path(donor["folder"]),
                        name=donor["name"],
                        student_categories=self.categories,
                        student_normalisation=self.normalisation,
                        aliases=donor["aliases"],
                    )
                )
        guidance = self.guidance
        if guidance is None:
            return
        if guidance.remark:
            print(f"distillation.logits compares nothing here: {guidance.remark}")
        if guidance.ensemble.joint is not None:
            with seeded(derive_seed(self.seed, "joint")):
                guidance.ensemble.joint.init_weights()
            if guidance.arm.centroids:
                print(
                    "the centroids are those of the intermediate teacher as it starts, and do not follow the maps that "
                    "it learns in this run"
                )

    def _start_from(self, donor: FrozenDetector) -> None:
        own = type(self.student).__name__, detector_strides(self.student)
        other = type(donor.model).__name__, donor.strides
        if own == other:
            report = inherit_weights(self.student, donor.model, donor.label_map)
            self.inherited.append(report)
            print(
                f"student starts from {donor.name}: {len(report.matched)} weights outside the backbone; "
                f"{len(report.mismatched)} of another shape stay its own"
            )
            return
        # Levels are counted from the finest, so equal names would be unequal levels.
        why = f"{donor.name!r} is a {other[0]} with strides {other[1]}, the student a {own[0]} with strides {own[1]}"
        if self.start_is_asked_for:
            raise ExperimentError(
                f"the student cannot start from {donor.name!r}: {why}. Say `start: {OWN}`, or another"
            )
        print(f"student starts from its own weights: {why}")

    def extract_feat(self, img: Tensor) -> tuple[Tensor, ...]:
        """Return the student's maps."""
        return self.student.extract_feat(img)

    def forward_train(
        self,
        img: Tensor,
        img_metas: Metas,
        gt_bboxes: list[Tensor],
        gt_labels: list[Tensor],
        gt_bboxes_ignore: list[Tensor] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Return the student's detection losses and the guidance's terms.

        Args:
            img: `(N, 3, H, W)`.
            img_metas: mmdet's.
            gt_bboxes: for each image `(n, 4)` as `(x_min, y_min, x_max, y_max)`, input pixels.
            gt_labels: for each image `(n,)` int64.
            gt_bboxes_ignore: for each image `(m, 4)`, what is neither object nor background; None for nothing.
            kwargs: what the student's own `forward_train` takes more.
        """
        with captured_maps(self.student) as maps:
            losses = self.student.forward_train(
                img, img_metas, gt_bboxes, gt_labels, gt_bboxes_ignore=gt_bboxes_ignore, **kwargs
            )
        if self.guidance is not None:
            losses.update(
                self.guidance(
                    img,
                    img_metas,
                    gt_bboxes,
                    gt_labels,
                    maps,
                    detection=losses,
                    ignored=gt_bboxes_ignore,
                    epoch=self.epoch,
                    epochs=self.epochs,
                )
            )
        self.shares = gradient_shares(losses, list(maps.values())) if self.measures else {}
        return losses

    def train_step(self, data: Mapping[str, Any], optimizer: Any) -> dict[str, Any]:
        """Return what mmdet's own returns, and `shares`, each term's share of the gradient where it is measured."""
        outputs = super().train_step(data, optimizer)
        return outputs | {"shares": self.shares}

    def simple_test(self, img: Tensor, img_metas: Metas, **kwargs: Any) -> list[Any]:
        """Detect with the student."""
        return self.student.simple_test(img, img_metas, **kwargs)

    def aug_test(self, imgs: list[Tensor], img_metas: list[Metas], **kwargs: Any) -> list[Any]:
        """Detect with the student under test-time augmentation."""
        return self.student.aug_test(imgs, img_metas, **kwargs)


@contextlib.contextmanager
def captured_maps(detector: Detector) -> Iterator[dict[int, Tensor]]:
    """Within the block, the neck's next output is put into the yielded dict by stride; nothing is kept after it."""
    maps: dict[int, Tensor] = {}
    strides = detector_strides(detector)

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        maps.update(zip(strides, output, strict=True))

    handle = detector.neck.register_forward_hook(keep)
    try:
        yield maps
    finally:
        handle.remove()


@HOOKS.register_module()
class DistillationHook(Hook):
    """Tells the distiller how far the training is, for warm-ups and sequential teachers, and when to measure gradients.

    Args:
        interval: steps between two measurements, the first of which is in the first step; 0 for none.
    """

    def __init__(self, interval: int = 0) -> None:
        self.interval = interval

    def before_train_iter(self, runner: Any) -> None:
        """Set epochs trained so far, as a fraction, and whether this step is measured."""
        model = getattr(runner.model, "module", runner.model)
        model.epoch = runner.iter / max(1, len(runner.data_loader))
        model.epochs = runner.max_epochs
        model.measures = self.interval > 0 and runner.iter % self.interval == 0
