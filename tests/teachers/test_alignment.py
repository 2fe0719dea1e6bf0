"""Ridge alignment of channels: planted maps are found again, and R^2 says how much is explained."""

from __future__ import annotations

import pytest
import torch

from mutineck.teachers.alignment import RidgeRegression


def planted(
    noise: float, *, batches: int = 4
) -> tuple[list[tuple[torch.Tensor, torch.Tensor]], torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(5, 7, generator=generator), torch.randn(5, generator=generator)
    pairs = []
    for _ in range(batches):
        source = torch.randn(2, 7, 6, 8, generator=generator) * 3 + 1
        reference = torch.einsum("oc,nchw->nohw", weight, source) + bias[:, None, None]
        pairs.append((source, reference + noise * torch.randn(reference.shape, generator=generator)))
    return pairs, weight, bias


def regress(pairs: list[tuple[torch.Tensor, torch.Tensor]], ridge: float, every: int = 1):
    regression = RidgeRegression(7, 5, ridge=ridge)
    for source, reference in pairs:
        regression.add(source, reference, every=every)
    return regression.solve()


def test_a_planted_affine_map_is_recovered_wholly() -> None:
    pairs, weight, bias = planted(0.0)
    found = regress(pairs, ridge=1e-9)
    torch.testing.assert_close(found.weight.float(), weight, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.bias.float(), bias, rtol=1e-4, atol=1e-4)
    assert found.explained == pytest.approx(1.0, abs=1e-6)
    assert found.cells == 4 * 2 * 6 * 8
    assert found.weight.dtype == torch.float64


def test_the_share_explained_equals_that_of_the_residuals() -> None:
    pairs, _, _ = planted(5.0)
    found = regress(pairs, ridge=1e-3)
    source = torch.cat([s for s, _ in pairs]).movedim(1, -1).flatten(0, 2).double()
    reference = torch.cat([r for _, r in pairs]).movedim(1, -1).flatten(0, 2).double()
    residual = reference - source @ found.weight.T - found.bias
    total = (reference - reference.mean(dim=0)).square().sum()
    assert found.explained == pytest.approx(1 - float(residual.square().sum() / total), abs=1e-9)
    assert 0.3 < found.explained < 0.95


def test_it_equals_ridge_regression_solved_directly() -> None:
    pairs, _, _ = planted(1.0)
    found = regress(pairs, ridge=0.1)
    source = torch.cat([s for s, _ in pairs]).movedim(1, -1).flatten(0, 2).double()
    reference = torch.cat([r for _, r in pairs]).movedim(1, -1).flatten(0, 2).double()
    x, y = source - source.mean(dim=0), reference - reference.mean(dim=0)
    penalty = 0.1 * x.square().mean() * torch.eye(7, dtype=torch.float64)
    expected = torch.linalg.solve(x.T @ x / len(x) + penalty, x.T @ y / len(x)).T
    torch.testing.assert_close(found.weight, expected)


def test_more_ridge_means_smaller_weights_and_a_constant_source_stays_finite() -> None:
    pairs, _, _ = planted(1.0)
    norms = [float(regress(pairs, ridge).weight.norm()) for ridge in (1e-3, 1e-1, 10.0)]
    assert norms == sorted(norms, reverse=True)
    constant = regress([(torch.ones_like(s), r) for s, r in pairs], 1e-3)
    assert constant.weight.isfinite().all() and constant.explained == pytest.approx(0.0, abs=1e-9)


def test_every_second_cell_is_half_of_them() -> None:
    pairs, weight, _ = planted(0.0)
    found = regress(pairs, ridge=1e-9, every=2)
    assert found.cells == 2 * 2 * 6 * 8
    torch.testing.assert_close(found.weight.float(), weight, rtol=1e-4, atol=1e-4)


def test_some_cells_are_of_every_column_and_the_same_by_seed() -> None:
    columns = torch.arange(8.0).expand(2, 1, 6, 8)  # a stride of 8 would see the first column alone, 0 everywhere

    def regressed(seed: int) -> torch.Tensor:
        regression = RidgeRegression(1, 1, ridge=1e-9, seed=seed)
        regression.add(columns, columns.square(), every=8)
        return regression.solve().weight

    assert float(regressed(0)) > 1
    assert torch.equal(regressed(0), regressed(0)) and not torch.equal(regressed(0), regressed(1))


def test_maps_of_another_size_and_too_few_cells_are_refused() -> None:
    regression = RidgeRegression(7, 5)
    with pytest.raises(ValueError, match=r"share N, H and W, got \(1, 7, 4, 4\) and \(1, 5, 4, 3\)"):
        regression.add(torch.zeros(1, 7, 4, 4), torch.zeros(1, 5, 4, 3))
    with pytest.raises(ValueError, match="at least 2 cells, got 0"):
        regression.solve()
