"""A small study's outputs, complete but invented: drawn pictures, and detectors simulated by spoiling the
targets.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from pycocotools import mask as coco_mask

from mutineck.figures.precision import evaluate
from mutineck.figures.split_data import Split
from mutineck.study.experiment import Experiment, slug
from mutineck.study.stage import Study

CATEGORIES = ("disc", "ring", "bar")
QUALITY = {
    "faster": 0.85,
    "retina": 0.7,
    "intermediate": 0.9,
    "student": 0.35,
    "fgd:mean": 0.6,
    "mutineck": 0.75,
}
SIZE = (96, 72)


def make_experiment(**changes: Any) -> Experiment:
    detector = {"family": "faster_rcnn"}
    fields: dict[str, Any] = {
        "name": "tiny",
        "description": "Invented outputs for the tests.",
        "dataset": {"format": "shapes"},
        "teachers": [
            {"name": "faster", "detector": detector},
            {"name": "retina", "detector": {"family": "retinanet"}},
        ],
        "student": {"detector": detector, "schedule": {"epochs": 3}},
        "arms": {"student": None, "fgd:mean": None, "mutineck": None},
        "seeds": [0, 1, 2],
    }
    return Experiment.model_validate(fields | changes)


def draw_pictures(folder: Path, split: str, count: int, rng: np.random.Generator) -> dict[str, Any]:
    """Draw pictures of discs, rings and bars, and return their COCO document."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    folder.mkdir(parents=True, exist_ok=True)
    width, height = SIZE
    for index in range(count):
        pixels = rng.integers(90, 140, (height, width, 3), dtype=np.uint8)
        image_id = 1000 * len(split) + index
        for label in rng.integers(0, len(CATEGORIES), rng.integers(1, 5)).tolist():
            radius = int(rng.integers(7, 14))
            x, y = int(rng.integers(radius, width - radius)), int(rng.integers(radius, height - radius))
            mask = np.zeros((height, width), np.uint8)
            if label == 2:
                cv2.rectangle(mask, (x - radius, y - 4), (x + radius - 1, y + 3), 1, -1)
            else:
                cv2.circle(mask, (x, y), radius, 1, -1 if label == 0 else 4)
            pixels[mask.astype(bool)] = ((40, 60, 200), (200, 90, 40), (60, 170, 60))[label]
            code = coco_mask.encode(np.asfortranarray(mask))
            box = [float(v) for v in coco_mask.toBbox(code)]
            segmentation = {"size": code["size"], "counts": code["counts"].decode()}
            item = {"id": len(annotations) + 1, "image_id": image_id, "category_id": label + 1, "bbox": box}
            annotations.append(item | {"area": box[2] * box[3], "iscrowd": 0, "segmentation": segmentation})
        name = f"{split}_{index:03d}.png"
        cv2.imwrite(str(folder / name), pixels)
        images.append({"id": image_id, "file_name": name, "width": width, "height": height})
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(CATEGORIES)]
    return {"images": images, "annotations": annotations, "categories": categories}


