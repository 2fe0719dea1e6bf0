"""What each picture counts: a loss of a batch is the mean of its pictures' losses, each times its weight."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor

from mutineck.clusters.centroids import Centroids
from mutineck.distillation.losses.centroid import CentroidLoss
from mutineck.distillation.losses.cwd import CWDLoss
from mutineck.distillation.losses.fgd import FGDLoss
from mutineck.distillation.losses.mgd import MGDLoss
from mutineck.distillation.losses.pkd import PKDLoss, standardised

WEIGHTS = torch.tensor([0.9, 0.1, 0.5])


@pytest.fixture
def maps() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 3, 8, 5, 6, generator=generator)
    return student, teacher


def fgd(student: Tensor, teacher: Tensor, rows: slice, pictures: Tensor | None) -> Mapping[str, Tensor]:
    torch.manual_seed(1)
    loss = FGDLoss(student.shape[1])
    torch.nn.init.normal_(loss.student_context.transform[-1].weight)  # or both R are identity
    mask = torch.rand(3, 5, 6, generator=torch.Generator().manual_seed(2))
    return loss(student[rows], teacher[rows], {"foreground": mask[rows]}, pictures)


def cwd(student: Tensor, teacher: Tensor, rows: slice, pictures: Tensor | None) -> Mapping[str, Tensor]:
    return {"cwd": CWDLoss()(student[rows], teacher[rows], pictures)}


def mgd(student: Tensor, teacher: Tensor, rows: slice, pictures: Tensor | None) -> Mapping[str, Tensor]:
    torch.manual_seed(1)
    return {"mgd": MGDLoss(student.shape[1], mask_ratio=0.0)(student[rows], teacher[rows], pictures)}


@pytest.mark.parametrize("loss", [fgd, cwd, mgd])
def test_the_mean_of_the_pictures_losses_each_times_its_weight(
    maps: tuple[Tensor, Tensor], loss: Callable[..., Mapping[str, Tensor]]
) -> None:
    whole = loss(*maps, slice(0, 3), WEIGHTS)
    single = [loss(*maps, slice(i, i + 1), None) for i in range(3)]
    for term, value in whole.items():
        expected = sum(float(w) * float(own[term].detach()) for w, own in zip(WEIGHTS, single, strict=True)) / 3
        assert float(value) == pytest.approx(expected, rel=1e-5), term
    assert all(float(own) > 0 for own in whole.values())
    evenly, plain = loss(*maps, slice(0, 3), torch.ones(3)), loss(*maps, slice(0, 3), None)
    for term, value in plain.items():
        assert float(evenly[term]) == pytest.approx(float(value), rel=1e-6)


def test_pkds_scores_are_the_batchs_and_its_squares_the_pictures(maps: tuple[Tensor, Tensor]) -> None:
    student, teacher = maps
    squares = (standardised(student) - standardised(teacher)).square().mean(dim=(1, 2, 3))
    expected = 0.5 * float((squares * WEIGHTS).mean())
    assert float(PKDLoss()(student, teacher, WEIGHTS)) == pytest.approx(expected, rel=1e-5)


def test_the_centroid_losss_instances_count_what_they_are_given() -> None:
    centroids = Centroids(
        mean=torch.zeros(2),
        std=torch.ones(2),
        centroids=torch.tensor([[2.0, 0.0]]),
        category=torch.tensor([0]),
        size=torch.tensor([5]),
    )
    # cosines of 0 and -1 with the centroid, and a third one that the gate leaves out
    student, teacher = torch.tensor([[0.0, 1], [-1, 0], [5, 5]]), torch.tensor([[1.0, 0], [1, 0], [-1, 0]])
    terms = CentroidLoss(centroids)(student, teacher, torch.zeros(3, dtype=torch.int64), torch.tensor([0.8, 0.1, 9.0]))
    assert float(terms["direction"]) == pytest.approx((0.8 * 1 + 0.1 * 2) / 2)
    # |z - E| / |E|: the root of 5 over 2, and 3 over 2
    assert float(terms["distance"]) == pytest.approx((0.8 * (5**0.5 / 2 - 0.5) + 0.1 * 1.0) / 2)
