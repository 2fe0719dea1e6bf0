"""A detector on new pictures: boxes as a COCO document, drawn beside it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mutineck.dataset.images import PICTURE_SUFFIXES, inspect_picture
from mutineck.detection.configs import pipelines
from mutineck.detection.evaluation import Batch, device_of, predict
from mutineck.detection.specs import InputSpec
from mutineck.detectors.given import GivenDetector, open_detector
from mutineck.study.experiment import load_experiment
from mutineck.study.stage import EXPERIMENT_FILE
from mutineck.system.errors import ExperimentError
from mutineck.system.files import write_json

DETECTIONS, DRAWN = "detections.json", "drawn"
"""What lies in the folder that is written to: the document, and the folder of pictures with their boxes."""
Row = dict[str, Any]
Draw = Callable[[Path, Sequence[Row], Path], Path]
"""Draws a picture's COCO results into a new file, and returns its path."""


def predict_pictures(
    detector: Path,
    pictures: Path,
    to: Path,
    *,
    config: str | None = None,
    scale: tuple[int, int] | None = None,
    device: str = "auto",
    drawing: Callable[[Sequence[str]], Draw] | None = None,
) -> dict[str, Any]:
    """Run a detector over new pictures, one at a time; write `detections.json` and `drawn/` into a folder.

    A picture that cannot be read is reported, and listed in the document as `skipped`. Progress is printed.

    Args:
        detector: a folder that a stage wrote, or a checkpoint.
        pictures: a folder, read with all folders in it, or one picture.
        to: the folder to write to; made if missing.
        config: mmdet config of a checkpoint (a Python file: it is executed, use only what you trust).
        scale: width and height that a picture is fitted into. If None, as the detector's own config prepares pictures
            for a test, or as its study does.
        device: `auto`, `cpu` or `cuda`.
        drawing: given the categories' names, returns what draws a picture; none are drawn without.

    Returns:
        The document: COCO's `images`, `categories` (ids from 1, in label order) and `annotations`, each with its
        `score`; boxes `(x, y, width, height)` in pixels of the picture as displayed, that is after EXIF rotation.

    Raises:
        FileNotFoundError: there is no such detector, or no picture.
        ExperimentError: nothing says how pictures are prepared, or see `open_detector`.
        RuntimeError: not one of the pictures can be read.
    """
    from mmdet.datasets.pipelines import Compose

    found = list_pictures(pictures, to / DRAWN)
    given = open_detector(detector, config)
    model, _ = given.load()
    prepare = Compose(preparing_pipeline(given, detector, scale))
    draw = drawing(given.categories) if drawing else None
    document = _empty_document(detector, given.categories)
    ids = [category["id"] for category in document["categories"]]
    root = pictures if pictures.is_dir() else pictures.parent
    progress = _Progress(len(found))
    for number, file in enumerate(found, start=1):
        name = file.relative_to(root).as_posix()
        if problem := inspect_picture(file).problem:
            document["skipped"].append({"file_name": name, "reason": problem})
            print(f"{name}: skipped: {problem}", flush=True)
        else:
            batch = _batch(prepare, root, name, number)
            rows = predict(model, [batch], ids, device=device_of(device))
            _add_detections(document, number, name, batch.metas[0]["ori_shape"], rows)
            if draw:
                draw(file, rows, to / DRAWN / name)
        progress.tell(number, len(document["skipped"]))
    if not document["images"]:
        raise RuntimeError(f"{pictures}: none of the {len(found)} pictures can be read; the lines above say why")
    write_json(to / DETECTIONS, document, indent=None)
    return document


def _empty_document(detector: Path, categories: Sequence[str]) -> dict[str, Any]:
    return {
        "info": {"description": f"detections of {detector}"},
        "images": [],
        "annotations": [],
        "categories": [{"id": number, "name": name} for number, name in enumerate(categories, start=1)],
        "skipped": [],
    }


def _add_detections(
    document: dict[str, Any], image_id: int, name: str, shape: Sequence[int], rows: Sequence[Row]
) -> None:
    """Add a picture of a shape `(height, width, ...)` and its detections to a COCO document, in place."""
    document["images"].append({"id": image_id, "file_name": name, "width": shape[1], "height": shape[0]})
    first = len(document["annotations"]) + 1
    document["annotations"] += [
        {"id": number, **row, "area": row["bbox"][2] * row["bbox"][3], "iscrowd": 0}
        for number, row in enumerate(rows, start=first)
    ]


def list_pictures(pictures: Path, aside: Path) -> list[Path]:
    """Return a picture, or those of a folder and the folders in it, sorted, without hidden ones and those in `aside`.

    Raises:
        FileNotFoundError: there is no picture.
    """
    if pictures.is_file():
        return [pictures]
    found = [
        path
        for path in sorted(pictures.rglob("*"))
        if path.suffix.lower() in PICTURE_SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(pictures).parts)
        and not path.resolve().is_relative_to(aside.resolve())
    ]
    if not found:
        what = "there is no picture in it" if pictures.is_dir() else "there is no such folder"
        raise FileNotFoundError(f"{pictures}: {what} (endings that are read: {' '.join(PICTURE_SUFFIXES)})")
    return found


def preparing_pipeline(given: GivenDetector, detector: Path, scale: tuple[int, int] | None) -> list[dict[str, Any]]:
    """Return mmdet's test pipeline for a detector: its config's own, or this project's at a scale.

    Raises:
        ExperimentError: neither the config nor a study around it says the scale.
    """
    if scale is None and given.pipeline:
        return given.pipeline
    if scale is None:
        # As named: a search's trials have their teachers by links.
        around = (folder / EXPERIMENT_FILE for folder in Path(os.path.abspath(detector)).parents[:3])
        file = next((file for file in around if detector.is_dir() and file.is_file()), None)
        if file is None:
            raise ExperimentError(
                f"{detector}: neither its config nor a study around it gives the size of its input; give it "
                "with --scale WIDTHxHEIGHT"
            )
        scale = load_experiment(file).input.scale
    return pipelines(InputSpec(scale=scale, **given.normalisation.fields))[1]


def _batch(prepare: Callable[[Any], Any], root: Path, name: str, number: int) -> Batch:
    """Return one picture as mmdet's pipeline prepares it, without ground truth."""
    item = prepare({"img_info": {"filename": name}, "img_prefix": str(root)})
    # Of several views (test-time augmentation) the first; in mmcv's containers or not.
    image, meta = (value[0] if isinstance(value, list) else value for value in (item["img"], item["img_metas"]))
    image, meta = image.data[None], {**meta.data, "batch_input_shape": tuple(image.data.shape[-2:])}
    return Batch(image, [meta], boxes=[], labels=[], annotation_ids=[], image_ids=[number], crowd=[])


class _Progress:
    """Prints a line about every second, and the last.

    Args:
        total: pictures in all.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._begun = self._told = time.monotonic()

    def tell(self, done: int, skipped: int) -> None:
        """Say how far it has come."""
        now = time.monotonic()
        if now - self._told < 1 and done < self.total:
            return
        self._told = now
        rate = done / max(now - self._begun, 1e-6)
        left = f", {(self.total - done) / rate:.0f} s left" if done < self.total else ""
        print(f"{done} of {self.total} pictures, {skipped} skipped, {rate:.1f} a second{left}", flush=True)
