"""FGD's masks, its R and its terms: closed forms, gradients, precision."""

from __future__ import annotations

import pytest
import torch

from mutineck.detection.cells import pad_boxes
from mutineck.distillation.losses.fgd import FGDLoss, GlobalContext, fgd_masks
from tests.distillation.losses.published import published_masks

NONE = torch.zeros(0, 4)


def drawn(boxes: list[torch.Tensor], size: tuple[int, int]) -> dict[str, torch.Tensor]:
    """FGD's masks of boxes on a map of stride 4."""
    return fgd_masks(*pad_boxes(boxes), 4, size)


def test_masks_by_closed_form():
    boxes = [torch.tensor([[0.0, 0, 4, 4], [0, 0, 12, 4]])]  # 2x2 cells inside 2x4 cells
    masks = drawn(boxes, (3, 5))
    expected = torch.tensor([[0.25, 0.25, 0.125, 0.125, 0]] * 2 + [[0.0] * 5])
    torch.testing.assert_close(masks["foreground"][0], expected)
    assert masks["background"][0, 2].tolist() == pytest.approx([1 / 7] * 5)


def test_an_image_without_boxes_is_all_background():
    masks = drawn([NONE, torch.tensor([[0.0, 0, 4, 4]])], (3, 5))
    assert not masks["foreground"][0].any()
    assert masks["background"][0].unique().tolist() == pytest.approx([1 / 15])


def test_a_box_over_everything_leaves_no_background_and_no_nan():
    masks = drawn([torch.tensor([[-9.0, -9, 99, 99]])], (3, 5))
    assert not masks["background"].any()
    assert masks["foreground"].sum().item() == pytest.approx(1)


def test_padding_of_the_batch_moves_no_mask_but_does_in_the_published_code():
    boxes, sizes = [torch.tensor([[10.0, 3, 15, 7]])], torch.tensor([[12, 20]])
    small, large = drawn(boxes, (3, 5))["foreground"], drawn(boxes, (6, 10))["foreground"]
    assert torch.equal(large[:, :3, :5], small)
    assert not large[:, 3:].any() and not large[:, :, 5:].any()
    assert torch.equal(small, published_masks(boxes, sizes, (3, 5))["foreground"].float())
    assert published_masks(boxes, sizes, (6, 10))["foreground"][0, 1, 2] == 0 < large[0, 1, 2]


def test_a_box_without_weight_stays_foreground():
    boxes, valid = pad_boxes([torch.tensor([[0.0, 0, 4, 4], [0, 0, 12, 4]])])  # 2x2 cells inside 2x4 cells
    masks = fgd_masks(boxes, valid, 4, (3, 5), weights=torch.tensor([[2.0, 0]]))
    assert masks["foreground"][0].unique().tolist() == [0, 0.5]
    assert masks["background"][0, :2, :4].sum() == 0 < masks["background"][0, 0, 4]


def test_context_starts_as_identity_and_learns():
    context = GlobalContext(8)
    features = torch.randn(2, 8, 5, 6)
    assert torch.equal(context(features), features)
    context(features).square().sum().backward()
    assert context.transform[-1].weight.grad.abs().sum() > 0


def test_context_by_closed_form():
    context = GlobalContext(2).double()
    with torch.no_grad():
        for parameter in context.parameters():
            parameter.copy_(torch.arange(1, parameter.numel() + 1).reshape(parameter.shape) / 7)
    features = torch.randn(1, 2, 2, 3, dtype=torch.double)
    f = features[0].flatten(1)  # (2, 6)
    weight = (context.place.weight.flatten() @ f).softmax(dim=0)
    pooled = (f * weight).sum(dim=1)
    first, norm, _, last = context.transform
    hidden = first.weight[:, :, 0, 0] @ pooled + first.bias
    hidden = (hidden - hidden.mean()) / (hidden.var(correction=0) + norm.eps).sqrt()
    hidden = (hidden * norm.weight.flatten() + norm.bias.flatten()).relu()
    expected = features + (last.weight[:, :, 0, 0] @ hidden + last.bias)[None, :, None, None]
    torch.testing.assert_close(context(features), expected)


def maps(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(3)
    student, teacher = torch.randn(2, 2, 8, 6, 7, generator=generator).to(dtype)
    return student.requires_grad_(), teacher.requires_grad_(), drawn([torch.tensor([[2.0, 3, 11, 15]]), NONE], (6, 7))


def test_every_term_is_zero_where_student_equals_teacher():
    student, _, masks = maps()
    terms = FGDLoss(8)(student, student.detach().clone(), masks)
    assert {name: term.item() for name, term in terms.items()} == dict.fromkeys(terms, 0.0)


def test_gradient_reaches_student_and_both_contexts_but_no_teacher():
    student, teacher, masks = maps()
    loss = FGDLoss(8)
    sum(loss(student, teacher, masks).values()).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0
    for context in (loss.student_context, loss.teacher_context):
        assert all(p.grad is not None for p in context.parameters())


def test_gradients_are_the_derivatives():
    generator = torch.Generator().manual_seed(4)
    student, teacher = torch.randn(2, 1, 3, 3, 4, generator=generator, dtype=torch.float64)
    loss = FGDLoss(3).double()
    masks = drawn([torch.tensor([[2.0, 3, 7, 6]])], (3, 4))

    def total(changed: torch.Tensor) -> torch.Tensor:
        return sum(loss(changed, teacher, masks).values())

    assert torch.autograd.gradcheck(total, (student.requires_grad_(),))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_finite_forward_and_backward(dtype):
    student, teacher, masks = maps()
    student = (student.detach() * 200).to(dtype).requires_grad_()
    terms = FGDLoss(8)(student, (teacher * 200).to(dtype), masks)
    assert all(term.dtype == torch.float32 and term.isfinite() for term in terms.values())
    sum(terms.values()).backward()
    assert student.grad.isfinite().all()


def test_autocast_changes_nothing():
    student, teacher, masks = maps()
    loss = FGDLoss(8)
    torch.nn.init.normal_(loss.student_context.transform[-1].weight)
    plain = loss(student, teacher, masks)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = loss(student, teacher, masks)
    assert {k: v.item() for k, v in plain.items()} == {k: v.item() for k, v in cast.items()}


def test_maps_of_different_shape_are_refused_with_both_named():
    with pytest.raises(ValueError, match=r"\(1, 4, 3, 3\) and \(1, 8, 3, 3\)"):
        FGDLoss(8)(torch.zeros(1, 4, 3, 3), torch.zeros(1, 8, 3, 3), {})
