"""Training a detector with mmdet's own loop, on CPU or GPU, in one process or under torchrun."""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mutineck.detection.compat import quiet
from mutineck.detection.configs import import_modules, write_config
from mutineck.detection.hooks import CURVES, LATEST, STATES
from mutineck.detection.loading import write_checkpoint
from mutineck.detection.prepare import prepare
from mutineck.detection.protocols import Detector, Module
from mutineck.system.errors import ExperimentError
from mutineck.system.files import read_json, write_json
from mutineck.system.seeding import seed_everything

IDENTITY = "training.json"


def train(
    config: Any, *, device: torch.device, identity: Mapping[str, Any] | None = None, root: Path | None = None
) -> Detector:
    """Train the detector of an mmdet config, resuming at the last state kept of the same training.

    Follows `tools/train.py` of mmdet step by step, so that a config dumped from here trains alike there.

    Args:
        config: see `mutineck.detection.configs.training_config`; trains into `config.work_dir`. Its batch is the global
            one: each process takes its share, so that a training may go on with another number of processes.
        device: where to train.
        identity: what the result depends on beside the config (hashes of what is read). A state left by a training
            with another config or identity is discarded, and what differs is printed.
        root: the study's folder, if there is one: it may lie elsewhere when the training goes on.

    Returns:
        The trained detector, on the CPU.

    Raises:
        ExperimentError: the batch does not divide by the number of processes.
    """
    prepare()
    from mmdet.apis import train_detector
    from mmdet.datasets import build_dataset
    from mmdet.models import build_detector

    processes = start_processes(device)
    import_modules(config)
    work_dir = Path(config.work_dir)
    described = describe(config, root)
    _take_share(config, processes)
    if _rank() == 0:
        _discard_foreign_state(work_dir, {"config": described, **(identity or {})})
    if processes > 1:
        torch.distributed.barrier()
    latest = work_dir / LATEST
    config.resume_from = str(latest) if latest.exists() else None
    config.device = device.type
    config.gpu_ids = range(processes) if processes > 1 else [0]
    seed_everything(config.seed)
    model: Detector = build_detector(config.model, train_cfg=config.get("train_cfg"), test_cfg=config.get("test_cfg"))
    model.init_weights()
    if device.type == "cpu":
        model.to(memory_format=torch.channels_last)  # a step takes 6 % less
    with quiet():
        dataset = build_dataset(config.data.train)
        model.CLASSES = dataset.CLASSES
        meta = {"seed": config.seed, "CLASSES": tuple(dataset.CLASSES)}
        stamp = time.strftime("%Y%m%d_%H%M%S")
        train_detector(model, [dataset], config, distributed=processes > 1, validate=True, timestamp=stamp, meta=meta)
    return model.cpu()


