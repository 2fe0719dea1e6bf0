"""What mmcv 1.7 needs to run on a current torch, mended in one place."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import warnings
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

FLOAT_NUMBERS = 2**24
"""Whole numbers up to this one are told apart in float32."""
_enough: ContextVar[int] = ContextVar("enough", default=FLOAT_NUMBERS)
"""Boxes after which suppression may end."""


@functools.cache
def prepare() -> None:
    """Make mmcv and mmdet ready: call before anything of theirs is built. Idempotent."""
    from mmcv.parallel import MMDistributedDataParallel

    # MMDistributedDataParallel.forward reads an attribute of replicated tensors that torch dropped after 2.0.
    if not hasattr(MMDistributedDataParallel, "_use_replicated_tensor_module"):
        MMDistributedDataParallel._use_replicated_tensor_module = False
    _read_maps_as_they_lie()
    _let_batches_reach_a_gpu()
    _keep_to_the_cpu()
    _let_cpu_processes_train_together()
    _suppress_faster()
    _pool_faster()
    from mutineck.detection import pretrained  # noqa: F401  what is fetched is verified, and fits

    torch.serialization.add_safe_globals(checkpoint_globals())
    # mmcv writes a line a parameter at every initialisation.
    logging.getLogger("mmcv").setLevel(logging.ERROR)


def _read_maps_as_they_lie() -> None:
    """Let deformable convolutions read channels-last maps: mmcv's operators take any memory for channels-first."""
    from mmcv.ops import deform_conv, modulated_deform_conv

    def laid_out(published: Any) -> Any:
        def convolve(*given: Any) -> Any:
            return published(*(each.contiguous() if isinstance(each, Tensor) else each for each in given))

        return convolve

    deform_conv.deform_conv2d = laid_out(deform_conv.deform_conv2d)
    modulated_deform_conv.modulated_deform_conv2d = laid_out(modulated_deform_conv.modulated_deform_conv2d)


def _keep_to_the_cpu() -> None:
    """Let a training that was told `cpu` stay there on a machine with a GPU: torch's DataParallel would move it."""
    from mmcv.parallel import MMDataParallel
    from mmdet.utils import util_distribution

    class OnCPU(MMDataParallel):
        """mmcv's for no device, of which there may be some here."""

        def __init__(self, module: torch.nn.Module, dim: int = 0, device_ids: Any = None) -> None:
            torch.nn.Module.__init__(self)
            self.module, self.dim = module, dim
            self.device_ids: list[int] = []

    util_distribution.dp_factory["cpu"] = OnCPU


def _let_batches_reach_a_gpu() -> None:
    """Copy batches on the stream in use: mmcv asks torch for one beside it by a number, where torch wants a device.

    Nothing is lost: memory that is not pinned is copied while the processor waits, on any stream.
    """
    from mmcv.parallel import _functions

    _functions._get_stream = torch.cuda.current_stream


def _let_cpu_processes_train_together() -> None:
    """Give mmdet's `build_ddp` the device that it refuses: several CPU processes over gloo."""
    import mmdet.apis.train
    import mmdet.utils
    from mmcv.parallel import MMDistributedDataParallel

    class CPUDistributedDataParallel(MMDistributedDataParallel):
        """mmcv's, which without a GPU forgets to take batches out of their containers (its MMDataParallel does so)."""

        def train_step(self, *inputs: Any, **kwargs: Any) -> Any:
            unpacked, named = self.scatter(inputs, kwargs, [-1])
            return super().train_step(*unpacked[0], **named[0])

        def val_step(self, *inputs: Any, **kwargs: Any) -> Any:
            unpacked, named = self.scatter(inputs, kwargs, [-1])
            return super().val_step(*unpacked[0], **named[0])

        def _run_ddp_forward(self, *inputs: Any, **kwargs: Any) -> Any:
            unpacked, named = self.scatter(inputs, kwargs, [-1])
            return super()._run_ddp_forward(*unpacked[0], **named[0])

    published = mmdet.utils.build_ddp

    def build_ddp(model: Any, device: str = "cuda", *args: Any, **kwargs: Any) -> Any:
        if device != "cpu":
            return published(model, device, *args, **kwargs)
        return CPUDistributedDataParallel(model, *args, **{**kwargs, "device_ids": None})

    mmdet.utils.build_ddp = mmdet.apis.train.build_ddp = build_ddp


