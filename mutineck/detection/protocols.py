"""What this project uses of mmdet's detectors, as types: mmdet and mmcv have none of their own.

A checker knows from here which attributes a detector has; at run time nothing is checked. `hasattr` tells the families
apart, so that what is registered with mmdet from elsewhere serves as well: see `is_two_stage`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, Self, TypeGuard

from torch import Tensor, nn

Metas = list[dict[str, Any]]
"""mmdet's `img_metas` of a batch."""


class Module(Protocol):
    """What is used of any `torch.nn.Module`."""

    training: bool
    forward: Callable[..., Any]

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> Any: ...

    def to(self, *args: Any, **kwargs: Any) -> Self: ...

    def cpu(self) -> Self: ...

    def train(self, mode: bool = True) -> Self: ...

    def eval(self) -> Self: ...

    def requires_grad_(self, requires_grad: bool = True) -> Self: ...


class Backbone(Module, Protocol):
    """A backbone or neck; a neck, and a backbone that needs none, tells its `out_channels`."""

    out_channels: int

    def register_forward_hook(self, hook: Callable[[nn.Module, Any, Any], None]) -> Any: ...


class PriorGenerator(Protocol):
    """Where a head's anchors or points lie: its strides, one a level, as numbers or `(x, y)`."""

    strides: Sequence[int | Sequence[int]]


class DenseHead(Module, Protocol):
    """A one-stage head, or the first stage of a two-stage detector."""

    prior_generator: PriorGenerator
    num_classes: int
    test_cfg: Any

    def __call__(self, features: tuple[Tensor, ...]) -> tuple[Any, ...]: ...

    def get_bboxes(
        self, *outputs: Any, img_metas: Metas, cfg: Any, rescale: bool, with_nms: bool
    ) -> list[tuple[Tensor, Tensor, Tensor]]: ...

    def simple_test_rpn(self, x: tuple[Tensor, ...], img_metas: Metas) -> list[Tensor]: ...


class BoxHead(Module, Protocol):
    """mmdet's `BBoxHead`."""

    num_classes: int
    reg_class_agnostic: bool
    with_cls: bool
    with_reg: bool
    custom_cls_channels: bool
    loss_cls: Any
    bbox_coder: Any

    def modules(self) -> Iterator[nn.Module]: ...


class RoIExtractor(Protocol):
    """mmdet's extractor of regions: how many levels it reads."""

    num_inputs: int


class RoIHead(Module, Protocol):
    """The second stage of a two-stage detector; a cascade has a list of box heads."""

    bbox_head: BoxHead | Sequence[BoxHead]
    bbox_roi_extractor: RoIExtractor
    mask_head: Any
    with_mask: bool
    test_cfg: Any

    def simple_test(
        self, x: tuple[Tensor, ...], proposal_list: list[Tensor], img_metas: Metas, rescale: bool
    ) -> Any: ...

    def simple_test_bboxes(
        self, x: tuple[Tensor, ...], img_metas: Metas, proposals: list[Tensor], rcnn_test_cfg: Any, rescale: bool
    ) -> tuple[list[Tensor], list[Tensor]]: ...

    def _bbox_forward(self, x: tuple[Tensor, ...], rois: Tensor) -> dict[str, Tensor]: ...


class Detector(Module, Protocol):
    """An mmdet detector of any family; one whose backbone is its own neck has no `neck`: see `neck_of`."""

    backbone: Backbone
    neck: Backbone
    CLASSES: Sequence[str]

    def init_weights(self) -> None: ...

    def extract_feat(self, img: Tensor) -> tuple[Tensor, ...]: ...

    def forward_dummy(self, img: Tensor) -> Any: ...

    def forward_train(
        self, img: Tensor, img_metas: Metas, gt_bboxes: list[Tensor], gt_labels: list[Tensor], **more: Any
    ) -> dict[str, Any]: ...

    def simple_test(self, img: Tensor, img_metas: Metas, rescale: bool = False) -> list[Any]: ...

    def aug_test(self, imgs: list[Tensor], img_metas: list[Metas], rescale: bool = False) -> list[Any]: ...


class TwoStageDetector(Detector, Protocol):
    """Faster R-CNN, Mask R-CNN, Cascade R-CNN."""

    rpn_head: DenseHead
    roi_head: RoIHead


def is_two_stage(model: Detector) -> TypeGuard[TwoStageDetector]:
    """Return whether a detector has a second stage."""
    return hasattr(model, "roi_head")


def dense_head(model: Detector) -> DenseHead:
    """Return the head that works on every cell of the maps: the only one, or the one that proposes regions."""
    return getattr(model, "rpn_head" if hasattr(model, "rpn_head") else "bbox_head")


def box_heads(head: RoIHead) -> list[BoxHead]:
    """Return the box heads of a second stage: one, or those of a cascade in their order."""
    own: Any = head.bbox_head
    return [*own] if isinstance(own, nn.ModuleList) else [own]  # type: ignore[list-item]


def neck_of(model: Detector) -> Backbone | None:
    """Return a detector's neck; None where the backbone is its own, as the merged teachers are."""
    return getattr(model, "neck", None)


def drop_masks(model: Detector) -> None:
    """Take the mask branch off a detector, in place, if it has one."""
    if is_two_stage(model) and getattr(model.roi_head, "with_mask", False):
        model.roi_head.mask_head = None


def stock_detector(model: Any) -> Detector:
    """Return the stock detector in an intermediate teacher (backbone: all teachers, then heads); any other itself."""
    return getattr(model, "detector", model)


def plain_detector(model: Any) -> Detector:
    """Return the detector in what mmdet trains: itself, or what a wrapper for several devices holds as `module`."""
    return getattr(model, "module", model)
