"""A detector that leaves the repository: one ONNX file, from a normalised picture to its boxes."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mutineck.detection.configs import dicts_in
from mutineck.detection.graph import UntraceableError, export_graph
from mutineck.detection.protocols import stock_detector
from mutineck.detectors.given import open_detector
from mutineck.detectors.prediction import preparing_pipeline
from mutineck.system.errors import ExperimentError
from mutineck.system.files import atomic_path


def export_onnx(
    detector: Path, to: Path, *, config: str | None = None, scale: tuple[int, int] | None = None
) -> tuple[Path, int]:
    """Write a detector as an ONNX file that onnxruntime runs alone.

    The graph takes `image` `(1, 3, H, W)` float32, normalised and padded at right and bottom, and `shape` `(2,)` int64,
    height and width of the picture in it. It gives `boxes` `(n, 4)` as `(x_min, y_min, x_max, y_max)` in pixels of
    `image`, `scores` and `labels`. The file's metadata say how a picture is prepared, and the categories.

    Args:
        detector: a folder that a stage wrote, or a checkpoint.
        to: the file.
        config: mmdet config of a checkpoint (a Python file: it is executed, use only what you trust).
        scale: width and height that a picture is fitted into, see `predict_pictures`.

    Returns:
        The file, and how many boxes of random pictures were compared with PyTorch's.

    Raises:
        FileNotFoundError: there is no such detector.
        ExperimentError: nothing says how pictures are prepared, or the detector has no such graph; the message says
            why.
    """
    given = open_detector(detector, config)
    model = stock_detector(given.load()[0])
    metadata = _metadata(given.categories, given.normalisation.fields, preparing_pipeline(given, detector, scale))
    try:
        with atomic_path(to) as temporary:
            count = export_graph(model, temporary, metadata)
    except UntraceableError as error:
        raise ExperimentError(f"{detector} cannot be exported to ONNX: {error}") from error
    return to, count


def _metadata(
    categories: tuple[str, ...], normalisation: dict[str, Any], pipeline: list[dict[str, Any]]
) -> dict[str, str]:
    """Return what an ONNX file says of its detector, each a line of JSON."""
    steps = {step["type"]: step for step in dicts_in(pipeline) if "type" in step}
    resize = steps.get("Resize", {})
    scale = steps.get("MultiScaleFlipAug", {}).get("img_scale") or resize.get("img_scale")
    about = {
        "categories": list(categories),
        **normalisation,
        "scale": scale,
        "keep_ratio": resize.get("keep_ratio", True),
        "size_divisor": steps.get("Pad", {}).get("size_divisor", 1),
        "made_by": f"mutineck {version('mutineck')}",
    }
    return {name: json.dumps(value) for name, value in about.items()}
