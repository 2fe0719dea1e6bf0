"""The region loss on regions given by hand."""

from __future__ import annotations

import pytest
import torch

from mutineck.distillation.losses.fgd import PUBLISHED_WEIGHTS
from mutineck.distillation.losses.region import RegionLoss, RegionWeights
from mutineck.teachers.regions import Regions


def regions_of(centre: torch.Tensor, boundary: torch.Tensor, background: torch.Tensor) -> Regions:
    one = centre[:, None]
    return Regions(centre, boundary, background, coverage=one, response=one, mass=one, centres=one > 0)


@pytest.fixture
def halves() -> Regions:
    """Two images of 2x3 cells: first column centre, second boundary, third background."""
    columns = torch.zeros(3, 2, 2, 3)
    for k, weight in enumerate((0.5, 0.25, 0.125)):
        columns[k, :, :, k] = weight
    return regions_of(*columns)


def test_each_region_weighs_its_own_cells(halves):
    student, teacher = torch.zeros(2, 4, 2, 3), torch.ones(2, 4, 2, 3)  # uniform: every attention is 1
    terms = RegionLoss(4)(student, teacher, halves)
    # Each of the 2 cells of a column errs by 4 channels times 1, summed over images, divided by images.
    assert terms["centre"].item() == pytest.approx(0.5 * 2 * 4)
    assert terms["boundary"].item() == pytest.approx(0.25 * 2 * 4)
    assert terms["background"].item() == pytest.approx(0.125 * 2 * 4)
    assert terms["attention"].item() == pytest.approx(0, abs=1e-5)
    assert terms["global"].item() == pytest.approx(24)


def test_zero_where_student_equals_teacher_and_gradient_where_not(halves):
    teacher = torch.randn(2, 4, 2, 3, requires_grad=True)
    same = teacher.detach().clone().requires_grad_()
    loss = RegionLoss(4)
    assert not any(term.item() for term in loss(same, teacher, halves).values())
    student = torch.randn(2, 4, 2, 3, requires_grad=True)
    sum(loss(student, teacher, halves).values()).backward()
    assert student.grad.abs().sum() > 0 and teacher.grad is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_finite(dtype, halves):
    student = torch.full((2, 4, 2, 3), -3e4).to(dtype).requires_grad_()
    terms = RegionLoss(4)(student, -student.detach(), halves)
    assert all(term.isfinite() for term in terms.values())
    sum(RegionWeights().weigh(terms).values()).backward()
    assert student.grad.isfinite().all()


def test_regions_of_another_level_are_refused(halves):
    with pytest.raises(ValueError, match=r"\(2, 2, 3\).*\(2, 4, 6\)"):
        RegionLoss(4)(torch.zeros(2, 4, 4, 6), torch.zeros(2, 4, 4, 6), halves)


def test_weights_taken_from_fgd_serve_centre_and_boundary_alike():
    weights = RegionWeights.from_fgd(PUBLISHED_WEIGHTS["retinanet"])
    names = ("centre", "boundary", "background", "attention", "global")
    terms = {name: torch.tensor(1.0) for name in names}
    assert [t.item() for t in weights.weigh(terms).values()] == pytest.approx([1e-3, 1e-3, 5e-4, 5e-4, 5e-6])
