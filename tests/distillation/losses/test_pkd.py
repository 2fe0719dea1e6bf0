"""PKD against Pearson's correlation."""

from __future__ import annotations

import pytest
import torch

from mutineck.distillation.losses.pkd import PKDLoss


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    student, teacher = torch.randn(2, 3, 4, 9, 8, generator=torch.Generator().manual_seed(0))
    return student.requires_grad_(), teacher.requires_grad_()


def test_is_one_minus_the_correlation_of_each_channel():
    student, teacher = pair()
    count = 3 * 9 * 8
    r = torch.stack(
        [torch.corrcoef(torch.stack([student[:, c].flatten(), teacher[:, c].flatten()]))[0, 1] for c in range(4)]
    )
    # With n - 1 in the deviation a z-score's mean square is (n - 1) / n.
    expected = ((1 - r) * (count - 1) / count).mean()
    torch.testing.assert_close(PKDLoss()(student, teacher), expected)


def test_does_not_see_scale_and_offset_of_a_channel():
    student, teacher = pair()
    assert PKDLoss()(teacher.detach() * torch.tensor([0.1, 1, 5, 40]).view(4, 1, 1) - 3, teacher).item() < 1e-9
    assert PKDLoss()(student, teacher).item() == pytest.approx(PKDLoss()(student, 7 * teacher + 2).item(), rel=1e-5)


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (1, 3, 1, 1)], ids=["constant", "a single cell"])
def test_channels_without_spread_are_finite_with_their_gradient(shape):
    student = torch.ones(shape, requires_grad=True)
    loss = PKDLoss()(student, torch.randn(shape))
    loss.backward()
    assert loss.isfinite() and student.grad.isfinite().all()


def test_no_gradient_to_the_teacher():
    student, teacher = pair()
    PKDLoss()(student, teacher).backward()
    assert student.grad.abs().sum() > 0 and teacher.grad is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_finite(dtype):
    student, teacher = pair()
    loss = PKDLoss()((student * 1e4).to(dtype), (teacher * 1e-3).to(dtype))
    assert loss.isfinite() and loss.dtype == torch.float32
