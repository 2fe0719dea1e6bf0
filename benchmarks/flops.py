"""How much arithmetic the networks of a study take for one picture, counted by torch; nothing is computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.study import zoo_config
from mutineck.detection.configs import model_config
from mutineck.detection.frozen import TWO_STAGE_PROPOSALS, build_model, detector_channels, detector_strides
from mutineck.study.experiment import Experiment

SIZE = (800, 1344)
"""A picture of 1333x800 as the network sees it, padded to a multiple of 32."""
CATEGORIES = 80
REGIONS = 512
"""Regions a picture that a two-stage head trains on."""


@dataclass(frozen=True)
class Teacher:
    """A frozen teacher's pass over one picture.

    Attributes:
        maps: FLOPs of its backbone and neck.
        proposals: FLOPs of its heads.
        normalised: numbers that pass its BatchNorm layers.
    """

    maps: float
    proposals: float
    normalised: int


@dataclass(frozen=True)
class Counts:
    """FLOPs of one picture (two for a multiplication and its addition), and sizes.

    Attributes:
        experiment: whose networks they are.
        size: height and width of the network's input.
        student: the student's forward pass.
        training: its forward and backward pass.
        merge: the merge neck's forward pass over the teachers' maps.
        intermediate: forward and backward pass of merge neck and head in the intermediate teacher's own training.
        weights: the student's that learn.
        cells: of all maps that a teacher hands over.
        channels: of these maps.
        teachers: by name.
    """

    experiment: str
    size: tuple[int, int]
    student: float
    training: float
    merge: float
    intermediate: float
    weights: int
    cells: int
    channels: int
    teachers: dict[str, Teacher]

    @classmethod
    def of(cls, kept: Mapping[str, Any]) -> Counts:
        """Return the counts that were kept as JSON."""
        teachers = {name: Teacher(**fields) for name, fields in kept["teachers"].items()}
        return cls(**{**kept, "size": tuple(kept["size"]), "teachers": teachers})


def count(experiment: Experiment, size: tuple[int, int] = SIZE) -> Counts:
    """Count the networks of an experiment whose teachers come from mmdet's zoo; the anchor sets levels and channels."""
    from mutineck.teachers.merge import MergeNeck, shared_levels

    student = build_model(model_config(experiment.student.detector, CATEGORIES)).to("meta").train()
    models = {t.name: build_model(zoo_config(str(t.zoo))).to("meta").eval() for t in experiment.teachers}
    image = torch.empty(1, 3, *size, device="meta")
    strides = [detector_strides(model) for model in models.values()]
    channels = [detector_channels(model) for model in models.values()]
    maps = [
        {s: torch.empty(1, c, *(-(-side // s) for side in size), device="meta") for s in own}
        for own, c in zip(strides, channels, strict=True)
    ]
    neck = MergeNeck(channels, shared_levels(strides, strides[0]), channels[0]).to("meta")
    teachers = {
        name: Teacher(
            maps=flops(partial(model.extract_feat, image)),
            proposals=flops(partial(heads, model, tuple(own.values()), TWO_STAGE_PROPOSALS)),
            normalised=batch_normalised(partial(model.extract_feat, image), model),
        )
        for (name, model), own in zip(models.items(), maps, strict=True)
    }
    anchor = next(iter(models.values()))
    return Counts(
        experiment=experiment.name,
        size=size,
        student=flops(partial(forward, student, image)),
        training=flops(partial(forward, student, image), backward=True),
        merge=flops(partial(neck, maps)),
        intermediate=flops(partial(_merged_heads, neck, anchor, maps), backward=True),
        weights=sum(p.numel() for p in student.parameters() if p.requires_grad),
        cells=sum(m[0, 0].numel() for m in maps[0].values()),
        channels=channels[0],
        teachers=teachers,
    )


def flops(run: Callable[[], Any], *, backward: bool = False) -> float:
    """Return the FLOPs of a forward pass, and of the backward pass from all that it returns if asked for."""
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(backward):
        found = run()
        if backward:
            torch.stack([t.sum() for t in tensors(found) if t.requires_grad]).sum().backward()
    return float(counter.get_total_flops())


def tensors(found: Any) -> list[Tensor]:
    """Return all tensors in nested tuples, lists and mappings."""
    if isinstance(found, Tensor):
        return [found]
    parts = found.values() if isinstance(found, Mapping) else found
    return [tensor for part in parts for tensor in tensors(part)]


def forward(model: Any, image: Tensor, regions: int = REGIONS) -> Any:
    """Return what a detector's heads say of a picture, of so many regions if they look at any."""
    return heads(model, model.extract_feat(image), regions)


def heads(model: Any, maps: Sequence[Tensor], regions: int) -> Any:
    """Return what a detector's heads say of its maps, its regions empty: pooling multiplies next to nothing."""
    if not hasattr(model, "roi_head"):
        return model.bbox_head(tuple(maps))
    head = model.roi_head.bbox_head
    grad = torch.is_grad_enabled()
    pooled = torch.empty(regions, maps[0].shape[1], *head.roi_feat_size, device=maps[0].device, requires_grad=grad)
    return model.rpn_head(tuple(maps)), head(pooled)


def _merged_heads(neck: Any, model: Any, maps: Sequence[Mapping[int, Tensor]]) -> Any:
    merged = neck(maps)
    return heads(model, [merged[s] for s in detector_strides(model)], REGIONS)


def batch_normalised(run: Callable[[], Any], model: nn.Module) -> int:
    """Return how many numbers pass a model's BatchNorm layers in a run."""
    found: list[int] = []
    layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    hooks = [m.register_forward_hook(lambda _m, _i, output: found.append(output.numel())) for m in layers]
    with torch.no_grad():
        run()
    for hook in hooks:
        hook.remove()
    return sum(found)
