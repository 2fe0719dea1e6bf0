"""The intermediate teacher: frozen teachers, a merge neck over their maps, and a head of its own.

To mmdet it is a stock detector whose backbone happens to be several whole detectors: image in, merged maps out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmcv.runner import BaseModule
from mmdet.models import BACKBONES, DETECTORS, BaseDetector, build_detector
from torch import Tensor, nn
from torch.nn import functional

from mutineck.detection.frozen import FrozenDetector
from mutineck.detectors.cache import open_cache
from mutineck.detectors.folders import load_folder
from mutineck.detectors.outputs import BatchOutputs, by_image, outputs_of
from mutineck.teachers.regions import RegionSettings, Targets, build_regions, match_batch, quality_prior

REDUCTION = 4
"""Squeeze of the channel gates."""


class MergeNeck(nn.Module):
    """Align several teachers' maps and mix them, cell by cell and channel by channel.

    G_n = phi_n(F_n) with phi_n a 1x1 convolution; A_n(c, x) = softmax_n(a_n(x) + v_n(c) + Q_n(x)), a_n from a 1x1
    convolution on the normalised G_n, v_n from squeezed channels, Q_n a prior that is given or 0;
    F = conv(sum_n A_n G_n) with a 3x3 convolution. Gates start at zero and the convolution as identity.

    Args:
        channels: each teacher's.
        levels: stride to the indices of the teachers that have it, rising.
        out_channels: of the merged maps.
        gates: learn a_n and v_n; without, the prior alone mixes, and where none is given the maps are averaged.
    """

    def __init__(
        self, channels: Sequence[int], levels: Mapping[int, Sequence[int]], out_channels: int, *, gates: bool = True
    ) -> None:
        super().__init__()
        self.levels = {int(stride): tuple(teachers) for stride, teachers in levels.items()}
        self.out_channels = out_channels
        self.gates = gates
        # Any: indexing a ModuleDict of ModuleDicts is beyond what its type says.
        self.align: Any = nn.ModuleDict()
        self.spatial: Any = nn.ModuleDict()
        self.channel: Any = nn.ModuleDict()
        self.mix: Any = nn.ModuleDict()
        for stride, teachers in self.levels.items():
            key = str(stride)
            self.align[key] = nn.ModuleDict(
                {str(n): _identity(nn.Conv2d(channels[n], out_channels, 1)) for n in teachers}
            )
            self.mix[key] = _identity(nn.Conv2d(out_channels, out_channels, 3, padding=1))
            if gates and len(teachers) > 1:
                self.spatial[key] = nn.ModuleDict({str(n): _zero(nn.Conv2d(out_channels, 1, 1)) for n in teachers})
                self.channel[key] = nn.ModuleDict({str(n): _squeeze(out_channels) for n in teachers})

    def forward(
        self, maps: Sequence[Mapping[int, Tensor]], prior: Mapping[int, Tensor] | None = None
    ) -> dict[int, Tensor]:
        """Merge.

        Args:
            maps: each teacher's maps, stride to `(N, C_n, H, W)`.
            prior: stride to `(N, n, H, W)`, Q of every teacher (those that lack the level too, unread).

        Returns:
            Stride to `(N, out_channels, H, W)`.
        """
        merged = {}
        for stride, teachers in self.levels.items():
            aligned = self.aligned(maps, stride)
            weights = self.weights(aligned, stride, None if prior is None else prior[stride][:, list(teachers)])
            merged[stride] = self.mix[str(stride)]((weights * aligned).sum(dim=1))
        return merged

    def aligned(self, maps: Sequence[Mapping[int, Tensor]], stride: int) -> Tensor:
        """Return the aligned maps `(N, n, C, H, W)` of the teachers that have the level."""
        align = self.align[str(stride)]
        return torch.stack([align[str(n)](maps[n][stride]) for n in self.levels[stride]], dim=1)

    def weights(self, aligned: Tensor, stride: int, prior: Tensor | None = None) -> Tensor:
        """Return A: `(N, n, C, H, W)` (or broadcastable to it), sum 1 over the teachers (second dimension).

        Args:
            aligned: `(N, n, C, H, W)`.
            stride: of the level.
            prior: `(N, n, H, W)` for the teachers that have the level.
        """
        logits = aligned.new_zeros(1, aligned.shape[1], 1, 1, 1)
        if prior is not None:
            logits = logits + prior[:, :, None]
        if str(stride) in self.spatial:
            parts = []
            for position, n in enumerate(self.levels[stride]):
                own = aligned[:, position]
                # Normalised over channels, so that no teacher is heard for the size of its numbers.
                normal = functional.layer_norm(own.movedim(1, -1), (own.shape[1],)).movedim(-1, 1)
                spatial = self.spatial[str(stride)][str(n)](normal)  # (N, 1, H, W)
                channel = self.channel[str(stride)][str(n)](normal.mean(dim=(2, 3), keepdim=True))  # (N, C, 1, 1)
                parts.append(spatial + channel)
            logits = logits + torch.stack(parts, dim=1)
        return logits.softmax(dim=1)

    def set_alignment(self, stride: int, teacher: int, weight: Tensor, bias: Tensor) -> None:
        """Start phi of one teacher and level from `weight` `(C_to, C_from)` and `bias` `(C_to,)`."""
        convolution = self.align[str(stride)][str(teacher)]
        with torch.no_grad():
            convolution.weight.copy_(weight[:, :, None, None])
            convolution.bias.copy_(bias)


def _identity(convolution: Any) -> Any:
    nn.init.dirac_(convolution.weight)
    nn.init.zeros_(convolution.bias)
    return convolution


def _zero(layer: Any) -> Any:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _squeeze(channels: int) -> nn.Sequential:
    inner = max(1, channels // REDUCTION)
    return nn.Sequential(nn.Conv2d(channels, inner, 1), nn.ReLU(inplace=True), _zero(nn.Conv2d(inner, channels, 1)))


def shared_levels(strides: Sequence[Sequence[int]], wanted: Sequence[int] | None = None) -> dict[int, tuple[int, ...]]:
    """Return for each stride the indices of the teachers that have it.

    Args:
        strides: each teacher's.
        wanted: strides to look at; all that any teacher has if None. A wanted stride that none has is left out.
    """
    every = sorted({s for own in strides for s in own}) if wanted is None else sorted(wanted)
    levels = {s: tuple(n for n, own in enumerate(strides) if s in own) for s in every}
    return {stride: teachers for stride, teachers in levels.items() if teachers}


@BACKBONES.register_module()
class MergedTeachers(BaseModule):
    """A backbone that is several frozen detectors and a merge neck.

    Args:
        teachers: each `{name, folder, aliases}`; the folder holds `config.py` and `checkpoint.pth`.
        categories: the student's.
        normalisation: of the picture that comes in: `mean`, `std`, `to_rgb`.
        out_strides: strides of the merged maps, in the order in which they come out; rising.
        gates: see `MergeNeck`.
        regions: fields of `RegionSettings`, for the prior.
        cache: fields of `TensorCache` for what the teachers say in training, or None.
    """

    def __init__(
        self,
        teachers: Sequence[Mapping[str, Any]],
        categories: Sequence[str],
        normalisation: Mapping[str, Any],
        out_strides: Sequence[int],
        gates: bool = True,
        regions: Mapping[str, Any] | None = None,
        cache: Mapping[str, Any] | None = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__(init_cfg)
        # FrozenDetector is no module: teachers are outside the module tree, of state_dict, train() and optimiser.
        self.teachers: list[FrozenDetector] = [
            load_folder(
                Path(t["folder"]),
                name=t["name"],
                student_categories=categories,
                student_normalisation=normalisation,
                aliases=t.get("aliases"),
            )
            for t in teachers
        ]
        levels = shared_levels([teacher.strides for teacher in self.teachers], out_strides)
        self.strides = tuple(levels)
        self.out_channels = self.teachers[0].channels
        self.neck = MergeNeck([t.channels for t in self.teachers], levels, self.out_channels, gates=gates)
        self.settings = RegionSettings(**(regions or {}))
        self.cache = open_cache(cache)
        self._context: tuple[Any, Any, Any] | None = None
        self._outputs: BatchOutputs | None = None

    def init_weights(self) -> None:
        """Keep the starts that the merge neck gave itself."""
        self._is_init = True

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return merged maps by stride; with the prior inside `targets`."""
        metas = self._context[0] if self._context else None
        outputs = self._outputs or outputs_of(image, metas, self.cache if self.training else None)
        maps = [outputs.maps(teacher) for teacher in self.teachers]
        prior = None
        if self._context is not None:
            _, boxes, labels = self._context
            proposals = by_image([outputs.proposals(teacher) for teacher in self.teachers])
            prior = self.prior(match_batch(proposals, boxes, labels, self.settings), maps)
        return tuple(self.neck(maps, prior).values())

    def prior(self, targets: Targets, maps: Sequence[Mapping[int, Tensor]]) -> dict[int, Tensor]:
        """Return Q of every level, stride to `(N, n, H, W)`."""
        sizes = {stride: tuple(maps[teachers[0]][stride].shape[2:]) for stride, teachers in self.neck.levels.items()}
        temperature = self.settings.quality_temperature
        return {
            stride: quality_prior(targets, build_regions(targets, size, stride, self.settings), temperature)  # type: ignore[arg-type]
            for stride, size in sizes.items()
        }

    @contextlib.contextmanager
    def targets(self, metas: Any, boxes: Sequence[Tensor], labels: Sequence[Tensor]) -> Iterator[None]:
        """Within the block, the proposals' quality for these ground-truth boxes is added to the gates."""
        self._context = (metas, boxes, labels)
        try:
            yield
        finally:
            self._context = None

    @contextlib.contextmanager
    def using(self, outputs: BatchOutputs) -> Iterator[None]:
        """Within the block, the teachers' outputs on the batch are taken from these: they do not run again."""
        self._outputs = outputs
        try:
            yield
        finally:
            self._outputs = None


