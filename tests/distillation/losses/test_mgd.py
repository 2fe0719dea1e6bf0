"""MGD against its closed form."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from mutineck.distillation.losses.mgd import MGDLoss


def pair(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    student, teacher = torch.randn(2, 2, 4, 9, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    return student.requires_grad_(), teacher.requires_grad_()


def test_by_closed_form():
    student, teacher = pair()
    loss = MGDLoss(4, mask_ratio=0.5)
    found = loss(student, teacher, generator=torch.Generator().manual_seed(7))
    keep = torch.rand(2, 1, 9, 8, generator=torch.Generator().manual_seed(7)) >= 0.5
    first, _, last = loss.generation
    made = functional.conv2d(student * keep, first.weight, first.bias, padding=1).clamp(min=0)
    made = functional.conv2d(made, last.weight, last.bias, padding=1)
    torch.testing.assert_close(found, ((made - teacher) ** 2).sum() / 2)


def test_hidden_cells_take_no_gradient_from_a_generation_that_copies():
    student, teacher = pair()
    loss = MGDLoss(4, mask_ratio=0.65)
    for conv in (loss.generation[0], loss.generation[2]):
        torch.nn.init.dirac_(conv.weight)
        torch.nn.init.zeros_(conv.bias)
    loss(student, teacher, generator=torch.Generator().manual_seed(2)).backward()
    keep = (torch.rand(2, 1, 9, 8, generator=torch.Generator().manual_seed(2)) >= 0.65).expand_as(student)
    assert not student.grad[~keep].any()
    assert student.grad[keep & (student > 0)].all()
    assert teacher.grad is None


def test_an_own_generator_leaves_the_global_one_alone():
    student, teacher = pair()
    loss = MGDLoss(4)
    before = torch.get_rng_state()
    one, other = (loss(student, teacher, generator=torch.Generator().manual_seed(3)).item() for _ in range(2))
    assert one == other
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_finite(dtype):
    student, teacher = pair(dtype)
    loss = MGDLoss(4)(student * 100, teacher * 10000)
    assert loss.isfinite() and loss.dtype == torch.float32


@pytest.mark.parametrize("ratio", [-0.1, 1.0])
def test_a_ratio_that_hides_everything_or_less_than_nothing_is_refused(ratio):
    with pytest.raises(ValueError, match="mask_ratio"):
        MGDLoss(4, mask_ratio=ratio)
