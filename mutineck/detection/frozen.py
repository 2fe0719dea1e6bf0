"""A detector that only looks: frozen, never in train mode, read through its maps and its proposals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mutineck.detection.checkpoint_layouts import some
from mutineck.detection.compat import quiet
from mutineck.detection.configs import category_counts, config_categories, data_sets
from mutineck.detection.cpu.suppression import suppression_limit
from mutineck.detection.loading import read_checkpoint
from mutineck.detection.prepare import prepare
from mutineck.detection.protocols import Detector, dense_head, drop_masks, neck_of
from mutineck.system.errors import ExperimentError, unknown

TWO_STAGE_PROPOSALS = 300
ONE_STAGE_PROPOSALS = 1000
LEAST_SCORE = 0.05
ARITHMETIC = 2
"""Rises when maps or proposals come to be rounded in another way: what is kept of them goes by it too."""
PROPOSAL_LIMITS = (TWO_STAGE_PROPOSALS, ONE_STAGE_PROPOSALS, LEAST_SCORE)


@dataclass(frozen=True)
class Proposals:
    """One detector's proposals on one image, before non-maximum suppression.

    Attributes:
        boxes: `(M, 4)` as `(x_min, y_min, x_max, y_max)`, pixels of the network's input.
        scores: `(M,)` in [0, 1].
        labels: `(M,)` int64, the student's labels.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Normalisation:
    """How a detector's pipeline normalises pictures: `(pixel - mean) / std`, channels as RGB or BGR."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    to_rgb: bool

    @classmethod
    def of_fields(cls, fields: Mapping[str, Any]) -> Normalisation:
        """Return the record of `{mean, std, to_rgb}`."""
        return cls(tuple(map(float, fields["mean"])), tuple(map(float, fields["std"])), bool(fields["to_rgb"]))

    @property
    def fields(self) -> dict[str, Any]:
        """`{mean, std, to_rgb}`, as a config holds it."""
        return {"mean": list(self.mean), "std": list(self.std), "to_rgb": self.to_rgb}

    @classmethod
    def of_config(cls, config: Any, *, owner: str, remedy: str) -> Normalisation:
        """Read it off an mmdet config: its own `normalisation`, as this project writes it, or its data sets' pipelines.

        Those of `test` are read, or where there are none those of `val`, or of `train`.

        Args:
            config: an mmdet config.
            owner: what to call the detector in messages.
            remedy: where the normalisation can be given by hand.

        Raises:
            ExperimentError: the config does not say it, or in several ways.
        """
        if config.get("normalisation"):
            return cls.of_fields(config.normalisation)
        for part in ("test", "val", "train"):
            pipelines = [found["pipeline"] for found in data_sets(config, part) if found.get("pipeline")]
            if found := {cls.of(pipeline, owner, remedy) for pipeline in pipelines}:
                if len(found) == 1:
                    return found.pop()
                shown = " and ".join(sorted(str(each.fields) for each in found))
                raise ExperimentError(f"{owner}: its config's data.{part} is normalised by {shown}; {remedy}")
        raise ExperimentError(
            f"{owner}: its config has no data set with a pipeline that says how pictures are normalised; {remedy}"
        )

    @classmethod
    def of(cls, pipeline: Sequence[Mapping[str, Any]], owner: str, remedy: str = "") -> Normalisation:
        """Read it off an mmdet pipeline.

        Raises:
            ExperimentError: the pipeline has no single `Normalize` step with three means.
        """
        steps = [*pipeline, *(s for step in pipeline for s in step.get("transforms", ()))]
        found = [step for step in steps if step.get("type") == "Normalize"]
        if len(found) != 1 or len(found[0]["mean"]) != 3 or not all(found[0]["std"]):
            raise ExperimentError(
                f"{owner}: its pipeline must normalise with one per-channel affine (`Normalize` with three means and "
                f"deviations above 0), found {[dict(step) for step in found] or [s.get('type') for s in steps]}"
                f"{remedy and f'; {remedy}'}"
            )
        step = found[0]
        return cls(tuple(map(float, step["mean"])), tuple(map(float, step["std"])), bool(step.get("to_rgb", True)))


class FrozenDetector:
    """A teacher as others see it. It is no module, so no optimiser, `train()` or `state_dict()` ever reaches it.

    Args:
        name: what it is called in logs and files.
        model: an mmdet detector with its weights loaded.
        categories: the detector's own, in its label order.
        student_categories: the student's; labels are mapped to these by name.
        aliases: detector's category -> student's.
        normalisation: what the detector was trained with.
        student_normalisation: what its input here is normalised with.
        identity: a hash of what its maps and proposals depend on beside the picture; empty if nobody keeps them.

    Raises:
        ExperimentError: the label sets have nothing in common.
    """

    def __init__(
        self,
        name: str,
        model: Detector,
        *,
        categories: Sequence[str],
        student_categories: Sequence[str],
        aliases: Mapping[str, str] | None = None,
        normalisation: Normalisation | None = None,
        student_normalisation: Normalisation | None = None,
        identity: str = "",
    ) -> None:
        self.name = name
        self.identity = identity
        self.model = model
        self.categories = tuple(categories)
        self.label_map = map_labels(name, categories, student_categories, aliases or {})
        self.strides = detector_strides(model)
        self.channels = detector_channels(model)
        self._renormalise = renormaliser(student_normalisation, normalisation)
        freeze(model)

    def __repr__(self) -> str:
        kind = type(self.model).__name__
        return f"FrozenDetector({self.name}: {kind}, strides {self.strides}, {self.channels} channels)"

    def to(self, device: torch.device) -> FrozenDetector:
        """Move the weights to a device, if they are not there."""
        if next(self.model.parameters()).device != device:
            self.model.to(device)
        self.label_map = self.label_map.to(device)
        return self

    @torch.no_grad()
    def maps(self, image: Tensor) -> dict[int, Tensor]:
        """Return the maps of the neck.

        Args:
            image: `(N, 3, H, W)` float32, normalised as the student's pipeline does.

        Returns:
            Stride to `(N, C, H / stride, W / stride)`, float32, no gradient.
        """
        self.to(image.device)
        image = self._renormalise(image).contiguous(memory_format=torch.channels_last)
        features = self.model.extract_feat(image)
        return dict(zip(self.strides, features, strict=True))

    @torch.no_grad()
    def proposals(self, maps: Mapping[int, Tensor], metas: list[dict[str, Any]]) -> list[Proposals]:
        """Return each image's proposals, from this detector's own maps, without running its backbone again.

        Args:
            maps: what `maps` returned.
            metas: mmdet's `img_metas` of the batch (`img_shape` bounds the boxes).

        Returns:
            For each image the proposals that score at least 0.05 for a category that the student has.
        """
        features = tuple(maps[stride] for stride in self.strides)
        self.to(features[0].device)  # maps that were kept come from no pass of this detector
        found = _finder(self.model)(self.model, features, metas)
        return [self._relabel(boxes, scores, labels) for boxes, scores, labels in found]

    def maps_and_proposals(
        self, image: Tensor, metas: list[dict[str, Any]]
    ) -> tuple[dict[int, Tensor], list[Proposals]]:
        """Return maps and proposals from one forward pass."""
        maps = self.maps(image)
        return maps, self.proposals(maps, metas)

    def _relabel(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> Proposals:
        labels = self.label_map[labels]
        keep = ((labels >= 0) & (scores >= LEAST_SCORE)).nonzero().squeeze(1)  # once: on a GPU it is waited for
        return Proposals(boxes[keep], scores[keep], labels[keep])


def freeze(model: Detector) -> Detector:
    """Put a model into eval mode for good, without gradients and mask branch, and make it fast.

    BatchNorm is folded into convolutions, and memory goes channels-last: outputs stay the same to rounding.
    """
    from mmcv.cnn import fuse_conv_bn

    drop_masks(model)  # neither maps nor proposals come from them
    model.backbone = fuse_conv_bn(model.backbone)
    # Last: folding makes new modules and parameters, which come in train mode and ask for gradients.
    model.eval().requires_grad_(False)
    return model.to(memory_format=torch.channels_last)


def map_labels(name: str, own: Sequence[str], student: Sequence[str], aliases: Mapping[str, str]) -> Tensor:
    """Return the student's label of each of a detector's categories, -1 where the student lacks it.

    Raises:
        ExperimentError: an alias of an unknown category, or nothing in common; both lists are named.
    """
    for alias in aliases:
        if alias not in own:
            raise ExperimentError(f"teacher {name!r}, aliases: " + unknown("category", alias, own))
    labels = [list(student).index(aliases.get(c, c)) if aliases.get(c, c) in student else -1 for c in own]
    if max(labels, default=-1) < 0:
        raise ExperimentError(
            f"teacher {name!r} knows none of the student's categories. Teacher: {', '.join(own)}. Student: "
            f"{', '.join(student)}. If they are named differently, add `aliases: {{teacher's name: student's name}}`"
        )
    return torch.tensor(labels)


def detector_categories(
    config: Any, checkpoint: str | Path, *, owner: str, remedy: str, given: Sequence[str] | None = None
) -> list[str]:
    """Return the categories of a detector that others made, in label order.

    Those that are given; else those that its checkpoint was trained on, if that says so; else those of its config.

    Args:
        config: its mmdet config.
        checkpoint: its weights.
        owner: what to call it in messages.
        remedy: where its categories can be given by hand.
        given: its categories, where they were.

    Raises:
        ExperimentError: nothing says them, or they are not as many as the detector tells apart.
        CheckpointError: the checkpoint cannot be read as data.
    """
    categories = list(given or _categories_of(read_checkpoint(checkpoint)) or config_categories(config))
    if not categories:
        raise ExperimentError(
            f"{owner}: neither its config nor its checkpoint (meta.CLASSES, meta.dataset_meta.classes) says its "
            f"categories; {remedy}"
        )
    counts = category_counts(config.model)
    if counts and len(categories) not in counts:
        raise ExperimentError(
            f"{owner}: {len(categories)} categories are named ({some(categories)}), but it tells "
            f"{' or '.join(map(str, sorted(counts)))} apart; {remedy}"
        )
    return categories


def _categories_of(checkpoint: Mapping[str, Any]) -> list[str]:
    """Return the categories that a checkpoint was trained on: mmdet 2 says them in its `meta`, mmdet 3 one deeper."""
    meta = checkpoint.get("meta")
    within = [meta, meta.get("dataset_meta")] if isinstance(meta, Mapping) else []
    said = [found.get(key) for found in within if isinstance(found, Mapping) for key in ("CLASSES", "classes")]
    named = next(filter(None, said), ())
    return [named] if isinstance(named, str) else list(map(str, named))


def common_names(
    owner: str, categories: Sequence[str], own: Sequence[str], aliases: Mapping[str, str], remedy: str
) -> list[str]:
    """Return a detector's categories by the names that the data set has for them.

    Args:
        owner: what to call the detector in messages.
        categories: its own, in label order.
        own: the data set's.
        aliases: detector's category -> data set's.
        remedy: how an alias is given.

    Raises:
        ExperimentError: an alias of a category that the detector lacks, or nothing in common.
    """
    for theirs, ours in aliases.items():
        if theirs not in categories:
            raise ExperimentError(f"{owner}, alias {theirs}={ours}: " + unknown("category", theirs, categories))
    names = [aliases.get(name, name) for name in categories]
    if not set(names) & set(own):
        raise ExperimentError(
            f"{owner} shares no category with the data set: it knows {some(categories)}; the data set has {some(own)}. "
            f"Where one has two names, say so with {remedy}"
        )
    return names


def detector_strides(model: Detector) -> tuple[int, ...]:
    """Return the strides of a detector's neck, in the order of its maps.

    Raises:
        ExperimentError: it has no neck whose maps could teach or be taught, or two of one stride.
    """
    if neck_of(model) is None and getattr(model.backbone, "out_channels", None) is None:
        raise ExperimentError(f"{type(model).__name__} has no neck, whose maps are what is taught")
    head = dense_head(model) if hasattr(model, "rpn_head") or hasattr(model, "bbox_head") else None
    generator = getattr(head, "prior_generator", None)
    if generator is None:
        return _probed(model)[0]
    return tuple(int(stride[0] if isinstance(stride, list | tuple) else stride) for stride in generator.strides)


def detector_channels(model: Detector) -> int:
    """Return the channels of every map of a detector's neck.

    Raises:
        ExperimentError: its maps differ in their channels.
    """
    neck = neck_of(model)
    channels: Any = getattr(model.backbone if neck is None else neck, "out_channels", None)
    if channels is None:
        channels = _probed(model)[1]
    counts = sorted(set(channels)) if isinstance(channels, list | tuple) else [channels]
    if len(counts) != 1:
        raise ExperimentError(
            f"{type(model).__name__}: the maps of its neck have {', '.join(map(str, counts))} channels; all need the "
            "same number"
        )
    return int(counts[0])


PROBE = 384
"""Pixels; whole cells at every stride up to 128."""


@torch.no_grad()
def _probed(model: Detector) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return strides and channels of the maps that a detector gives for an empty picture."""
    training = model.training
    weight = next(model.parameters())
    try:
        maps = model.eval().extract_feat(weight.new_zeros(1, 3, PROBE, PROBE))
    finally:
        model.train(training)
    if not isinstance(maps, list | tuple) or not all(isinstance(level, Tensor) and level.dim() == 4 for level in maps):
        raise ExperimentError(f"{type(model).__name__}: its neck does not give a map a level")
    strides = tuple(PROBE // level.shape[2] for level in maps)
    if len(set(strides)) < len(strides):
        raise ExperimentError(f"{type(model).__name__}: its maps have strides {strides}; each level needs its own")
    return strides, tuple(level.shape[1] for level in maps)


def renormaliser(given: Normalisation | None, wanted: Normalisation | None) -> Callable[[Tensor], Tensor]:
    """Return the fixed per-channel affine that brings a picture `(N, 3, H, W)` from one normalisation to another."""
    if given is None or wanted is None or given == wanted:
        return lambda image: image
    swap = given.to_rgb != wanted.to_rgb

    def column(values: tuple[float, ...]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1)

    mean, std = column(given.mean), column(given.std)
    if swap:
        mean, std = mean.flip(1), std.flip(1)
    scale = std / column(wanted.std)
    shift = (mean - column(wanted.mean)) / column(wanted.std)
    return lambda image: (image.flip(1) if swap else image) * scale.to(image) + shift.to(image)


Found = list[tuple[Tensor, Tensor, Tensor]]


def gives_dense_boxes(head: Any) -> bool:
    """Whether a one-stage head chooses and decodes its boxes in mmdet's usual way, so that it does so without NMS."""
    from mmdet.models.dense_heads.base_dense_head import BaseDenseHead

    if not isinstance(head, BaseDenseHead) or type(head).get_bboxes is not BaseDenseHead.get_bboxes:
        return False
    return "filter_scores_and_topk" in type(head)._get_bboxes_single.__globals__


def _finder(model: Any) -> Callable[[Any, tuple[Tensor, ...], list[dict[str, Any]]], Found]:
    """Return what finds a detector's proposals in its maps: before suppression, where its kind can be asked so."""
    from mmdet.models.roi_heads import CascadeRoIHead, StandardRoIHead

    if isinstance(getattr(model, "roi_head", None), StandardRoIHead | CascadeRoIHead):
        regions = getattr(getattr(model, "rpn_head", None), "prior_generator", None)
        return _final if regions is None else _two_stage
    return _one_stage if gives_dense_boxes(getattr(model, "bbox_head", None)) else _final


def _final(model: Any, features: tuple[Tensor, ...], metas: list[dict[str, Any]]) -> Found:
    """A detector's detections, where its kind gives nothing before suppression; its backbone does not run again."""
    model.extract_feat = lambda _image: features
    try:
        results = model.simple_test(features[0], metas, rescale=False)
    finally:
        del model.extract_feat
    return [_rows(image[0] if isinstance(image, tuple) else image, features[0]) for image in results]


def _rows(categories: Sequence[Any], like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Turn each category's boxes with scores `(n, 5)` into boxes, scores and labels."""
    rows = [torch.as_tensor(each, device=like.device, dtype=torch.float32).reshape(-1, 5) for each in categories]
    labels = [torch.full((len(each),), label, device=like.device) for label, each in enumerate(rows)]
    stacked = torch.cat(rows)
    return stacked[:, :4], stacked[:, 4], torch.cat(labels)


def _two_stage(
    model: Any, features: tuple[Tensor, ...], metas: list[dict[str, Any]]
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Refined boxes of the best regions, with their scores of every category."""
    with suppression_limit(TWO_STAGE_PROPOSALS):
        regions = [r[:TWO_STAGE_PROPOSALS] for r in model.rpn_head.simple_test_rpn(features, metas)]
    if isinstance(getattr(model.roi_head, "bbox_head", None), nn.ModuleList):
        return _cascade(model.roi_head, features, regions, metas)
    boxes, scores = model.roi_head.simple_test_bboxes(features, metas, regions, None, rescale=False)
    return [_spread_categories(b, s) for b, s in zip(boxes, scores, strict=True)]


def _cascade(
    head: Any, features: tuple[Tensor, ...], regions: list[Tensor], metas: list[dict[str, Any]]
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """The last stage's boxes and the stages' mean scores; suppression is off by an overlap that none reaches."""
    settings = head.test_cfg
    head.test_cfg = settings.__class__(
        score_thr=LEAST_SCORE, nms={"type": "nms", "iou_threshold": 1.0}, max_per_img=ONE_STAGE_PROPOSALS
    )
    try:
        results = head.simple_test(features, regions, metas, rescale=False)
    finally:
        head.test_cfg = settings
    return [_rows(image, features[0]) for image in results]


def _spread_categories(boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Turn `(M, 4K or 4)` boxes and `(M, K + 1)` scores into one row a box and category that scores enough."""
    scores = scores[:, :-1]
    row, label = (scores >= LEAST_SCORE).nonzero(as_tuple=True)
    per_category = boxes.view(len(boxes), boxes.shape[1] // 4, 4)  # -1 would be any number where there is no box
    chosen = per_category[row, label if per_category.shape[1] > 1 else torch.zeros_like(label)]
    return chosen, scores[row, label], label


def _one_stage(
    model: Any, features: tuple[Tensor, ...], metas: list[dict[str, Any]]
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Decoded boxes with their scores, the best of each level."""
    head = model.bbox_head
    settings = head.test_cfg.copy()
    settings.update(nms_pre=ONE_STAGE_PROPOSALS, score_thr=LEAST_SCORE)
    found = []
    for boxes, scores, labels in head.get_bboxes(
        *head(features), img_metas=metas, cfg=settings, rescale=False, with_nms=False
    ):
        best = scores.topk(min(ONE_STAGE_PROPOSALS, len(scores))).indices
        found.append((boxes[best], scores[best], labels[best]))
    return found


def build_model(config: Any) -> Any:
    """Build an mmdet detector from a config (or its `model` dict), with random weights as they come."""
    prepare()
    from mmcv import Config
    from mmdet.models import build_detector

    model = config.model if "model" in config else config
    try:
        with quiet():
            return build_detector(model if isinstance(model, Config) else Config({"model": model}).model)
    except KeyError as error:
        if "is not in the" not in str(error):
            raise
        # mmcv's words: which type of which registry.
        raise ExperimentError(
            f"{getattr(config, 'filename', None) or 'the config of a detector'}: {error.args[0]}. Name the module that "
            "registers it in the config: custom_imports = dict(imports=['MODULE'])"
        ) from error
