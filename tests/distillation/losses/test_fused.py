"""FGD by sums over pieces of maps against FGD written out in maps: the same values, the same gradients."""

from __future__ import annotations

import pytest
import torch

from benchmarks.losses import looped_fgd, looped_masks
from mutineck.detection.cells import pad_boxes
from mutineck.distillation.losses.fgd import FGDLoss, fgd_masks
from mutineck.distillation.losses.maps import PIECE

BOXES = [torch.tensor([[4.0, 6, 30, 31], [20, 9, 47, 39], [13, 13, 13, 13], [40, 30, 64, 48]]), torch.zeros(0, 4)]
MASKS = fgd_masks(*pad_boxes(BOXES), 4, (12, 16))
LAYOUTS = {
    "rows": lambda maps: maps,
    "channels last": lambda maps: maps.contiguous(memory_format=torch.channels_last),
    "transposed": lambda maps: maps.mT.contiguous().mT,
}


def value_and_gradients(evaluate, student: torch.Tensor, teacher: torch.Tensor) -> list[torch.Tensor]:
    torch.manual_seed(0)
    loss = FGDLoss(6).double()
    for parameter in loss.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    leaf = student.detach().requires_grad_()
    # Different weights, so that no term's gradient can stand for another's.
    terms = evaluate(loss, leaf, teacher, MASKS)
    total = sum(weight * terms[name] for weight, name in enumerate(sorted(terms), start=1))
    total.backward()
    assert leaf.grad.stride() == leaf.stride()
    return [total.detach(), leaf.grad, *(parameter.grad for parameter in loss.parameters())]


@pytest.mark.parametrize("piece", [1, 1000, 10**6], ids=["in many pieces", "in some", "in one"])
@pytest.mark.parametrize("student", LAYOUTS)
@pytest.mark.parametrize("teacher", LAYOUTS)
def test_values_and_gradients_are_those_of_the_formulas(student, teacher, piece, monkeypatch):
    monkeypatch.setitem(PIECE, "cpu", piece)
    generator = torch.Generator().manual_seed(2)
    maps = torch.randn(2, 2, 6, 12, 16, generator=generator, dtype=torch.float64)
    ours, theirs = LAYOUTS[student](maps[0]), LAYOUTS[teacher](maps[1])
    before = ours.clone(), theirs.clone()
    found = value_and_gradients(FGDLoss.__call__, ours, theirs)
    assert torch.equal(ours, before[0]) and torch.equal(theirs, before[1])
    for own, expected in zip(found, value_and_gradients(looped_fgd, *maps), strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-6, atol=1e-9)


def test_a_student_that_takes_no_gradient_leaves_the_contexts_theirs():
    loss = FGDLoss(6)
    student, teacher = torch.randn(2, 2, 6, 12, 16)
    sum(loss(student, teacher, MASKS).values()).backward()
    assert all(parameter.grad is not None for parameter in loss.parameters())


def test_masks_are_those_of_the_loop():
    torch.testing.assert_close(MASKS, looped_masks(BOXES, 4, (12, 16)))
