"""What mmcv 1.7 needs to run on a current torch, mended in one place."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import warnings
from collections.abc import Iterator


@functools.cache
def prepare() -> None:
    """Make mmcv and mmdet ready: call before anything of theirs is built. Idempotent."""
    # mmcv 1.7 announces its successor and its own deprecations at import; neither helps a reader here.
    warnings.filterwarnings("ignore", message=".*On January 1, 2023, MMCV will release v2.0.0.*")
    warnings.filterwarnings("ignore", message=".*torch.meshgrid.*")
    warnings.filterwarnings("ignore", category=UserWarning, module=r"mmcv\..*")
    import mmdet.core.mask.structures
    import torch
    from mmcv.parallel import MMDistributedDataParallel

    # MMDistributedDataParallel.forward reads an attribute of replicated tensors that torch dropped after 2.0.
    if not hasattr(MMDistributedDataParallel, "_use_replicated_tensor_module"):
        MMDistributedDataParallel._use_replicated_tensor_module = False
    torch.serialization.add_safe_globals(checkpoint_globals())
    # mmcv writes a line a parameter at every initialisation.
    logging.getLogger("mmcv").setLevel(logging.ERROR)


def checkpoint_globals() -> list[type]:
    """Return the types beside tensors that checkpoints of mmcv's runner hold, none of which runs code when read."""
    import numpy as np
    from mmcv.utils.config import ConfigDict  # noqa: F401  (kept out of the list: it overrides __setattr__)

    types: list = [np.dtype, np.ndarray, np._core.multiarray.scalar, np._core.multiarray._reconstruct]
    types += [type(np.dtype(name)) for name in ("float64", "float32", "int64", "int32", "bool")]
    return types


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