def _suppress_faster() -> None:
    """Let torchvision suppress on a CPU: mmcv's operator is a third of a small two-stage detector's forward pass."""
    from mmcv.ops.nms import ext_module

    ext_module.nms = functools.partial(suppress, ext_module.nms)
    from mmdet.models.dense_heads import RPNHead

    published = RPNHead._bbox_post_process

    def post_process(head: Any, scores: Any, boxes: Any, anchors: Any, levels: Any, cfg: Any, *rest: Any) -> Any:
        with suppression_limit(cfg.max_per_img):
            return published(head, scores, boxes, anchors, levels, cfg, *rest)

    RPNHead._bbox_post_process = post_process


def suppress(published: Any, boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Return what mmcv's operator `published` returns, on a CPU in a fifth of its time.

    Args:
        published: mmcv's, for what torchvision's does not do.
        boxes: `(M, 4)` as `(x_min, y_min, x_max, y_max)`.
        scores: `(M,)`.
        iou_threshold: boxes that overlap a better one by more are dropped.
        offset: what mmcv adds to a box's sides.

    Returns:
        `(n,)` int64, the rows of the boxes kept, best first.
    """
    from torchvision.ops import nms

    if boxes.device.type != "cpu" or offset or boxes.dtype != torch.float32 or len(boxes) > FLOAT_NUMBERS:
        return published(boxes, scores, iou_threshold=iou_threshold, offset=offset)
    # mmcv's own order, handed on as ranks: boxes of equal scores keep their places in it.
    order = scores.sort(descending=True).indices
    ranks = torch.arange(len(order), 0, -1, dtype=torch.float32)
    enough = _enough.get()
    looked_at = min(len(order), 2 * enough)
    while True:
        # A box is dropped for better ones alone: what is kept of the best is kept of all.
        kept = nms(boxes[order[:looked_at]], ranks[:looked_at], iou_threshold)
        if len(kept) >= enough or looked_at == len(order):
            return order[kept[:enough]]
        looked_at = min(len(order), 2 * looked_at)


@contextlib.contextmanager
def suppression_limit(count: int) -> Iterator[None]:
    """Within the block, suppression on a CPU ends with so many boxes: nobody asks for more."""
    token = _enough.set(min(count, _enough.get()))
    try:
        yield
    finally:
        _enough.reset(token)


def _pool_faster() -> None:
    """Let RoIAlign of a fixed number of samples go by rows on a CPU; back, it is a quarter of a small training step."""
    from mmcv.ops import RoIAlign

    RoIAlign.forward = functools.partialmethod(pool, RoIAlign.forward)


def pool(layer: Any, published: Any, maps: Tensor, regions: Tensor) -> Tensor:
    """Return what mmcv's `RoIAlign` returns, to rounding.

    Args:
        layer: mmcv's.
        published: its `forward`, for what `align_rows` does not do.
        maps: `(N, C, H, W)`.
        regions: `(R, 5)` as `(image, x_min, y_min, x_max, y_max)`, pixels.
    """
    from mutineck.detection.cpu.pooling import align_rows

    suits = layer.sampling_ratio > 0 and layer.pool_mode == "avg" and layer.aligned
    if not suits or maps.device.type != "cpu" or maps.dtype != torch.float32:
        # mmcv's operator for GPUs takes the memory for channels-first, whatever the tensor says.
        return published(layer, maps.contiguous(), regions)
    return align_rows(maps, regions, layer.output_size, layer.spatial_scale, layer.sampling_ratio)


def checkpoint_globals() -> list[Any]:
    """Return the types beside tensors that checkpoints of mmcv's runner hold, none of which runs code when read."""
    import numpy as np
    from numpy._core import multiarray

    plain = [np.dtype, np.ndarray, multiarray.scalar, multiarray._reconstruct]  # type: ignore[attr-defined]
    return plain + [type(np.dtype(name)) for name in ("float64", "float32", "int64", "int32", "bool")]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence mmcv's and mmdet's loggers and prints for the block (errors still show)."""
    loggers = [logging.getLogger(name) for name in ("mmcv", "mmdet", "root")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    import mmcv

    bar = mmcv.ProgressBar
    # mmdet's evaluation draws a bar of its own, and pycocotools prints its tables, whatever the loggers say.
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There are no checkpoints in the path")
        mmcv.ProgressBar = functools.partial(bar, file=nowhere)
        try:
            yield
        finally:
            mmcv.ProgressBar = bar
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