@DETECTORS.register_module()
class IntermediateTeacher(BaseDetector):
    """Frozen teachers, merge neck and head as one mmdet detector.

    Args:
        backbone: config of `MergedTeachers`.
        head: `model` dict of the anchor's type for the student's categories; its backbone and neck are replaced.
        prior: add the proposals' quality to the gates in training.
        freeze_head: train alignment and gates alone, the heads stay as they start.
        start: a file with the weights to start from (see `mutineck.teachers.intermediate`), or None.
    """

    def __init__(
        self,
        backbone: Mapping[str, Any],
        head: Mapping[str, Any],
        prior: bool = False,
        freeze_head: bool = False,
        start: str | None = None,
        train_cfg: Any = None,
        test_cfg: Any = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__(init_cfg)
        model = {**head, "backbone": dict(backbone), "neck": None}
        self.detector = build_detector(_as_config(model))
        self.use_prior = prior
        if freeze_head:
            self.detector.requires_grad_(False)
            self.detector.backbone.requires_grad_(True)
        self.start = start

    @property
    def merged(self) -> MergedTeachers:
        """The backbone: teachers and merge neck."""
        return self.detector.backbone

    def init_weights(self) -> None:
        """Start the head at random, then from the prepared weights if there are any."""
        from mutineck.detection.loading import load_strictly

        self.detector.init_weights()
        if self.start:
            load_strictly(self.detector, self.start)

    def extract_feat(self, img: Tensor) -> tuple[Tensor, ...]:
        """Return the merged maps."""
        return self.detector.extract_feat(img)

    def forward_train(
        self, img: Tensor, img_metas: Any, gt_bboxes: Any, gt_labels: Any, **kwargs: Any
    ) -> dict[str, Any]:
        """Return L_merge: the detection losses on the merged maps."""
        kwargs.pop("gt_masks", None)
        context = self.merged.targets(img_metas, gt_bboxes, gt_labels) if self.use_prior else contextlib.nullcontext()
        with context:
            return self.detector.forward_train(img, img_metas, gt_bboxes, gt_labels, **kwargs)

    def simple_test(self, img: Tensor, img_metas: Any, **kwargs: Any) -> Any:
        """Detect, by the gates alone."""
        return self.detector.simple_test(img, img_metas, **kwargs)

    def aug_test(self, imgs: Any, img_metas: Any, **kwargs: Any) -> Any:
        """Detect with test-time augmentation."""
        return self.detector.aug_test(imgs, img_metas, **kwargs)


def _as_config(model: Mapping[str, Any]) -> Any:
    from mmcv import ConfigDict

    return ConfigDict(model)
