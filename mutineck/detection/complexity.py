"""What a detector costs to run: parameters, multiply-adds, and time measured on this machine."""

from __future__ import annotations

import contextlib
import io
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from mutineck.detection.protocols import Detector, Metas, Module


def parameters(module: Module) -> int:
    """Return the number of weights of a module, trainable or not."""
    return sum(weight.numel() for weight in module.parameters())


def multiply_adds(model: Detector, size: tuple[int, int], *, maps_only: bool = False) -> int:
    """Return the multiply-adds of one picture through an mmdet detector, as mmcv counts them (conv and linear layers,
    normalisation, pooling).

    Args:
        model: a detector; a two-stage head counts 1000 regions, as mmdet's `forward_dummy` does.
        size: height and width of the network's input.
        maps_only: stop behind the neck.
    """
    from mmcv.cnn import get_model_complexity_info

    given = model.__dict__.get("forward")
    model.forward = model.extract_feat if maps_only else model.forward_dummy
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            count, _ = get_model_complexity_info(model, (3, *size), print_per_layer_stat=False, as_strings=False)
    finally:
        del model.forward
        if given is not None:
            model.forward = given
    return int(count)


@torch.no_grad()
def latency(model: Detector, image: Tensor, metas: Metas, *, passes: int = 10) -> float:
    """Return the median seconds from a normalised picture `(1, 3, H, W)` to its detections, two passes for warming up.

    Args:
        model: an mmdet detector in eval mode, on the picture's device.
        image: one picture.
        metas: mmdet's `img_metas` of it.
        passes: measured passes.
    """
    wait: Callable[[], None] = torch.cuda.synchronize if image.is_cuda else lambda: None

    def detect() -> None:
        wait()
        model.simple_test(image, metas, rescale=True)
        wait()

    return median_seconds(detect, passes)


def median_seconds(detect: Callable[[], object], passes: int) -> float:
    """Return the median seconds of a call, two calls for warming up."""
    taken = []
    for _ in range(passes + 2):
        started = time.perf_counter()
        detect()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[2:])
