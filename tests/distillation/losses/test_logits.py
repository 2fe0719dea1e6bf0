"""What two second stages say of the same boxes, against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from mutineck.distillation.losses.logits import certainty, divergence, refinement


def test_the_divergence_is_the_one_of_the_formula() -> None:
    student = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    teacher = torch.tensor([[math.log(3.0), 0.0], [2.0, 2.0]])
    # first box: (3/4, 1/4) against (1/2, 1/2); second: the same on both sides
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert divergence(student, teacher).tolist() == pytest.approx([expected, 0], rel=1e-6, abs=1e-7)


def test_scores_count_by_their_differences() -> None:
    student, teacher = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.allclose(divergence(student + 7, teacher - 3), divergence(student, teacher), rtol=1e-12)
    assert torch.equal(divergence(teacher, teacher), torch.zeros(6, dtype=torch.float64))


def test_a_second_stage_is_sure_of_categories_and_the_background_takes_its_part() -> None:
    assert certainty(torch.tensor([[math.log(2.0), 0.0, 0.0]])).tolist() == [pytest.approx([0.5, 0.25])]


def test_a_refinement_counts_as_much_as_the_teacher_is_sure_of_its_category() -> None:
    sure = torch.tensor([[0.5, 0.5], [0.0, 0.0], [1.0, 0.0]])
    student = torch.tensor([[3.0, 0, 0, 0, 0, 0.5, 0, 0]]).repeat(3, 1)
    # SmoothL1 of 3 is 2.5, of 0.5 it is 0.125
    found = refinement(student, torch.zeros(3, 8), sure)
    assert found.tolist() == pytest.approx([0.5 * 2.5 + 0.5 * 0.125, 0, 2.5], rel=1e-6)


def test_one_refinement_for_all_categories_counts_by_their_sum() -> None:
    loss = refinement(torch.tensor([[2.0, 0, 0, 0]]), torch.zeros(1, 4), torch.tensor([[0.5, 0.25]]))
    assert loss.tolist() == pytest.approx([0.75 * 1.5], rel=1e-6)


def test_only_the_student_takes_a_gradient() -> None:
    generator = torch.Generator().manual_seed(2)
    scores, wanted = (torch.randn(5, 4, generator=generator, requires_grad=True) for _ in range(2))
    deltas, refined = (torch.randn(5, 12, generator=generator, requires_grad=True) for _ in range(2))
    (divergence(scores, wanted).sum() + refinement(deltas, refined, certainty(wanted)).sum()).backward()
    assert scores.grad is not None and deltas.grad is not None
    assert wanted.grad is None and refined.grad is None
    # of a softmax's cross-entropy: p_S - p_T
    assert torch.allclose(scores.grad, (scores.softmax(1) - wanted.softmax(1)).detach(), atol=1e-6)


def test_half_precision_is_summed_in_full() -> None:
    generator = torch.Generator().manual_seed(3)
    student, teacher = (torch.randn(64, 21, generator=generator).half() for _ in range(2))
    loss = divergence(student, teacher)
    assert loss.dtype == torch.float32
    assert torch.allclose(loss.double(), divergence(student.double(), teacher.double()), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("loss", [divergence, lambda s, t: refinement(s, t, torch.zeros(3, 1))])
def test_other_shapes_are_refused_with_both_named(loss) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=r"\(3, 4\) and \(3, 8\)"):
        loss(torch.zeros(3, 4), torch.zeros(3, 8))
