"""What mmcv 1.7 needs to run on a current torch, mended in one place."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from mutineck.detection import cpu


@functools.cache
def mend() -> None:
    """Change of mmcv and mmdet what does not run, or runs slowly, on a current torch. Idempotent."""
    from mmcv.parallel import MMDistributedDataParallel

    # MMDistributedDataParallel.forward reads an attribute of replicated tensors that torch dropped after 2.0.
    if not hasattr(MMDistributedDataParallel, "_use_replicated_tensor_module"):
        MMDistributedDataParallel._use_replicated_tensor_module = False
    _read_maps_as_they_lie()
    _let_batches_reach_a_gpu()
    _keep_to_the_cpu()
    _let_cpu_processes_train_together()
    cpu.install()
    torch.serialization.add_safe_globals(checkpoint_globals())
    # mmcv writes a line a parameter at every initialisation.
    logging.getLogger("mmcv").setLevel(logging.ERROR)


def _read_maps_as_they_lie() -> None:
    """Let RoIAlign and deformable convolutions read channels-last maps: mmcv's take any memory for channels-first."""
    from mmcv.ops import RoIAlign, deform_conv, modulated_deform_conv

    def laid_out(published: Any) -> Any:
        def convolve(*given: Any) -> Any:
            return published(*(each.contiguous() if isinstance(each, Tensor) else each for each in given))

        return convolve

    deform_conv.deform_conv2d = laid_out(deform_conv.deform_conv2d)
    modulated_deform_conv.modulated_deform_conv2d = laid_out(modulated_deform_conv.modulated_deform_conv2d)
    RoIAlign.forward = laid_out(RoIAlign.forward)


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


class TrainingLog:
    """Stands in for the log that mmengine's runner (mmdet 3) keeps beside the weights: numbers, which nothing uses."""

    @staticmethod
    def no_method(*_: Any) -> None:
        """Stand in for `getattr`, by which such a file names the log's methods: nothing is looked up."""


def checkpoint_globals() -> list[Any]:
    """Return the types beside tensors that checkpoints of mmcv's and mmengine's runners hold.

    None of them runs code when read. Functions of numpy are named in a file by where they were when it was written:
    below `numpy.core` in numpy 1.
    """
    import numpy as np
    from numpy._core import multiarray

    functions = (multiarray.scalar, multiarray._reconstruct)  # type: ignore[attr-defined]
    moved = [
        (function, f"{module}.multiarray.{function.__name__}")
        for function in functions
        for module in ("numpy.core", "numpy._core")
    ]
    # No objects ("O"), and no records ("V"), which may hold some.
    kinds = {type(np.dtype(code)) for code in "?bhilqBHILQefdgFDGSU"}
    logs = [
        (TrainingLog, "mmengine.logging.history_buffer.HistoryBuffer"),
        (TrainingLog.no_method, "builtins.getattr"),
    ]
    return [np.dtype, np.ndarray, *moved, *kinds, *logs]


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