def start_processes(device: torch.device) -> int:
    """Join the other processes if torchrun started this one; return how many there are."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes > 1 and not torch.distributed.is_initialized():
        # mmcv's own start needs a GPU in every process.
        if device.type == "cuda":
            torch.cuda.set_device(device)
            torch.distributed.init_process_group("nccl", device_id=device)
        else:
            torch.distributed.init_process_group("gloo")
    return processes


def describe(config: Any, root: Path | None = None) -> dict[str, Any]:
    """Return what a training depends on in its config, JSON-able.

    Any number of processes and loader workers may go on with it, in whatever folder, with a teacher cache of any size;
    whether there is a cache counts, since with one the teachers' maps are rounded. Where the pictures lie does not:
    what they are is for the training's identity to say. How often a hook looks on (its `interval`) changes nothing.
    """
    described = copy.deepcopy(config._cfg_dict).to_dict()  # its batches are global ones still
    for loader in (described["data"], described["data"]["val_dataloader"]):
        loader.pop("workers_per_gpu", None)
    for hook in described["custom_hooks"]:
        hook.pop("interval", None)
    del described["work_dir"]
    return json.loads(json.dumps(_wherever(described, "" if root is None else f"{root.resolve()}{os.sep}")))


def _wherever(node: Any, root: str) -> Any:
    """Return a config with paths below a folder told from there, without the pictures' folder, and of teacher caches
    no more than that they are.
    """
    if isinstance(node, Mapping):
        return {
            key: "maps are rounded" if key == "cache" and value is not None else _wherever(value, root)
            for key, value in node.items()
            if key != "img_prefix"
        }
    if isinstance(node, list | tuple):
        return [_wherever(value, root) for value in node]
    return node.removeprefix(root) if isinstance(node, str) else node


def _take_share(config: Any, processes: int) -> None:
    """Divide the batches of a config by the number of processes."""
    for loader in (config.data, config.data.val_dataloader):
        if loader.samples_per_gpu % processes:
            raise ExperimentError(f"schedule.batch={loader.samples_per_gpu} does not divide by {processes} processes")
        loader.samples_per_gpu //= processes


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


def _discard_foreign_state(work_dir: Path, identity: Mapping[str, Any]) -> None:
    """Empty a training's folder unless the state in it belongs to this very training; say so if there is one."""
    from mutineck.system.records import differences

    note = work_dir / IDENTITY
    known = read_json(note) if note.exists() else {}
    differing = list(differences(known, dict(identity)))
    if known and not differing:
        return
    if (work_dir / LATEST).exists():
        shown = "; ".join(each if len(each) <= 160 else f"{each[:160]}..." for each in differing[:3])
        more = f"; and {len(differing) - 3} more" if len(differing) > 3 else ""
        print(f"{work_dir}: the state of another training is discarded ({shown}{more})", flush=True)
    shutil.rmtree(work_dir, ignore_errors=True)
    write_json(note, dict(identity))


def finish_training(config: Any, folder: Path) -> None:
    """Keep a training's curves, and which state is kept, in `folder`; remove what only resuming needs.

    To be called once its result is stored.
    """
    work_dir = Path(config.work_dir)
    os.replace(work_dir / CURVES, folder / CURVES)
    with contextlib.suppress(FileNotFoundError):
        os.replace(work_dir / STATES, folder / STATES)
    shutil.rmtree(work_dir)


def save_detector(
    folder: Path,
    model: Module,
    model_config: Mapping[str, Any],
    *,
    categories: Sequence[str],
    normalisation: Mapping[str, Any],
    checkpoint: str = "checkpoint.pth",
    imports: Sequence[str] = (),
) -> tuple[Path, Path]:
    """Write a detector's weights and the config that builds it, both atomically.

    The checkpoint is mmdet's plain layout (`state_dict`, `meta` with `CLASSES`); the config holds `model`, `categories`
    (label order) and `normalisation`, and names `imports`, the modules that register what the model is made of. A file
    that the backbone started from is named no more: it may be gone when the config is read.

    Returns:
        The paths of checkpoint and config.
    """
    weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    write_checkpoint(folder / checkpoint, {"state_dict": weights, "meta": {"CLASSES": tuple(categories)}})
    model_config = copy.deepcopy(dict(model_config))
    start = model_config.get("backbone", {}).get("init_cfg")
    if isinstance(start, Mapping) and "://" not in start.get("checkpoint", "://"):
        model_config["backbone"]["init_cfg"] = None
    config = {"model": model_config, "categories": list(categories), "normalisation": dict(normalisation)}
    if imports:
        config["custom_imports"] = {"imports": list(imports), "allow_failed_imports": False}
    return folder / checkpoint, write_config(folder / "config.py", config)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train a config from the command line; under torchrun every process calls this."""
    from mmcv import Config

    from mutineck.detection.evaluation import device_of

    parser = argparse.ArgumentParser(prog="python -m mutineck.detection.training", description=main.__doc__)
    parser.add_argument(
        "config", type=Path, help="a training_config.py that a stage wrote (Python code: it is executed)"
    )
    parser.add_argument("--work-dir", type=Path, help="train into this folder instead of the config's")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    options = parser.parse_args(arguments)
    prepare()
    config = Config.fromfile(str(options.config), import_custom_modules=False)
    if options.work_dir:
        config.work_dir = str(options.work_dir)
    model = train(config, device=device_of(options.device))
    if _rank() == 0:
        state = getattr(model, "student", model).state_dict()
        print(f"weights: {write_checkpoint(Path(config.work_dir) / 'final.pth', {'state_dict': state})}")


if __name__ == "__main__":
    main()
