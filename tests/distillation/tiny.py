"""Distillers at the smallest size: random teachers, an intermediate teacher as it starts, invented centroids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mutineck.clusters.centroids import Centroids, save_centroids
from mutineck.distillation.distiller import Distiller
from mutineck.distillation.stage import distiller_config
from mutineck.study.experiment import INTERMEDIATE
from mutineck.study.stage import Study
from tests.detection.tiny import first_batch, total

ARMS = (
    "student",
    "fgd:faster_rcnn",
    "fgd:retinanet",
    "fgd:mean",
    "fgd:confidence",
    "fgd:sequential",
    "fgd:intermediate",
    "adapters",
    "mutineck",
    "mutineck-intermediate",
    "mutineck-regions",
    "mutineck-centroids",
    "mgd:retinanet",
    "mgd:mean",
    "mgd:intermediate",
    "pkd:mean",
    "pkd:intermediate",
    "cwd:mean",
    "cwd:intermediate",
)


def plant_centroids(study: Study, channels: int = 32) -> None:
    """Write two random centroids a category for every teacher and the intermediate one, their gate wide open."""
    categories = study.dataset.categories
    generator = torch.Generator().manual_seed(0)
    for name in [*(t.name for t in study.experiment.teachers), INTERMEDIATE]:
        m = 2 * len(categories)
        centroids = Centroids(
            mean=torch.zeros(channels),
            std=torch.ones(channels),
            centroids=torch.randn(m, channels, generator=generator),
            category=torch.arange(m) // 2,
            size=torch.full((m,), 5),
            about={"teacher": name, "categories": categories, "k": 2, "seed": 0},
            within=torch.eye(channels),
        )
        save_centroids(centroids, study.path("clusters", "centroids", f"{name}.safetensors"))


def build(study: Study, arm: str, *, seed: int = 0) -> Distiller:
    """Return the distiller of an arm as a training would start it."""
    from mutineck.detection.frozen import build_model
    from mutineck.system.seeding import seed_everything

    at = study.at("distillation", f"{arm.replace(':', '-')}/seed{seed}")
    seed_everything(seed)
    distiller = build_model(distiller_config(at))
    distiller.init_weights()
    return distiller.train()


def step(distiller: Distiller, study: Study, *, images: int = 2, seed: int = 1, empty: bool = False) -> dict[str, Any]:
    """Run one forward and backward pass of a training step, on pictures with or without objects; return the losses."""
    batch = first_batch(study, images)
    if empty:
        batch |= {key: [values[:0] for values in batch[key]] for key in ("gt_bboxes", "gt_labels")}
    if has_masks(distiller):
        batch["gt_masks"] = box_masks(batch)
    torch.manual_seed(seed)
    losses = distiller.forward_train(**batch)
    distiller.zero_grad()
    total(losses).backward()
    return losses


def has_masks(distiller: Distiller) -> bool:
    """Whether the student trains a mask branch."""
    return bool(getattr(getattr(distiller.student, "roi_head", None), "with_mask", False))


def box_masks(batch: dict[str, Any]) -> list[Any]:
    """Return each target's box as its mask, as mmdet holds masks."""
    import numpy as np
    from mmdet.core import BitmapMasks

    height, width = batch["img"].shape[2:]
    masks = []
    for boxes in batch["gt_bboxes"]:
        drawn = np.zeros((len(boxes), height, width), dtype=np.uint8)
        for mask, box in zip(drawn, boxes.round().int().tolist(), strict=True):
            mask[box[1] : box[3], box[0] : box[2]] = 1
        masks.append(BitmapMasks(drawn, height, width))
    return masks


def teachers_of(distiller: Distiller) -> list[torch.nn.Module]:
    """Return every frozen network that a distiller looks at."""
    guidance = distiller.guidance
    if guidance is None:
        return []
    ensemble = guidance.ensemble
    found = [teacher.model for teacher in ensemble.single]
    return found + ([ensemble.intermediate.model] if ensemble.intermediate is not None else [])


def link_intermediate(study: Study, root: Path) -> None:
    """Share an intermediate teacher that another study has made."""
    study.path("teachers", INTERMEDIATE).symlink_to(root / "teachers" / INTERMEDIATE)
