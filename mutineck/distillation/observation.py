"""What a student is taught about one picture, as arrays: proposals, weights, regions, and the energy of the maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mutineck.detection.evaluation import device_of
from mutineck.detectors.folders import load_frozen
from mutineck.detectors.loaders import evaluation_loader
from mutineck.distillation.losses.attention import attend, strength_of
from mutineck.study.experiment import CHOOSING, INTERMEDIATE
from mutineck.study.stage import Study
from mutineck.system.errors import ExperimentError
from mutineck.system.files import atomic_path
from mutineck.teachers.regions import RegionSettings, build_regions, match_batch

OBSERVATION = "teaching.npz"


def observe(study: Study, *, split: str = CHOOSING, image: int | None = None) -> dict[str, np.ndarray]:
    """Compute what the arm's teachers give for one picture.

    Args:
        study: at the distillation stage.
        split: which pictures to choose from.
        image: id of the picture; the one with most targets if None.

    Returns:
        What `inspect_image` returns, with `merged` where the arm has an intermediate teacher.

    Raises:
        ExperimentError: the arm has no teacher, or the split has no such picture.
    """
    arm = study.experiment.arm(study.job.arm)
    names = arm.teacher_names([t.name for t in study.experiment.teachers])
    if not names:
        raise ExperimentError("this arm has no teacher: there is nothing to observe")
    return inspect_image(study, names, merged=arm.needs_intermediate, split=split, image=image)


@torch.no_grad()
def inspect_image(
    study: Study,
    names: Sequence[str],
    *,
    merged: bool,
    students: Sequence[str] = (),
    split: str = CHOOSING,
    image: int | None = None,
) -> dict[str, np.ndarray]:
    """Compute what several teachers, the intermediate one, and students give for one picture.

    Args:
        study: any stage of it.
        names: teachers.
        merged: whether the intermediate teacher is run too; without it, the first teacher's maps are the reference.
        students: `ARM/seedN`, whose maps are compared with the reference's.
        split: which pictures to choose from.
        image: id of the picture; the one with most targets if None.

    Returns:
        `image_id` `()`; `picture` `(H, W, 3)` uint8; `boxes` `(J, 4)` and `labels` `(J,)`; `teachers` names `(n,)`;
        `students` names; `omega` `(J, n)`; `proposals` `(J, n, P, 4)` with `goodness` `(J, n, P)`; `strides` `(L,)`.
        For each stride s, `(H/s, W/s)` each: `centre/s`, `boundary/s`, `background/s`, `coverage/s`, `response/s` (the
        stacked Gaussians); for each detector NAME that has the level (teachers, `merged`, students) `energy/NAME/s`
        (mean |F|) and `attention/NAME/s` (FGD's, mean 1); for students with the reference's channels
        `error/STUDENT/s` (mean |F_m - F_s|). Boxes are `(x_min, y_min, x_max, y_max)` in pixels of `picture`.

    Raises:
        ExperimentError: the split has no such picture.
    """
    batch = _pick(study, split, image)
    device = device_of(study.experiment.resources.device)
    picture = batch.image.to(device)
    boxes, labels = ([of[0][~batch.crowd[0]].to(device)] for of in (batch.boxes, batch.labels))
    teachers = [load_frozen(study, name) for name in names]
    maps, proposals = zip(*[t.maps_and_proposals(picture, batch.metas) for t in teachers], strict=True)
    settings = RegionSettings(**study.experiment.distillation.regions.model_dump())
    targets = match_batch([[p[0] for p in proposals]], boxes, labels, settings)
    every = dict(zip(names, maps, strict=True))
    if merged:
        every["merged"] = load_frozen(study, INTERMEDIATE).maps(picture)
    reference = every["merged" if merged else names[0]]
    every |= {name: load_frozen(study, name).maps(picture) for name in students}
    found: dict[str, Any] = {
        "image_id": np.array(batch.image_ids[0]),
        "picture": _pixels(study, picture[0], batch.metas[0]["img_shape"]),
        "boxes": boxes[0],
        "labels": labels[0],
    }
    for key, values in (("omega", targets.weights), ("proposals", targets.proposals), ("goodness", targets.goodness)):
        found[key] = values[0, : len(boxes[0])]
    for stride, level in reference.items():
        regions = build_regions(targets, (level.shape[2], level.shape[3]), stride, settings)
        found |= {f"{kind}/{stride}": getattr(regions, kind)[0] for kind in ("centre", "boundary", "background")}
        found |= {f"{kind}/{stride}": getattr(regions, kind)[0].amax(dim=0) for kind in ("coverage", "response")}
        found |= _responses(every, stride, study.experiment.distillation.temperature)
        found |= _errors({name: every[name] for name in students}, stride, level)
    found |= {"teachers": np.array(names), "students": np.array(list(students), dtype=np.str_)}
    found["strides"] = np.array(sorted(reference))
    return {key: value.cpu().numpy() if isinstance(value, torch.Tensor) else value for key, value in found.items()}


def _responses(
    maps: Mapping[str, Mapping[int, torch.Tensor]], stride: int, temperature: float
) -> dict[str, torch.Tensor]:
    """Return `energy/NAME/STRIDE` and `attention/NAME/STRIDE`, `(H, W)` each, of the detectors that have the level."""
    found = {}
    for name, levels in maps.items():
        if stride in levels:
            strength = strength_of(levels[stride])
            found[f"energy/{name}/{stride}"] = strength.places[0]
            found[f"attention/{name}/{stride}"] = attend(strength, temperature).spatial[0]
    return found


def _errors(
    maps: Mapping[str, Mapping[int, torch.Tensor]], stride: int, reference: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Return `error/NAME/STRIDE`, `(H, W)`, of the detectors whose level has the reference's `(N, C, H, W)`."""
    return {
        f"error/{name}/{stride}": (levels[stride] - reference)[0].abs().mean(dim=0)
        for name, levels in maps.items()
        if stride in levels and levels[stride].shape == reference.shape
    }


def save_observation(study: Study, arrays: dict[str, np.ndarray]) -> Path:
    """Store an observation beside the student that is taught, for figures to be drawn from; return the file."""
    path = study.folder / OBSERVATION
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, **arrays)  # type: ignore[arg-type]
    return path


def _pick(study: Study, split: str, image: int | None) -> Any:
    loader = evaluation_loader(study, split, batch=1)
    dataset: Any = loader.dataset
    counts = {row["id"]: len(dataset.annotations[row["id"]]) for row in dataset.images}
    wanted = max(counts, key=lambda key: (counts[key], -key)) if image is None else image
    if wanted not in counts:
        raise ExperimentError(f"split {split!r} has no picture with id {image} (ids {min(counts)} to {max(counts)})")
    from mutineck.detection.evaluation import collate

    position = [row["id"] for row in dataset.images].index(wanted)
    return collate([dataset[position]])


def _pixels(study: Study, image: torch.Tensor, shape: tuple[int, ...]) -> np.ndarray:
    """Return a normalised picture as RGB bytes, without padding."""
    spec = study.experiment.input
    mean, std = (torch.tensor(v, device=image.device).view(3, 1, 1) for v in (spec.mean, spec.std))
    pixels = (image * std + mean).round().clamp(0, 255).byte()[:, : shape[0], : shape[1]]
    return (pixels if spec.to_rgb else pixels.flip(0)).permute(1, 2, 0).cpu().numpy()
