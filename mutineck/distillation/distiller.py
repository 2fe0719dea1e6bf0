"""The distiller: to mmdet a detector like any other; inside, a plain student and whoever teaches it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmcv.runner import HOOKS, Hook
from mmdet.models import DETECTORS, BaseDetector, build_detector
from torch import Tensor, nn

from mutineck.detection.frozen import detector_strides
from mutineck.detection.loading import LoadReport, inherit_weights
from mutineck.distillation.ensemble import Donor, TeacherEnsemble
from mutineck.distillation.guidance import Guidance
from mutineck.study.arms import ArmSpec
from mutineck.study.experiment import DistillationSpec
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
        inherit: start neck and heads from the donor's, where the two are of one type.
        guidance: `arm` and `weights`, fields of `ArmSpec` and `DistillationSpec`; `teachers`, `intermediate`, `joint`
            and `cache` of a `TeacherEnsemble`; `centroids` of a `Guidance`. None for a student that nobody teaches.
    """

    def __init__(
        self,
        student: Mapping[str, Any],
        categories: Sequence[str],
        normalisation: Mapping[str, Any],
        seed: int = 0,
        inherit: bool = False,
        guidance: Mapping[str, Any] | None = None,
        train_cfg: Any = None,
        test_cfg: Any = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__(init_cfg)
        self.seed = seed
        self.inherit = inherit
        self.inherited: list[LoadReport] = []
        self.epoch, self.epochs = 0.0, 1
        with seeded(derive_seed(seed, "student")):
            self.student = build_detector(student)
        self.guidance: Guidance | None = None
        if guidance is not None:
            fields = dict(guidance)
            arm, weights = ArmSpec(**fields.pop("arm")), DistillationSpec(**fields.pop("weights"))
            centroids = fields.pop("centroids")
            with seeded(derive_seed(seed, "guidance")):
                ensemble = TeacherEnsemble(arm, categories=categories, normalisation=normalisation, **fields)
                self.guidance = Guidance(arm, weights, ensemble, self.student, centroids)

    def init_weights(self) -> None:
        """Initialise the student by its seed, then let it inherit; teachers and adapters have their weights already."""
        with seeded(derive_seed(self.seed, "student", "weights")):
            self.student.init_weights()
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
        if self.inherit:
            for donor in guidance.ensemble.donors:
                self._inherit_from(donor)

    def _inherit_from(self, donor: Donor) -> None:
        own = type(self.student).__name__, detector_strides(self.student)
        other = type(donor.model).__name__, donor.strides
        if own == other:
            report = inherit_weights(self.student, donor.model, donor.label_map)
            self.inherited.append(report)
            print(
                f"student inherits from {donor.name}: {len(report.matched)} weights outside the backbone; "
                f"{len(report.mismatched)} of another shape stay its own"
            )
        else:
            # Levels are counted from the finest, so equal names would be unequal levels.
            print(
                f"student inherits nothing from {donor.name}: it is a {other[0]} with strides {other[1]}, the student "
                f"a {own[0]} with {own[1]}"
            )

    def extract_feat(self, img: Tensor) -> Any:
        """Return the student's maps."""
        return self.student.extract_feat(img)

    def forward_train(
        self,
        img: Tensor,
        img_metas: Any,
        gt_bboxes: Any,
        gt_labels: Any,
        gt_bboxes_ignore: Any = None,
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
                    ignored=gt_bboxes_ignore,
                    epoch=self.epoch,
                    epochs=self.epochs,
                )
            )
        return losses

    def simple_test(self, img: Tensor, img_metas: Any, **kwargs: Any) -> Any:
        """Detect with the student."""
        return self.student.simple_test(img, img_metas, **kwargs)

    def aug_test(self, imgs: Any, img_metas: Any, **kwargs: Any) -> Any:
        """Detect with the student under test-time augmentation."""
        return self.student.aug_test(imgs, img_metas, **kwargs)


@contextlib.contextmanager
def captured_maps(detector: Any) -> Iterator[dict[int, Tensor]]:
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
    """Tells the distiller how far the training is, for warm-ups and sequential teachers."""

    def before_train_iter(self, runner: Any) -> None:
        """Set epochs trained so far, as a fraction."""
        model = getattr(runner.model, "module", runner.model)
        model.epoch = runner.iter / max(1, len(runner.data_loader))
        model.epochs = runner.max_epochs
