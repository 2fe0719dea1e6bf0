"""Handing a student on: a plain mmdet checkpoint with a complete mmdet config."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mutineck.detection.configs import custom_imports, read_config, write_config
from mutineck.detection.frozen import build_model
from mutineck.detection.loading import load_strictly, read_weights, write_checkpoint
from mutineck.detectors.training import TRAINING_CONFIG


def export_student(folder: str | Path, out: str | Path) -> tuple[Path, Path]:
    """Write a student as stock mmdet reads it: `OUT.pth` (`state_dict`, `meta.CLASSES`) and `OUT.py`.

    The config holds model, test pipeline and categories, and imports nothing of this project, only what the student's
    own config wants imported: `mmdet.apis.init_detector("OUT.py", "OUT.pth")` is all it takes.

    Args:
        folder: a student's folder, `outputs/EXPERIMENT/distillation/ARM/seedN`.
        out: path without its ending.

    Raises:
        FileNotFoundError: the folder holds no finished student.
        CheckpointError: its weights do not fit its config.
    """
    from mmcv import Config

    folder, out = Path(folder), Path(out)
    needed = [folder / name for name in ("student.pth", "config.py", TRAINING_CONFIG)]
    for path in needed:
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: {folder} holds no finished student")
    own, training = read_config(needed[1]), Config.fromfile(str(needed[2]), import_custom_modules=False)
    load_strictly(build_model(own), needed[0])
    test = plain_dataset(training.data.val.to_dict(), own.categories)
    config = {
        "model": own.model.to_dict(),
        "data": {"samples_per_gpu": 1, "workers_per_gpu": 0, "test": test},
        "dataset_type": "CocoDataset",
        "classes": list(own.categories),
    }
    if imports := custom_imports(own):
        config["custom_imports"] = {"imports": imports, "allow_failed_imports": False}
    target = out.with_name(out.name + ".pth"), out.with_name(out.name + ".py")
    write_checkpoint(target[0], {"state_dict": read_weights(needed[0]), "meta": {"CLASSES": tuple(own.categories)}})
    write_config(target[1], config)
    return target


def plain_dataset(data: dict[str, Any], categories: Sequence[str]) -> dict[str, Any]:
    """Return a split's config as stock mmdet knows it."""
    plain = {key: value for key, value in data.items() if key != "seed"}
    # A single picture needs no batch-wise format bundle: what `init_detector` and `tools/test.py` expect.
    for step in plain["pipeline"][-1]["transforms"]:
        if step["type"] == "DefaultFormatBundle":
            step.update(type="ImageToTensor", keys=["img"])
    return {**plain, "type": "CocoDataset", "classes": list(categories)}
