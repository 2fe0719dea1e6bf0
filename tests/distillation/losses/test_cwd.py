"""CWD against the divergence written out."""

from __future__ import annotations

import math

import pytest
import torch

from mutineck.distillation.losses.cwd import CWDLoss


def test_two_cells_by_closed_form():
    student, teacher = torch.zeros(1, 1, 1, 2), torch.tensor([[[[2.0, 0.0]]]])
    p = 1 / (1 + math.exp(-2 / 4))
    divergence = p * math.log(p / 0.5) + (1 - p) * math.log((1 - p) / 0.5)
    assert CWDLoss(tau=4)(student, teacher).item() == pytest.approx(16 * divergence, rel=1e-5)


def test_equals_the_divergence_of_every_channel():
    student, teacher = torch.randn(2, 3, 5, 4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    total = 0.0
    for s, t in zip(student.flatten(0, 1), teacher.flatten(0, 1), strict=True):
        p, q = t.flatten().softmax(0), s.flatten().softmax(0)
        total += (p * (p / q).log()).sum().item()
    assert CWDLoss()(student, teacher).item() == pytest.approx(total / 15)


def test_zero_at_equality_and_blind_to_a_channel_s_offset():
    teacher = torch.randn(2, 3, 4, 5)
    assert CWDLoss()(teacher, teacher).item() == 0
    assert CWDLoss()(teacher + torch.tensor([1.0, -5, 9]).view(3, 1, 1), teacher).item() < 1e-6


def test_no_gradient_to_the_teacher():
    student, teacher = (torch.randn(1, 2, 3, 3, requires_grad=True) for _ in range(2))
    CWDLoss()(student, teacher).backward()
    assert student.grad.abs().sum() > 0 and teacher.grad is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_finite(dtype):
    student, teacher = (torch.randn(2, 1, 3, 6, 6) * 1e4).to(dtype)
    loss = CWDLoss()(student.requires_grad_(), teacher)
    loss.backward()
    assert loss.isfinite() and student.grad.isfinite().all()


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(ValueError, match="tau"):
        CWDLoss(tau=0)
