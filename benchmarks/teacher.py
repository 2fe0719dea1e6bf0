"""A frozen teacher's pass against the plain `extract_feat` of the same detector in eval mode."""

from __future__ import annotations

import copy
from functools import partial

import torch
from torch import Tensor

from benchmarks.study import random_model, zoo_config
from benchmarks.table import Row, Target, side_by_side
from mutineck.detection.configs import model_config
from mutineck.detection.frozen import FrozenDetector
from mutineck.study.experiment import load_experiment

PUBLISHED = "faster_rcnn_r101_fpn_2x_coco"
PLAIN = "plain `extract_feat`"
TRIED = (
    "tried without a gain of 1.2 at both sizes: Winograd's filtering, NNPACK; maps made in inference mode could not be "
    "learnt from"
)


def rows() -> list[Row]:
    """Measure a published teacher at 512x512 and those of `shapes` at their size: time, and largest difference."""
    found = _compared(f"{PUBLISHED}, 2 x 512x512", zoo_config(PUBLISHED), (2, 3, 512, 512), rounds=5)
    shapes = load_experiment("shapes")
    width, height = shapes.input.scale
    for teacher in shapes.teachers:
        assert teacher.detector is not None  # all of `shapes` are trained
        name = f"{teacher.name} of shapes, 8 x {width}x{height}"
        found += _compared(name, model_config(teacher.detector, 5), (8, 3, height, width), rounds=11)
    return found


def _compared(name: str, config: object, shape: tuple[int, ...], *, rounds: int) -> list[Row]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    plain = random_model(config, name).to(device).eval()
    names = ("a",)
    ours = FrozenDetector(name, copy.deepcopy(plain), categories=names, student_categories=names)
    image = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)
    extract = torch.no_grad()(plain.extract_feat)
    measured = side_by_side({"ours": partial(ours.maps, image), PLAIN: partial(extract, image)}, rounds=rounds)
    # On a GPU both are timed with TF32's digits, fewer than float32's.
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        difference = max(map(_difference, ours.maps(image).values(), extract(image)))
    return [
        measured.faster(f"teacher pass, {name}", "ours", PLAIN, 1.3, TRIED if name.startswith(PUBLISHED) else ""),
        Row(f"largest difference of its maps, {name}", difference, "", target=Target("at most", 1e-4)),
    ]


def _difference(ours: Tensor, theirs: Tensor) -> float:
    """Return the largest difference of two maps as a share of the largest number."""
    return float((ours - theirs).abs().max() / theirs.abs().max())
