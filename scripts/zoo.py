"""Ask which detectors of mmdet's configs can teach and be taught; `python -m scripts.zoo --write` writes docs/zoo.md.

Of each folder one config is built, with random weights. It teaches where its neck gives maps and its
head boxes with scores; it is taught where one training step of the method on generated scenes is finite and reaches its
neck. Each is examined in a process of its own.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import tempfile
import time
import traceback
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.study import random_study, speak
from mutineck.detection.compat import quiet
from mutineck.detection.configs import categories_in, dicts_in, mmdet_folder, read_config
from mutineck.detection.frozen import FrozenDetector, build_model
from mutineck.detectors.loaders import evaluation_loader
from mutineck.distillation.stage import MODULES, distiller_config
from mutineck.study.experiment import Experiment
from mutineck.study.manifest import revision
from mutineck.study.stage import Study
from mutineck.system.errors import ExperimentError
from mutineck.system.files import write_text

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "docs" / "zoo.md"
SIDE = 256
LIMIT = 120
"""Seconds for one config."""
TINY = {"family": "faster_rcnn", "depth": 18, "base_channels": 8, "neck_channels": 32, "head_channels": 32}
STUDY = {
    "name": "zoo",
    "dataset": {"format": "shapes", "shapes": {"images": 20, "size": [SIDE, SIDE], "max_objects": 4}},
    "input": {"scale": [SIDE, SIDE]},
    "teachers": [{"name": "faster", "detector": TINY}],
    "student": {"detector": TINY},
    "arms": {"mutineck": {"source": "mean", "centroids": False}},
    "resources": {"device": "cpu", "cache": "off"},
}
YES = "yes"
RARE = -3.0
"""A bias below this makes scores of a few hundredths: no boxes come of them."""


def register() -> None:
    """Register the distiller with mmdet."""
    for module in MODULES:
        importlib.import_module(module)


def chosen_configs(folders: Sequence[str] = ()) -> list[Path]:
    """Return a config of each folder, below mmdet's `configs/`: with ResNet-50 where it has one, the shortest name."""
    root = mmdet_folder() / "configs"
    found = []
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("_")):
        configs = sorted(folder.glob("*.py"), key=lambda path: ("r50" not in path.name, len(path.name), path.name))
        if configs and (not folders or folder.name in folders):
            found.append(configs[0].relative_to(root))
    return found


def random_weights(config: Path, categories: int) -> dict[str, Any]:
    """Return the `model` dict of a config without published weights, for so many categories, in one process."""
    model: dict[str, Any] = read_config(config).model.to_dict()
    for node in dicts_in(model):
        if node.get("type") == "SyncBN":
            node["type"] = "BN"
        if isinstance(node.get("init_cfg"), Mapping) and node["init_cfg"].get("type") == "Pretrained":
            node["init_cfg"] = None
        node.pop("pretrained", None)
    categories_in(model, categories)
    return model


def teach(model: dict[str, Any], batch: Any, study: Study) -> str:
    """Return whether a detector of random weights can teach, or why not."""
    categories = study.dataset.categories
    detector = speak(build_model(model))
    for bias in (p for name, p in detector.named_parameters() if name.endswith("bias") and p.mean() < RARE):
        torch.nn.init.normal_(bias, -1.0, 0.5)
    frozen = FrozenDetector("zoo", detector, categories=categories, student_categories=categories)
    maps, proposals = frozen.maps_and_proposals(batch.image, batch.metas)
    for stride, level in maps.items():
        if level.shape[1] != frozen.channels or not level.isfinite().all():
            return f"its map of stride {stride} has {level.shape[1]} channels, not {frozen.channels}, or no numbers"
    if not any(len(found.boxes) for found in proposals):
        return "no boxes with scores come from random weights"
    return f"{YES}, strides {', '.join(map(str, maps))}"


def learn(model: dict[str, Any], batch: Any, study: Study) -> str:
    """Return whether a detector can take a step of the method, taught by a Faster R-CNN, or why not."""
    fields = distiller_config(study) | {"student": model}
    distiller = build_model({"model": fields}["model"])
    distiller.init_weights()
    distiller.train()
    distiller.epoch = 1.0
    given: dict[str, Any] = {"gt_bboxes": batch.boxes, "gt_labels": batch.labels}
    if any(node.get("mask_head") for node in dicts_in(model)) or "mask_head" in model:
        given["gt_masks"] = [_box_masks(boxes, batch.image.shape[2:]) for boxes in batch.boxes]
    losses = distiller.forward_train(batch.image, batch.metas, **given)
    parts = [v for value in losses.values() for v in (value if isinstance(value, list | tuple) else [value])]
    total = sum(part.mean() for part in parts if isinstance(part, torch.Tensor) and part.requires_grad)
    total.backward()  # type: ignore[union-attr]
    if not all(part.isfinite().all() for part in parts):
        return "a loss is not finite"
    if not any(name.startswith("loss_kd_") for name in losses):
        return "no term of the teaching came of the step"
    return YES


