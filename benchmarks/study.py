"""A study whose detectors have learnt nothing: all that a training step reads, made in seconds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from mutineck.clusters.centroids import Centroids, save_centroids
from mutineck.dataset.stage import convert
from mutineck.detection.configs import model_config, read_config
from mutineck.detection.frozen import build_model
from mutineck.detection.training import save_detector
from mutineck.detectors.folders import input_normalisation
from mutineck.study.experiment import INTERMEDIATE, Experiment
from mutineck.study.jobs import Job
from mutineck.study.stage import Study
from mutineck.system.seeding import derive_seed, seeded
from mutineck.teachers import intermediate, stage
from mutineck.teachers.zoo import ZooEntry, find_in_zoo


def random_study(experiment: Experiment, folder: Path, *, zoo: Path | None = None) -> Study:
    """Write data set, teachers of random weights, an intermediate teacher as it starts and random centroids.

    Args:
        experiment: its data set is converted; teachers of its zoo are built from their configs, not downloaded.
        folder: becomes the study's.
        zoo: folder that keeps the zoo's random weights, for other studies; the study's own if None.

    Returns:
        The study at its arm `mutineck`, seed 0.
    """
    study = Study(experiment, folder, Job("dataset"))
    convert(study)
    categories = study.dataset.categories

    def weights_of(entry: ZooEntry) -> Path:
        path = (zoo or folder) / f"{entry.name}.pth"
        if not path.is_file():
            torch.save({"state_dict": random_model(zoo_config(entry.name), entry.name).state_dict()}, path)
        return path

    # A measured mAP would say nothing, so nothing is measured, and no floor or gate is asked about.
    unmeasured = mock.Mock(return_value=[])
    with (
        mock.patch.object(stage, "fetch_weights", weights_of),
        mock.patch.object(stage, "measure_detector", unmeasured),
        mock.patch.object(intermediate, "measure_detector", unmeasured),
    ):
        for teacher in experiment.teachers:
            at = study.at("teachers", teacher.name)
            if teacher.detector is None:
                stage.prepare_teacher(at)
                continue
            config = model_config(teacher.detector, len(categories))
            model = random_model(config, teacher.name)
            save_detector(at.folder, model, config, categories=categories, normalisation=input_normalisation(at))
        if experiment.needs_intermediate:
            # `joint` writes the neck, gates and all, and trains nothing; an arm reads it as if it had been trained.
            spec = experiment.intermediate
            untrained = spec.model_copy(update={"mode": "joint" if spec.mode == "staged" else spec.mode})
            making = Study(
                experiment.model_copy(update={"intermediate": untrained}), folder, Job("teachers", INTERMEDIATE)
            )
            intermediate.prepare_intermediate(making)
    _plant_centroids(study, categories)
    return study.at("distillation", "mutineck/seed0")


def take_step(model: Any, data: Any, optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """Take a training step as mmcv's runner does (forward, backward, optimiser); return what `train_step` returned."""
    outputs: dict[str, Any] = model.train_step(data, optimiser)
    optimiser.zero_grad()
    outputs["loss"].backward()
    optimiser.step()
    return outputs


def zoo_config(name: str) -> Any:
    """Return a published detector's config without the weights that it would fetch."""
    config = read_config(find_in_zoo(name).config)
    config.model.pop("pretrained", None)
    config.model.backbone.init_cfg = None
    return config


def random_model(config: Any, name: str) -> Any:
    """Return the detector of a config with random weights, the same for a name."""
    with seeded(derive_seed("random weights", name)):
        return speak(build_model(config))


def speak(model: Any) -> Any:
    """Give a detector random weights under which it proposes: scores, boxes and running statistics that differ.

    Published starts give every category a score of 0.01 and every box no offset: no proposals at all.
    """
    model.init_weights()
    for key, tensor in model.state_dict().items():
        if key.endswith("running_mean"):
            tensor.normal_(0, 0.1)
        elif key.endswith("running_var"):
            tensor.uniform_(0.5, 2)
        elif key.endswith(("cls.bias", "fc_cls.bias")):
            tensor.normal_(-1, 0.5)
        elif key.endswith(("cls.weight", "fc_cls.weight", "reg.weight", "fc_reg.weight")):
            tensor.mul_(5)
    return model.eval()


def _plant_centroids(study: Study, categories: Sequence[str]) -> None:
    """Write three random centroids a category for every teacher and the intermediate one."""
    names = [teacher.name for teacher in study.experiment.teachers]
    widths = {name: read_config(study.need("teachers", name, "config.py")).model.neck.out_channels for name in names}
    generator = torch.Generator().manual_seed(0)
    m = 3 * len(categories)
    for name, channels in {**widths, INTERMEDIATE: widths[names[0]]}.items():  # it has the anchor's channels
        centroids = Centroids(
            mean=torch.zeros(channels),
            std=torch.ones(channels),
            centroids=torch.randn(m, channels, generator=generator),
            category=torch.arange(m) // 3,
            size=torch.full((m,), 5),
            about={"categories": categories},
        )
        save_centroids(centroids, study.path("clusters", "centroids", f"{name}.safetensors"))
