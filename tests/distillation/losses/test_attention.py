"""Attention against its closed form."""

from __future__ import annotations

import math

import pytest
import torch

from mutineck.distillation.losses.attention import Attention, attend, attention_distance, strength_of
from mutineck.distillation.losses.fgd import FGDLoss


def attention(features: torch.Tensor, temperature: float) -> Attention:
    return attend(strength_of(features), temperature)


def test_a_uniform_map_is_attended_evenly():
    features = torch.full((2, 3, 4, 5), -7.0)
    assert torch.allclose(attention(features, 0.5).spatial, torch.ones(2, 4, 5))
    assert torch.allclose(attention(features, 0.5).channel, torch.ones(2, 3))


def test_one_strong_cell_by_closed_form():
    features = torch.zeros(1, 2, 2, 2)
    features[0, :, 1, 0] = torch.tensor([3.0, -1.0])  # mean strength 2 in that cell
    e = math.exp(2 / 0.5)
    assert attention(features, 0.5).spatial[0, 1, 0].item() == pytest.approx(4 * e / (e + 3))
    a, b = math.exp(0.75 / 0.5), math.exp(0.25 / 0.5)  # means over cells 3/4 and 1/4
    assert attention(features, 0.5).channel[0].tolist() == pytest.approx([2 * a / (a + b), 2 * b / (a + b)])


def test_attention_has_mean_one():
    features = torch.randn(3, 8, 5, 7)
    assert torch.allclose(attention(features, 0.8).spatial.mean(dim=(1, 2)), torch.ones(3))
    assert torch.allclose(attention(features, 0.8).channel.mean(dim=1), torch.ones(3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_stays_finite_on_strong_maps(dtype):
    features = torch.full((1, 4, 50, 50), 3e4).to(dtype)
    assert attention(features, 0.5).spatial.isfinite().all()
    assert attention(features, 0.5).channel.isfinite().all()


def test_error_under_attention_by_closed_form():
    student = torch.zeros(1, 2, 1, 2)
    teacher = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])
    look = attention(teacher, 0.5)
    expected = [
        look.spatial[0, 0, i].item() * sum(look.channel[0, c].item() * teacher[0, c, 0, i].item() ** 2 for c in (0, 1))
        for i in (0, 1)
    ]
    masks = {str(i): torch.eye(2)[i].view(1, 1, 2) for i in (0, 1)}
    terms = FGDLoss(2)(student, teacher, masks)
    assert [terms[name].item() for name in masks] == pytest.approx(expected)


def test_distance_counts_places_and_channels_and_divides_by_images():
    a, b = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    ours, theirs = attention(a, 0.5), attention(b, 0.5)
    expected = sum((x - y).abs().sum().item() for x, y in zip(ours, theirs, strict=True)) / 2
    assert attention_distance(ours, theirs).item() == pytest.approx(expected)
    assert attention_distance(ours, ours).item() == 0