def _box_masks(boxes: torch.Tensor, size: Sequence[int]) -> Any:
    import numpy as np
    from mmdet.core import BitmapMasks

    masks = np.zeros((len(boxes), *size), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.round().int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = 1
    return BitmapMasks(masks, *size)


def reason(error: BaseException) -> str:
    """Return why, in a line: this project's own words, else the error and where it rose."""
    text = " ".join(str(error).split())[:160] or "no message"
    if isinstance(error, ExperimentError):
        return text.removeprefix("Distiller: ")
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {Path(where.filename).name}, `{where.name}`: {text}"


def examine(config: Path, batch: Any, study: Study, to: Any) -> None:
    """Send what a config's detector can do: two answers through a pipe."""
    torch.set_num_threads(1)
    answers = []
    for question in (teach, learn):
        torch.manual_seed(0)
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                answers.append(question(random_weights(config, len(study.dataset.categories)), batch, study))
            except Exception as error:
                answers.append(reason(error))
    to.send(answers)


def ask(config: Path, batch: Any, study: Study) -> tuple[list[str], float]:
    """Return the two answers about a config, and the seconds that they took."""
    start = time.monotonic()
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=examine, args=(config, batch, study, send))
    process.start()
    send.close()
    answers = [f"not answered in {LIMIT} s"] * 2
    try:
        if receive.poll(LIMIT):
            answers = receive.recv()
    except EOFError:
        answers = ["its process died"] * 2
    process.kill()
    process.join()
    return answers, time.monotonic() - start


def written(rows: Sequence[tuple[Path, list[str]]], made_by: str) -> str:
    """Return the page, of rows that a revision made."""
    taught = [sum(answers[i].startswith(YES) for _, answers in rows) for i in (0, 1)]
    lines = [
        "# Other detectors of mmdet",
        "",
        f"A config of {len(rows)} of the {len(chosen_configs())} folders of mmdet {_mmdet_version()}'s `configs/`, "
        f"built with random weights: {taught[0]} can teach, {taught[1]} can be taught.",
        "Written by `python -m scripts.zoo --write [FOLDER...]`. A step each says that it runs, not how much it helps.",
        f"Revision {made_by}.",
        "",
        "A teacher needs a neck that gives a map a level, all of the same number of channels, and boxes with scores. "
        "Where a head gives none before non-maximum suppression, its detections serve. A student needs the same maps, "
        "and learns from what a picture's boxes, labels and masks say. In an experiment such a detector is "
        "`detector: {family: other, config: ...}`, or a teacher's `zoo` or `config`.",
        "",
        "| config | teaches | is taught |",
        "|---|---|---|",
    ]
    for config, answers in rows:
        cells = (answer.replace("|", "/").replace("<", "&lt;") for answer in answers)
        lines.append(f"| `{config}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _mmdet_version() -> str:
    import mmdet

    return str(mmdet.__version__)


def _short(code: Mapping[str, Any]) -> str:
    return f"{code['git'][:12]}{'-dirty' * bool(code['dirty'])}" if code.get("git") else "unknown"


def main() -> None:
    """Examine and print, and write where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", help="folders of mmdet's configs to examine (default: all)")
    parser.add_argument("--write", action="store_true", help="write docs/zoo.md with these")
    given = parser.parse_args()
    torch.set_num_threads(1)
    register()
    rows, made_by = [], _short(revision())
    with tempfile.TemporaryDirectory() as temporary:
        study = random_study(Experiment.model_validate(STUDY), Path(temporary) / "study")
        batch = next(iter(evaluation_loader(study, "train", batch=2)))
        for config in chosen_configs(given.folders):
            answers, seconds = ask(config, batch, study)
            print(f"{seconds:5.0f} s  {config}: {answers[0]} / {answers[1]}", flush=True)
            rows.append((config, answers))
    if given.write:
        write_text(TABLE, written(rows, made_by))
        print(TABLE)


if __name__ == "__main__":
    main()
