"""The region loss: FGD's difference under regions given by hand, and the masks that it is given in training."""

from __future__ import annotations

import pytest
import torch

from mutineck.distillation.losses.fgd import FGDLoss
from mutineck.distillation.losses.region import region_masks
from mutineck.teachers.regions import Targets, build_regions


@pytest.fixture
def halves() -> dict[str, torch.Tensor]:
    """Two images of 2x3 cells: first column centre, second boundary, third background."""
    columns = torch.zeros(3, 2, 2, 3)
    for k, weight in enumerate((0.5, 0.25, 0.125)):
        columns[k, :, :, k] = weight
    return dict(zip(("centre", "boundary", "background"), columns, strict=True))


def test_each_region_weighs_its_own_cells(halves):
    student, teacher = torch.zeros(2, 4, 2, 3), torch.ones(2, 4, 2, 3)  # uniform: every attention is 1
    terms = FGDLoss(4)(student, teacher, halves)
    # Each of the 2 cells of a column errs by 4 channels times 1, summed over images, divided by images.
    assert terms["centre"].item() == pytest.approx(0.5 * 2 * 4)
    assert terms["boundary"].item() == pytest.approx(0.25 * 2 * 4)
    assert terms["background"].item() == pytest.approx(0.125 * 2 * 4)
    assert terms["attention"].item() == pytest.approx(0, abs=1e-5)
    assert terms["global"].item() == pytest.approx(24)


def test_zero_where_student_equals_teacher_and_gradient_where_not(halves):
    teacher = torch.randn(2, 4, 2, 3, requires_grad=True)
    same = teacher.detach().clone().requires_grad_()
    loss = FGDLoss(4)
    assert not any(term.item() for term in loss(same, teacher, halves).values())
    student = torch.randn(2, 4, 2, 3, requires_grad=True)
    sum(loss(student, teacher, halves).values()).backward()
    assert student.grad.abs().sum() > 0 and teacher.grad is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_finite(dtype, halves):
    student = torch.full((2, 4, 2, 3), -3e4).to(dtype).requires_grad_()
    terms = FGDLoss(4)(student, -student.detach(), halves)
    assert all(term.isfinite() for term in terms.values())
    sum(5e-5 * term for term in terms.values()).backward()
    assert student.grad.isfinite().all()


def test_masks_of_another_level_are_refused(halves):
    with pytest.raises(ValueError, match=r"centre is .*\(2, 2, 3\).*\(2, 4, 6\)"):
        FGDLoss(4)(torch.zeros(2, 4, 4, 6), torch.zeros(2, 4, 4, 6), halves)


def test_masks_are_the_three_regions():
    box = torch.tensor([[[4.0, 4, 20, 20]]])
    one = torch.ones(1, 1, 1)
    targets = Targets(box, one[0] > 0, (box + 3)[:, :, None, None], 0.8 * one[..., None], one)
    masks, regions = region_masks(targets, 4, (7, 8)), build_regions(targets, (7, 8), 4)
    assert list(masks) == ["centre", "boundary", "background"]
    assert all(torch.equal(mask, getattr(regions, name)) and mask.any() for name, mask in masks.items())
