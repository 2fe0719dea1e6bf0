"""One `mutineck` step of two teachers against what it is made of: the student's own step and two plain passes."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from mmdet.models.detectors import TwoStageDetector

from benchmarks.stopwatch import shares, tell
from benchmarks.study import random_study, take_step
from benchmarks.table import Rounds, Row, Target, side_by_side
from mutineck.detection.configs import optimizer_config
from mutineck.detection.evaluation import device_of
from mutineck.detection.frozen import FrozenDetector, build_model
from mutineck.detection.prepare import prepare
from mutineck.detectors import outputs
from mutineck.detectors.folders import load_model
from mutineck.detectors.loaders import evaluation_loader
from mutineck.distillation import guidance, teacher_loss
from mutineck.distillation.distiller import Distiller
from mutineck.distillation.losses import region
from mutineck.distillation.stage import distiller_config
from mutineck.study.experiment import load_experiment
from mutineck.study.stage import Study
from mutineck.teachers import merge

ARM = "mutineck"
PUBLISHED: dict[str, Any] = {
    "dataset.shapes.images": 20,
    "dataset.shapes.size": [512, 512],
    "input.scale": [512, 512],
    "teachers": [
        {"name": name, "detector": {"family": "faster_rcnn", "config": "faster_rcnn/faster_rcnn_r101_fpn_1x_coco.py"}}
        for name in ("first", "second")
    ],
    "student.detector": {"family": "faster_rcnn", "config": "faster_rcnn/faster_rcnn_r50_fpn_1x_coco.py"},
    "student.schedule.batch": 2,
    "student.schedule.optimizer": "sgd",
    "arms": {"student": None, ARM: None},
}
"""What makes of `shapes` a study of published networks."""
PARTS: dict[str, tuple[tuple[Any, str], ...]] = {
    "student's forward pass": ((TwoStageDetector, "forward_train"),),
    "backward pass": ((torch.Tensor, "backward"),),
    "optimiser": ((torch.optim.SGD, "step"), (torch.optim.AdamW, "step")),
    "teachers' maps": ((FrozenDetector, "maps"),),
    "teachers' proposals": ((FrozenDetector, "proposals"),),
    "merge neck": ((merge.MergeNeck, "forward"),),
    "targets and regions": ((guidance, "match_batch"), (region, "build_regions")),
    "second stages": ((guidance, "comparison_boxes"), (guidance, "compare_heads")),
    "centroid loss": ((teacher_loss, "instance_vectors"), (teacher_loss.CentroidLoss, "forward")),
    "region, attention and global loss": ((teacher_loss.TeacherLoss, "_level"),),
    "cache": ((outputs.TensorCache, "get"), (outputs.TensorCache, "put"), (outputs, "digest")),
}
"""Parts of a step and the functions that do them; what the losses of maps cost going back is in the backward pass."""


def rows() -> list[Row]:
    """Measure at the size of `shapes` and at that of published networks; print where each step goes."""
    return [
        *_measured("size of shapes, 8 x 192x144", {"dataset.shapes.images": 40}, 1.3, rounds=11),
        *_measured("R101 + R101 to R50, 2 x 512x512", PUBLISHED, 1.15, rounds=3),
    ]


def _measured(name: str, changed: Mapping[str, Any], most: float, *, rounds: int) -> list[Row]:
    changes = [f"{key}={json.dumps(value)}" for key, value in changed.items()]
    with tempfile.TemporaryDirectory() as folder:
        study = random_study(load_experiment("shapes", [*changes, "resources.cache=off"]), Path(folder))
        whole, alone = Stepper(study, ARM), Stepper(study, "student")
        names = [teacher.name for teacher in study.experiment.teachers]
        plain = [load_model(study.path("teachers", teacher))[0].to(whole.device).eval() for teacher in names]
        frozen = whole.teachers
        image = whole.data["img"]
        extract = [torch.no_grad()(model.extract_feat) for model in plain]
        runs: dict[str, Callable[[], object]] = {"step": whole, "student": alone}
        runs |= {"plain": lambda: [each(image) for each in extract]}
        runs |= {"ours": lambda: [teacher.maps(image) for teacher in frozen]}
        measured = side_by_side(runs, rounds=rounds)
        found = shares(whole, PARTS, runs=min(rounds, 5))
    note = tell(f"where a step of `{ARM}` goes, {name}", found)
    label = f"step of `{ARM}`, {name}"
    return [
        _sum(measured, label, "plain", "student's step + plain `extract_feat` of both", most, note),
        _sum(measured, label, "ours", "student's step + our pass of both", None, ""),
    ]


def _sum(measured: Rounds, name: str, teachers: str, reference: str, most: float | None, note: str) -> Row:
    parts = ("student", teachers)
    target = None if most is None else Target("at most", most)
    beside = sum(map(measured.median, parts))
    return Row(name, measured.median("step"), "s", reference, beside, measured.ratio("step", *parts), target, note)


class Stepper:
    """Takes training steps of an arm over one batch: forward, backward, optimiser.

    Args:
        study: any stage of it.
        arm: whose.
    """

    def __init__(self, study: Study, arm: str) -> None:
        prepare()
        from mmcv.runner import build_optimizer

        experiment = study.experiment
        self.device = device_of(experiment.resources.device)
        config = distiller_config(study.at("distillation", f"{arm}/seed0"))
        if experiment.student.detector.config:
            # As the published student trains: its first stage and all statistics fixed.
            config["student"]["backbone"].update(frozen_stages=1, norm_eval=True)
        self.distiller: Distiller = build_model(config)
        self.distiller.init_weights()
        self.distiller.to(self.device).train()
        self.distiller.epoch = 1.0
        self.optimiser = build_optimizer(self.distiller, optimizer_config(experiment.student.schedule))
        batch = next(iter(evaluation_loader(study, "train", batch=experiment.student.schedule.batch)))
        self.data = {
            "img": batch.image.to(self.device),
            "img_metas": batch.metas,
            "gt_bboxes": [boxes.to(self.device) for boxes in batch.boxes],
            "gt_labels": [labels.to(self.device) for labels in batch.labels],
        }

    @property
    def teachers(self) -> list[FrozenDetector]:
        """The arm's teachers, the intermediate one's among them."""
        assert self.distiller.guidance is not None
        return self.distiller.guidance.ensemble.single

    def __call__(self) -> None:
        """Take a step."""
        take_step(self.distiller, self.data, self.optimiser)
