"""CA-MKD's weights against their closed form."""

from __future__ import annotations

import math

import pytest
import torch

from mutineck.distillation.losses.confidence import ca_mkd_weights


def test_two_teachers_swap_their_softmax():
    e = math.exp(1)
    assert ca_mkd_weights(torch.tensor([2.0, 1.0])).tolist() == pytest.approx([1 / (1 + e), e / (1 + e)])


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_sum_is_one_and_the_smaller_loss_weighs_more(n):
    losses = torch.linspace(0.1, 2, n)
    weights = ca_mkd_weights(losses)
    assert weights.sum().item() == pytest.approx(1)
    assert weights.tolist() == sorted(weights.tolist(), reverse=True)


def test_order_of_teachers_only_orders_the_weights():
    losses = torch.tensor([[0.3, 2.0, 0.9], [1.0, 1.0, 1.0]])
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(ca_mkd_weights(losses[:, order]), ca_mkd_weights(losses)[:, order])
    torch.testing.assert_close(ca_mkd_weights(losses)[1], torch.full((3,), 1 / 3))


def test_takes_no_gradient():
    assert not ca_mkd_weights(torch.rand(3, requires_grad=True)).requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_finite_on_huge_losses(dtype):
    assert ca_mkd_weights(torch.tensor([6e4, 1.0, 0.0]).to(dtype)).isfinite().all()


def test_no_teacher_is_refused():
    with pytest.raises(ValueError, match="at least one teacher"):
        ca_mkd_weights(torch.zeros(0))