def simulate(document: dict[str, Any], quality: float, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Return what a detector of a quality in 0..1 might have found: targets missed, shifted, doubled,
    renamed, invented.
    """
    ids = [item["id"] for item in document["categories"]]
    found = []
    for item in document["annotations"]:
        for copy in range(2):
            if rng.random() > (0.3 + 0.7 * quality if copy == 0 else 0.25 * (1 - quality)):
                continue
            box = np.array(item["bbox"])
            box = box + rng.normal(0, 0.22 * (1 - quality), 4) * np.tile(box[2:], 2)
            box[2:] = np.maximum(box[2:], 1)
            category = item["category_id"] if rng.random() < 0.6 + 0.4 * quality else int(rng.choice(ids))
            score = np.clip(rng.normal(0.45 + 0.4 * quality - 0.2 * copy, 0.15), 0.05, 0.99)
            found.append(
                {
                    "image_id": item["image_id"],
                    "category_id": category,
                    "bbox": box.tolist(),
                    "score": float(score),
                }
            )
    for image in document["images"]:
        for _ in range(rng.poisson(1.5 * (1 - quality))):
            w, h = rng.uniform(0.1, 0.3, 2) * (image["width"], image["height"])
            x, y = rng.uniform(0, image["width"] - w), rng.uniform(0, image["height"] - h)
            score = float(np.clip(rng.normal(0.3, 0.15), 0.05, 0.9))
            found.append(
                {
                    "image_id": image["id"],
                    "category_id": int(rng.choice(ids)),
                    "bbox": [x, y, w, h],
                    "score": score,
                }
            )
    return found


def metric_rows(split: Split, results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a metrics file's rows for simulated results, measured by COCO's own evaluation."""
    precision = evaluate(split, results).eval["precision"][:, :, :, 0, -1]
    precision = np.where(precision < 0, np.nan, precision)

    def row(metric: str, value: float, category: str = "") -> dict[str, Any]:
        known = None if np.isnan(value) else float(value)
        return {"split": split.name, "metric": metric, "category": category, "value": known}

    rows = [
        row("bbox_mAP", np.nanmean(precision)),
        row("bbox_mAP_50", np.nanmean(precision[0])),
        row("bbox_mAP_75", np.nanmean(precision[5])),
    ]
    return rows + [row("AP", np.nanmean(precision[:, :, k]), name) for k, name in enumerate(split.categories)]


def write_run(study: Study, folder: Path, quality: float, seed: int, *, name: str, distilled: bool) -> None:
    rng = np.random.default_rng([seed, int(1000 * quality)])
    rows: list[dict[str, Any]] = []
    for split_name in ("val", "test"):
        split = Split(study, split_name)
        results = simulate(split.document, quality + 0.02 * seed, rng)
        write(folder / f"predictions_{split_name}.json", results)
        rows += [row | {"name": name} for row in metric_rows(split, results)]
    write(folder / "metrics.json", rows)
    terms = {"loss_rpn_cls": 0.4, "loss_cls": 0.8, "loss_bbox": 0.6} | (
        {"loss_kd_region": 0.7, "loss_kd_global": 0.1} if distilled else {}
    )
    curve = []
    for iteration in range(1, 61):
        fall = 0.3 + np.exp(-iteration / 20)
        values = {term: share * fall * rng.uniform(0.8, 1.2) for term, share in terms.items()}
        values["loss"] = sum(values.values())
        values |= {f"share/{term}": values[term] / values["loss"] for term in terms}
        if iteration % 20 == 1:
            values |= {f"gradient/{term}": share / sum(terms.values()) for term, share in terms.items()}
        if iteration % 20 == 0:
            values["val/bbox_mAP"] = quality * (1 - np.exp(-iteration / 25)) + rng.normal(0, 0.01)
        epoch = (iteration + 19) // 20
        curve += [
            {"iteration": iteration, "epoch": epoch, "term": term, "value": value} for term, value in values.items()
        ]
    pd.DataFrame(curve).to_csv(folder / "curves.csv", index=False)


def write_study(study: Study, documents: dict[str, Any], image_root: str, categories: tuple[str, ...]) -> Study:
    """Write everything a finished study has, short of checkpoints."""
    counted = {}
    for split, document in documents.items():
        write(study.path("dataset", f"{split}.json"), document)
        counted[split] = {"images": len(document["images"]), "boxes": len(document["annotations"])}
    write(
        study.path("dataset", "dataset.json"),
        {"categories": list(categories), "image_root": image_root, "splits": counted, "source": {}},
    )
    write(
        study.path("dataset", "defects.json"),
        [{"file": "a.xml", "field": "object[0]", "reason": "zero-area box", "action": "left out"}],
    )
    study.at("dataset").finish(results=counted)
    for teacher in ("faster", "retina", "intermediate"):
        write_run(study, study.path("teachers", teacher), QUALITY[teacher], 0, name=teacher, distilled=False)
        study.at("teachers", teacher).finish(results={"bbox_mAP": 0.5})
    for arm in study.experiment.arms:
        for seed in study.experiment.seeds:
            folder = study.path("distillation", slug(arm), f"seed{seed}")
            write_run(study, folder, QUALITY[arm], seed, name=arm, distilled=arm != "student")
            study.at("distillation", f"{slug(arm)}/seed{seed}").finish()
    write_closer_look(study, documents["val"], categories)
    return study


def write_closer_look(study: Study, document: dict[str, Any], categories: tuple[str, ...]) -> None:
    """Write what the ablations stage measures with networks, and an arm's observation, invented."""
    rng = np.random.default_rng(5)
    teachers = [teacher.name for teacher in study.experiment.teachers]
    names = {item["id"]: item["name"] for item in document["categories"]}
    folder = study.path("ablations")
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for item in document["annotations"]:
        quality = np.where(rng.random(len(teachers)) < 0.2, 0.0, rng.uniform(0.3, 1, len(teachers)))
        omega = np.exp(quality / 0.25) * (quality > 0) + 1e-9
        x, y, w, h = item["bbox"]
        for name, q, weight in zip(teachers, quality, omega / omega.sum(), strict=True):
            corners = rng.normal([x, y, x + w, y + h], 2) if q else np.full(4, np.nan)
            row = {"image_id": item["image_id"], "annotation_id": item["id"], "category": names[item["category_id"]]}
            row |= {"teacher": name, "omega": weight, "quality": q}
            rows.append(row | dict(zip(("x1", "y1", "x2", "y2"), corners, strict=True)))
    pd.DataFrame(rows).to_csv(folder / "omega.csv", index=False)
    students = {"student/seed0": "alone", "mutineck/seed0": "taught"}
    kinds = dict.fromkeys(teachers, "teacher") | {"intermediate": "intermediate"} | students
    numbers = [
        {"detector": name, "kind": kind, "instances": 30}
        | dict(zip(("distance", "cosine", "silhouette", "between"), rng.random(4), strict=True))
        for name, kind in kinds.items()
    ]
    pd.DataFrame(numbers).to_csv(folder / "tightness.csv", index=False)
    points = [
        {"detector": name, "kind": "instance" if name else "centroid", "category": categories[i % len(categories)]}
        | {"annotation_id": i if name else -1, "x": rng.normal(i % len(categories)), "y": rng.normal()}
        for name in [*kinds, ""]
        for i in range(30 if name else 6)
    ]
    pd.DataFrame(points).to_csv(folder / "layout.csv", index=False)
    costs = [
        {"detector": name, "parameters": n * 1e6, "multiply_adds": n * 4e8, "milliseconds": 20.0 * n, "passes": 10}
        | {"threads": 1, "device": "cpu", "width": SIZE[0], "height": SIZE[1]}
        | {"onnx_milliseconds": 9.0 if name == "student" else None}
        for n, name in enumerate((*teachers, "intermediate", "student"), start=2)
    ]
    pd.DataFrame(costs).to_csv(folder / "costs.csv", index=False)
    seen = invented_look(teachers, list(students), len(categories), rng)
    np.savez(folder / "responses.npz", **seen)
    np.savez(study.path("distillation", "mutineck", "seed0", "teaching.npz"), **seen)


def invented_look(
    teachers: list[str], students: list[str], categories: int, rng: np.random.Generator, targets: int = 3
) -> dict[str, Any]:
    """Return arrays as `mutineck.distillation.observation.inspect_image` does; the second teacher lacks the finest level."""
    width, height = SIZE
    corners = rng.uniform(0, 40, (targets, 2))
    boxes = np.concatenate([corners, corners + 24], axis=1)
    n = len(teachers)
    goodness = rng.uniform(0.2, 1, (targets, n, 4)) * (rng.random((targets, n, 1)) > 0.2)
    weights = rng.random((targets, n))
    seen: dict[str, Any] = {
        "image_id": np.array(3000),
        "picture": rng.integers(0, 255, (height, width, 3), dtype=np.uint8),
        "boxes": boxes,
        "labels": np.arange(targets) % categories,
        "teachers": np.array(teachers),
        "students": np.array(students, dtype=np.str_),
        "omega": weights / weights.sum(axis=1, keepdims=True),
        "proposals": boxes[:, None, None] + rng.normal(0, 2, (targets, n, 4, 4)),
        "goodness": goodness,
        "strides": np.array([8, 16]),
    }
    for stride in (8, 16):
        # As of a padded batch: larger than the picture.
        shape = (height // stride + 2, width // stride + 1)
        seen |= {f"{kind}/{stride}": rng.random(shape) for kind in ("centre", "coverage", "response")}
        seen[f"boundary/{stride}"] = np.zeros(shape)
        seen[f"background/{stride}"] = np.full(shape, 1 / np.prod(shape))
        for name in [*teachers, "merged", *students]:
            if (name, stride) != (teachers[-1], 8):
                seen |= {f"{kind}/{name}/{stride}": rng.random(shape) for kind in ("energy", "attention")}
        seen |= {f"error/{name}/{stride}": rng.random(shape) for name in students}
    return seen


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
