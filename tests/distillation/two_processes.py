"""Gradients of one training step, in one process or as one of two: run under torchrun by `test_distributed.py`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

IMAGES = 4


def first(_sampler: Any, gallery: Any, number: int) -> Any:
    """Stands for mmdet's random choice of samples: what is drawn must not depend on who draws."""
    return gallery[:number]


def gradients(config: Any, data: dict[str, Any], *, rank: int = 0, processes: int = 1) -> dict[str, Any]:
    """Return the gradient of every parameter, the logged terms and the shares of one step on this process's share of the batch."""
    from mmdet.core.bbox.samplers import RandomSampler
    from mmdet.utils import build_ddp

    from mutineck.detection.frozen import build_model
    from mutineck.system.seeding import seed_everything

    RandomSampler.random_choice = first
    seed_everything(0)
    model = build_model(config)
    model.init_weights()
    model.train()
    model.epoch, model.measures = 1.0, True
    share = {name: value[rank * IMAGES // processes : (rank + 1) * IMAGES // processes] for name, value in data.items()}
    stepping = (
        build_ddp(model, "cpu", broadcast_buffers=False, find_unused_parameters=False) if processes > 1 else model
    )
    outputs = stepping.train_step(share, None)
    outputs["loss"].backward()
    return {
        "gradients": {name: p.grad for name, p in model.named_parameters() if p.requires_grad},
        "shares": outputs["shares"],
        "terms": {name: float(value) for name, value in outputs["log_vars"].items()},
    }


def main(folder: Path) -> None:
    """Read `config.pt` and `data.pt`; the first process writes `two.pt`."""
    from mutineck.detection.prepare import prepare

    dist.init_process_group("gloo")
    prepare()
    from mmcv.utils import import_modules_from_strings

    from mutineck.distillation.stage import MODULES

    import_modules_from_strings(list(MODULES))
    config, data = (torch.load(folder / name, weights_only=False) for name in ("config.pt", "data.pt"))
    found = gradients(config, data, rank=dist.get_rank(), processes=dist.get_world_size())
    if dist.get_rank() == 0:
        torch.save(found, folder / "two.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
