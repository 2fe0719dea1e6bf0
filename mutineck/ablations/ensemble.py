"""The teachers' ensemble: their detections fused, measured as a row among the teachers. No student runs that much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mutineck.ablations.results import ENSEMBLE_FILE, made
from mutineck.detection.evaluation import measure
from mutineck.study.stage import Outcome, Study
from mutineck.system.files import read_json, write_json

OVERLAP = 0.55
"""IoU from which boxes of a category are one object: the default of weighted boxes fusion's authors."""


def measure_ensemble(study: Study) -> Outcome[list[dict[str, Any]]]:
    """Fuse the teachers' stored detections on every measured split, and measure them; the intermediate one is none.

    Writes `ablations/ensemble.json`. A study of one teacher has no ensemble, and no file.

    Returns:
        Found: rows `split`, `metric`, `category`, `value` in 0..1, as a detector's metrics; empty for one teacher.

    Raises:
        FileNotFoundError: a teacher's predictions or metrics are missing; the message names the command.
    """
    names = [teacher.name for teacher in study.experiment.teachers]
    if len(names) < 2:
        return Outcome([])
    rows = []
    for split in study.experiment.evaluation.measured:
        annotations = study.need("dataset", f"{split}.json")
        truth = read_json(annotations)
        sizes = {image["id"]: (image["width"], image["height"]) for image in truth["images"]}
        ids = {category["name"]: category["id"] for category in truth["categories"]}
        found, known = [], []
        for name in names:
            found.append(read_json(study.need("teachers", name, f"predictions_{split}.json")))
            metrics = read_json(study.need("teachers", name, "metrics.json"))
            known.append({ids[r["category"]] for r in metrics if r["metric"] == "AP" and r["split"] == split})
        fused = fuse(found, known, sizes)
        rows += [{"split": split, **row} for row in measure(annotations, fused)]
    file = write_json(study.path("ablations", ENSEMBLE_FILE), {"of": made(study), "rows": rows})
    return Outcome(rows, writes=[file])


def fuse(
    found: Sequence[Sequence[Mapping[str, Any]]],
    known: Sequence[set[int]],
    sizes: Mapping[int, tuple[int, int]],
) -> list[dict[str, Any]]:
    """Return several detectors' detections as those of one, by weighted boxes fusion.

    Solovyev, Wang, Gabruseva 2021, https://arxiv.org/abs/1910.13302. A category is fused over the detectors that know
    it, so that what one alone knows keeps its score.

    Args:
        found: COCO results of each detector.
        known: category ids that each detector knows.
        sizes: width and height of each picture in pixels, by its id.

    Returns:
        COCO results.
    """
    from ensemble_boxes import weighted_boxes_fusion

    by_place: dict[tuple[int, int], list[list[Mapping[str, Any]]]] = {}
    for place, rows in enumerate(found):
        for row in rows:
            key = row["image_id"], row["category_id"]
            by_place.setdefault(key, [[] for _ in found])[place].append(row)
    results: list[dict[str, Any]] = []
    for (image, category), lists in sorted(by_place.items()):
        several = [rows for rows, own in zip(lists, known, strict=True) if category in own]
        if not any(several):
            continue
        scale = np.array([*sizes[image], *sizes[image]], dtype=np.float64)
        boxes = [_corners(rows) / scale for rows in several]
        scores = [[row["score"] for row in rows] for rows in several]
        labels = [[0] * len(rows) for rows in several]
        merged, sure, _ = weighted_boxes_fusion(boxes, scores, labels, iou_thr=OVERLAP)
        merged = np.asarray(merged, dtype=np.float64).reshape(-1, 4) * scale
        merged[:, 2:] -= merged[:, :2]
        for box, score in zip(merged.round(2).tolist(), np.asarray(sure, dtype=np.float64).round(5), strict=True):
            results.append({"image_id": image, "category_id": category, "bbox": box, "score": float(score)})
    return results


def _corners(rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Return boxes `(n, 4)` as `(x_min, y_min, x_max, y_max)`."""
    boxes = np.array([row["bbox"] for row in rows], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes
