"""Values of every loss on fixed input, kept in tests/golden/losses.json.

The input is made of sines, not of random numbers, so it is the same on every platform. After a change
that is meant to move a value, write the file anew: `python tests/distillation/losses/test_golden.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mutineck.clusters.centroids import Centroids
from mutineck.detection.cells import pad_boxes
from mutineck.detection.roi import instance_vectors
from mutineck.distillation.losses.centroid import CentroidLoss
from mutineck.distillation.losses.confidence import ca_mkd_weights
from mutineck.distillation.losses.cwd import CWDLoss
from mutineck.distillation.losses.fgd import FGDLoss, fgd_masks
from mutineck.distillation.losses.mgd import MGDLoss
from mutineck.distillation.losses.pkd import PKDLoss
from mutineck.distillation.losses.region import region_masks
from mutineck.teachers.regions import match_batch
from tests.distillation.losses.published import published_masks

GOLDEN = Path(__file__).parents[2] / "golden" / "losses.json"
BOXES = [torch.tensor([[3.0, 5, 22, 30], [14, 9, 37, 25]]), torch.zeros(0, 4)]
LABELS = [torch.tensor([0, 1]), torch.zeros(0, dtype=torch.int64)]


def wave(*shape: int, pace: float) -> torch.Tensor:
    """A float64 tensor of sines."""
    count = torch.Size(shape).numel()
    return torch.sin(pace * torch.arange(1, count + 1, dtype=torch.float64)).reshape(shape)


STUDENT, TEACHER = wave(2, 4, 8, 10, pace=0.7), 2 * wave(2, 4, 8, 10, pace=1.3)


def fixed(module: torch.nn.Module) -> torch.nn.Module:
    """Give a module weights of sines."""
    module = module.double()
    with torch.no_grad():
        for k, parameter in enumerate(module.parameters()):
            parameter.copy_(wave(*parameter.shape, pace=0.3 + 0.1 * k) / 2)
    return module


def proposed(shift: float, score: float) -> SimpleNamespace:
    return SimpleNamespace(boxes=BOXES[0] + shift, scores=torch.tensor([score, 0.6]), labels=LABELS[0])


def fgd(masks: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return fixed(FGDLoss(4))(STUDENT, TEACHER, masks)


def region() -> dict[str, torch.Tensor]:
    none = SimpleNamespace(boxes=BOXES[1], scores=torch.zeros(0), labels=LABELS[1])
    targets = match_batch([[proposed(2, 0.9), proposed(-3, 0.4)], [none, none]], BOXES, LABELS)
    return fgd(region_masks(targets, 4, (8, 10)))


def centroid() -> dict[str, torch.Tensor]:
    known = Centroids(
        mean=wave(4, pace=0.2),
        std=1 + wave(4, pace=0.5).abs(),
        centroids=wave(3, 4, pace=1.1),
        category=torch.tensor([0, 0, 1]),
        size=torch.tensor([1, 1, 1]),
    )
    student, teacher = (instance_vectors({4: maps}, BOXES) for maps in (STUDENT, TEACHER))
    return CentroidLoss(known, threshold=-1.0)(student, teacher, LABELS[0])


CASES = {
    "fgd": lambda: fgd(fgd_masks(*pad_boxes(BOXES), 4, (8, 10))),
    "fgd published masks": lambda: fgd(published_masks(BOXES, torch.tensor([[32, 40], [30, 30]]), (8, 10))),
    "region": region,
    "centroid": centroid,
    "mgd": lambda: {"mgd": fixed(MGDLoss(4, mask_ratio=0.0))(STUDENT, TEACHER)},
    "pkd": lambda: {"pkd": PKDLoss()(STUDENT, TEACHER)},
    "cwd": lambda: {"cwd": CWDLoss()(STUDENT, TEACHER)},
    "confidence": lambda: dict(zip("ab", ca_mkd_weights(torch.tensor([0.9, 0.4])), strict=True)),
}


def values(name: str) -> dict[str, float]:
    return {term: value.item() for term, value in CASES[name]().items()}


def test_the_file_holds_the_cases_and_no_others():
    assert json.loads(GOLDEN.read_text()).keys() == CASES.keys()


@pytest.mark.parametrize("name", CASES)
def test_value_is_the_kept_one(name):
    assert values(name) == pytest.approx(json.loads(GOLDEN.read_text())[name], rel=1e-5)


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps({name: values(name) for name in CASES}, indent=2) + "\n")
