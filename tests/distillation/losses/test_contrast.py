"""The contrast loss: closed forms, what whitening does, and what it leaves out."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from mutineck.clusters.centroids import Centroids
from mutineck.distillation.losses.contrast import ContrastLoss, whitening


@pytest.fixture
def centroids() -> Centroids:
    """Category 0 along x, category 2 along y, category 1 without; vectors of one category differ along neither."""
    return Centroids(
        mean=torch.tensor([1.0, 2.0]),
        std=torch.tensor([1.0, 2.0]),
        centroids=torch.tensor([[2.0, 0.0], [0.0, 3.0]]),
        category=torch.tensor([0, 2]),
        size=torch.tensor([5, 4]),
        within=torch.eye(2),
    )


def raw(centroids: Centroids, standardised: list[list[float]]) -> torch.Tensor:
    return torch.tensor(standardised) * centroids.std + centroids.mean


def shares(*cosines: float) -> list[float]:
    powers = [math.exp(c / 0.1) for c in cosines]
    return [p / sum(powers) for p in powers]


def divergence(theirs: list[float], ours: list[float]) -> float:
    return sum(t * math.log(t / o) for t, o in zip(theirs, ours, strict=True))


def test_the_divergence_of_the_shares_of_all_centroids_by_hand(centroids: Centroids) -> None:
    # The teacher's cosines are 0.8 and 0.6; the students' 0.6 and 0.8, and the teacher's own.
    teacher = raw(centroids, [[0.8, 0.6], [0.8, 0.6]])
    student = raw(centroids, [[3.0, 4.0], [1.6, 1.2]])
    found = ContrastLoss(centroids)(student, teacher, torch.tensor([0, 2]))
    expected = divergence(shares(0.8, 0.6), shares(0.6, 0.8)) / 2
    assert float(found["contrast"]) == pytest.approx(expected, rel=1e-5)


def test_directions_in_which_a_category_varies_count_little(centroids: Centroids) -> None:
    # Of a deviation of 4 along x: there 4 stands for 1, so the vectors' cosines are those of (1, 1) and (1, 0.5).
    wide = replace(centroids, within=torch.diag(torch.tensor([16.0, 1.0])))
    found = ContrastLoss(wide)(raw(wide, [[4.0, 0.5]]), raw(wide, [[4.0, 1.0]]), torch.tensor([0]))
    root = math.hypot(1, 0.5)
    expected = divergence(shares(0.5**0.5, 0.5**0.5), shares(1 / root, 0.5 / root))
    assert float(found["contrast"]) == pytest.approx(expected, rel=1e-4)


def test_whitening_makes_a_covariance_the_identity() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(200, 5, generator=generator) @ torch.randn(5, 5, generator=generator)
    white = rows @ whitening(torch.cov(rows.T))
    torch.testing.assert_close(torch.cov(white.T), torch.eye(5), atol=1e-3, rtol=0)


def test_attraction_alone_is_blind_where_contrast_is_not(centroids: Centroids) -> None:
    """Nearer to one's own centroid and to another's alike: the shares stay, and so does the loss, 0."""
    vectors = raw(centroids, [[1.0, 1.0]])
    found = ContrastLoss(centroids)(raw(centroids, [[3.0, 3.0]]), vectors, torch.tensor([0]))
    assert float(found["contrast"]) == pytest.approx(0, abs=1e-6)


def test_a_category_without_centroid_is_left_out_and_instances_count_what_they_are_given(centroids: Centroids) -> None:
    teacher = raw(centroids, [[0.8, 0.6], [1.0, 0.0], [0.8, 0.6]])
    student = raw(centroids, [[0.6, 0.8], [0.0, 1.0], [0.6, 0.8]])
    counts = torch.tensor([0.5, 9.0, 0.3])
    found = ContrastLoss(centroids)(student, teacher, torch.tensor([0, 1, 2]), counts)
    assert float(found["contrast"]) == pytest.approx(0.4 * divergence(shares(0.8, 0.6), shares(0.6, 0.8)), rel=1e-5)


def test_without_an_instance_it_is_zero_with_a_gradient_and_none_reaches_the_teacher(centroids: Centroids) -> None:
    loss = ContrastLoss(centroids, reduce=lambda count: count)
    student = torch.zeros(0, 2, requires_grad=True)
    found = loss(student, torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))["contrast"]
    found.backward()
    assert found.item() == 0 and student.grad is not None
    student, teacher = (raw(centroids, [[1.0, 0.3]]).requires_grad_() for _ in range(2))
    loss(student * torch.tensor([1.0, 2.0]), teacher, torch.tensor([0]))["contrast"].backward()
    assert student.grad is not None and student.grad.abs().sum() > 0 and teacher.grad is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_finite(dtype: torch.dtype, centroids: Centroids) -> None:
    student = torch.full((1, 2), 3e4).to(dtype).requires_grad_()
    found = ContrastLoss(centroids)(student, raw(centroids, [[1.0, 0.0]]).to(dtype), torch.tensor([0]))["contrast"]
    assert found.isfinite() and found.dtype == torch.float32


def test_centroids_without_a_covariance_say_what_to_run(centroids: Centroids) -> None:
    with pytest.raises(ValueError, match=r"contrast needs the covariance .*--until clusters"):
        ContrastLoss(replace(centroids, within=None))


def test_vectors_of_another_length_are_refused(centroids: Centroids) -> None:
    with pytest.raises(ValueError, match=r"\(J, 2\).*\(2, 5\)"):
        ContrastLoss(centroids)(torch.zeros(2, 5), torch.zeros(2, 5), torch.zeros(2))
