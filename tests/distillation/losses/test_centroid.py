"""The centroid loss: closed forms, the teacher's choice, empty gates."""

from __future__ import annotations

import math

import pytest
import torch

from mutineck.clusters.centroids import Centroids
from mutineck.distillation.losses.centroid import (
    CentroidLoss,
    centroid_terms,
    choose_centroids,
)


@pytest.fixture
def centroids() -> Centroids:
    """Category 0 has centroids along x and y, category 2 one along z, category 1 none."""
    return Centroids(
        mean=torch.tensor([1.0, 2, 3]),
        std=torch.tensor([1.0, 2, 4]),
        centroids=torch.tensor([[2.0, 0, 0], [0, 3, 0], [0, 0, 4]]),
        category=torch.tensor([0, 0, 2]),
        size=torch.tensor([5, 4, 3]),
    )


def raw(centroids: Centroids, standardised: list[list[float]]) -> torch.Tensor:
    return torch.tensor(standardised) * centroids.std + centroids.mean


def test_zero_at_the_centroid(centroids):
    vectors = raw(centroids, [[2, 0, 0], [0, 3, 0], [0, 0, 4]]).requires_grad_()
    terms = CentroidLoss(centroids)(vectors, vectors.detach(), torch.tensor([0, 0, 2]))
    assert {k: v.item() for k, v in terms.items()} == pytest.approx({"direction": 0, "distance": 0}, abs=1e-6)
    sum(terms.values()).backward()
    assert vectors.grad.isfinite().all()


@pytest.mark.parametrize(
    ("student", "direction", "distance"),
    [
        pytest.param([4.0, 0, 0], 0.0, 0.5, id="twice as far: |z - E| = |E|"),
        pytest.param([1.0, 0, 0], 0.0, 0.125, id="half way"),
        pytest.param([0.0, 0, 2], 1.0, math.sqrt(2) - 0.5, id="at a right angle"),
        pytest.param([-2.0, 0, 0], 2.0, 1.5, id="opposite"),
    ],
)
def test_terms_by_closed_form(centroids, student, direction, distance):
    teacher = raw(centroids, [[5.0, 1, 0]])
    terms = CentroidLoss(centroids)(raw(centroids, [student]), teacher, torch.tensor([0]))
    assert terms["direction"].item() == pytest.approx(direction, abs=1e-6)
    assert terms["distance"].item() == pytest.approx(distance, abs=1e-6)


def test_direction_does_not_see_scale(centroids):
    teacher, labels = raw(centroids, [[1.0, 0, 0]]), torch.tensor([0])
    loss = CentroidLoss(centroids)
    near, far = (loss(raw(centroids, [[0.2 * k, 0.3 * k, 0]]), teacher, labels)["direction"] for k in (1, 9))
    assert near.item() == pytest.approx(far.item(), abs=1e-6)


def test_the_teacher_chooses_and_the_student_cannot_switch(centroids):
    student = raw(centroids, [[0.0, 3, 0]])  # the student lies on the category's other centroid
    terms = CentroidLoss(centroids)(student, raw(centroids, [[1.0, 0.1, 0]]), torch.tensor([0]))
    assert terms["direction"].item() == pytest.approx(1)


def test_choice_and_gate(centroids):
    teacher = torch.tensor([[1.0, 0, 0], [1.0, 2, 0], [1.0, 0, 1.0], [-1.0, -1, 0], [9.0, 9, 9], [0.0, 0, 0]])
    choice = choose_centroids(teacher, torch.tensor([0, 0, 2, 0, 1, 0]), centroids)
    assert choice.gate.tolist() == [True, True, True, False, False, False]
    assert choice.row[:3].tolist() == [0, 1, 2]


def test_a_shut_gate_costs_nothing_and_is_finite(centroids):
    student = torch.full((2, 3), math.inf).requires_grad_()
    terms = CentroidLoss(centroids)(student, raw(centroids, [[-1.0, -1, 0], [1, 1, 1]]), torch.tensor([0, 1]))
    assert all(term.item() == 0 and term.requires_grad for term in terms.values())
    sum(terms.values()).backward()
    assert student.grad.tolist() == [[0.0] * 3] * 2


def test_a_batch_without_boxes_is_zero_with_a_gradient(centroids):
    student = torch.zeros(0, 3, requires_grad=True)
    terms = CentroidLoss(centroids)(student, torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))
    assert all(term.item() == 0 for term in terms.values())
    sum(terms.values()).backward()
    assert student.grad.shape == (0, 3)


def test_no_gradient_to_the_teacher(centroids):
    student, teacher = (raw(centroids, [[3.0, 1, 0]]).requires_grad_() for _ in range(2))
    sum(CentroidLoss(centroids)(student, teacher, torch.tensor([0])).values()).backward()
    assert student.grad.abs().sum() > 0 and teacher.grad is None


def test_two_processes_with_an_averaged_divisor_give_the_mean_of_one(centroids):
    generator = torch.Generator().manual_seed(1)
    student = torch.randn(6, 3, generator=generator)
    chosen = centroids.centroids[torch.tensor([0, 1, 2, 0, 1, 2])]
    gate = torch.tensor([True, True, True, False, True, True])
    whole = centroid_terms(student, chosen, gate, gate.sum())
    halves = [slice(0, 2), slice(2, 6)]
    average = torch.stack([gate[h].sum().float() for h in halves]).mean()
    parts = [centroid_terms(student[h], chosen[h], gate[h], average) for h in halves]
    for name, value in whole.items():
        assert sum(p[name].item() for p in parts) / 2 == pytest.approx(value.item())


def test_the_loss_asks_for_the_average(centroids):
    loss = CentroidLoss(centroids, reduce=lambda count: count * 4)
    plain = CentroidLoss(centroids)
    vectors, teacher, labels = raw(centroids, [[0.0, 1, 1]]), raw(centroids, [[1.0, 0, 0]]), torch.tensor([0])
    few, many = plain(vectors, teacher, labels), loss(vectors, teacher, labels)
    assert many["direction"].item() == pytest.approx(few["direction"].item() / 4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_finite(dtype, centroids):
    student = torch.full((1, 3), 3e4).to(dtype).requires_grad_()
    terms = CentroidLoss(centroids)(student, raw(centroids, [[1.0, 0, 0]]).to(dtype), torch.tensor([0]))
    assert all(t.isfinite() and t.dtype == torch.float32 for t in terms.values())
    sum(terms.values()).backward()
    assert student.grad.isfinite().all()


def test_centroids_enter_no_checkpoint(centroids):
    assert CentroidLoss(centroids).state_dict() == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"centroids": torch.zeros(0, 3)}, "at least 1", id="none"),
        pytest.param({"mean": torch.zeros(4)}, r"\(4,\)", id="mean of another length"),
        pytest.param({"std": torch.tensor([1.0, 0, 1])}, "in 1 of 3", id="zero deviation"),
    ],
)
def test_centroids_that_cannot_teach_are_refused(centroids, change, message):
    fields = {name: getattr(centroids, name) for name in ("mean", "std", "centroids", "category", "size")} | change
    with pytest.raises(ValueError, match=message):
        Centroids(**fields)


def test_vectors_of_another_length_are_refused(centroids):
    with pytest.raises(ValueError, match=r"\(J, 3\).*\(2, 5\)"):
        CentroidLoss(centroids)(torch.zeros(2, 5), torch.zeros(2, 5), torch.zeros(2))
