"""mmdet's model zoo, by name: the index that mmdet carries says which config and which weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from mutineck.detection.configs import mmdet_folder
from mutineck.system.errors import ExperimentError, unknown


@dataclass(frozen=True)
class ZooEntry:
    """One published detector.

    Attributes:
        name: as in the index, e.g. `faster_rcnn_r101_fpn_2x_coco`.
        config: path of its config below mmdet's folder.
        weights: address of its weights; the file's name ends in the first eight digits of its SHA-256.
        box_ap: published COCO box AP in percent, None if the index does not say.
    """

    name: str
    config: Path
    weights: str
    box_ap: float | None


def find_in_zoo(name: str) -> ZooEntry:
    """Return the published detector of that name.

    Raises:
        ExperimentError: the index has no such name, or no weights for it; near matches are listed.
    """
    index = mmdet_folder() / "model-index.yml"
    parts = [index.parent / part for part in yaml.safe_load(index.read_text(encoding="utf-8"))["Import"]]
    # Parsing a hundred files takes seconds; most do not even hold the name.
    for part in parts:
        for model in _models(part) if name in part.read_text(encoding="utf-8") else ():
            if model["Name"] == name:
                if not model.get("Weights"):
                    raise ExperimentError(f"zoo entry {name!r} has no published weights")
                results = [r for r in model.get("Results", ()) if r.get("Task") == "Object Detection"]
                box_ap = results[0]["Metrics"].get("box AP") if results else None
                return ZooEntry(name, index.parent / model["Config"], model["Weights"], box_ap)
    names = [model["Name"] for part in parts for model in _models(part)]
    shown = [n for n in names if n.split("_")[0] == name.split("_")[0]] or names
    raise ExperimentError(unknown("zoo name", name, shown[:20]))


@cache
def _models(part: Path) -> list[dict[str, Any]]:
    """Return the published detectors that one file of the index lists."""
    content = yaml.safe_load(part.read_text(encoding="utf-8"))
    return content["Models"] if isinstance(content, dict) else content


def fetch_weights(entry: ZooEntry) -> Path:
    """Return the weights' file, fetched into the cache if it is not there; its hash is verified by its name."""
    from mutineck.system import download

    return download.fetch_weights(entry.weights)
