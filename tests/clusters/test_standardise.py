from __future__ import annotations

import numpy as np
import pytest

from mutineck.clusters.standardise import standardised
from tests.features.planted import plant


@pytest.fixture
def planted(tmp_path):
    draw = np.random.default_rng(0)
    category = draw.choice([0, 2], 200, p=[0.9, 0.1])
    vectors = (draw.normal(size=(200, 6)) * [1, 2, 3, 4, 5, 6] + 7 + category[:, None]).astype(np.float16)
    return plant(tmp_path / "faster", vectors, category), vectors.astype(np.float32), category


def test_rows_are_regrouped_by_category_and_standardised(planted):
    folder, vectors, category = planted
    with standardised(folder) as opened:
        parts = list(opened)
        assert [part.category for part in parts] == [0, 2]
        for part in parts:
            np.testing.assert_array_equal(part.annotation_id, np.flatnonzero(category == part.category) + 1)
            expected = (vectors[category == part.category] - opened.mean) / opened.std
            np.testing.assert_allclose(part.z, expected, rtol=1e-6)


def test_balanced_mean_is_zero_and_variance_one(planted):
    folder, _, _ = planted
    with standardised(folder) as opened:
        parts = list(opened)
        np.testing.assert_allclose(np.mean([p.z.mean(axis=0) for p in parts], axis=0), 0, atol=1e-5)
        np.testing.assert_allclose(np.mean([(p.z**2).mean(axis=0) for p in parts], axis=0), 1, atol=1e-4)


def test_the_covariance_within_categories_is_oass_of_their_mean(planted):
    """scikit-learn's OAS, where there is one category: the whole of its covariance."""
    from sklearn.covariance import oas

    folder, _, category = planted
    with standardised(folder) as opened:
        parts, found = list(opened), opened.within()
    plain = np.mean([np.cov(p.z.T.astype(np.float64), bias=True) for p in parts], axis=0)
    mean, square, n = np.trace(plain) / 6, np.mean(plain**2), len(category)
    shrinkage = (square + mean**2) / ((n + 1) * (square - mean**2 / 6))
    assert 0 < shrinkage < 0.5
    np.testing.assert_allclose(found, (1 - shrinkage) * plain + shrinkage * mean * np.eye(6), rtol=1e-5, atol=1e-6)
    alone = plant(folder.parent / "alone", planted[1].astype(np.float16)[category == 0], category[category == 0])
    with standardised(alone) as opened:
        np.testing.assert_allclose(
            opened.within(), oas(next(iter(opened)).z.astype(np.float64))[0], rtol=1e-4, atol=1e-6
        )


def test_a_covariance_of_a_single_row_can_be_inverted(tmp_path):
    folder = plant(tmp_path / "single", np.ones((1, 6), np.float16), np.zeros(1, np.int64))
    with standardised(folder) as opened:
        assert np.linalg.eigvalsh(opened.within()).min() > 0


def test_full_vectors_are_averaged(tmp_path):
    cells = np.random.default_rng(0).normal(size=(30, 4, 49)).astype(np.float16)
    full = plant(tmp_path / "full", cells.reshape(30, -1), np.arange(30) % 3, pooled="full")
    mean = plant(tmp_path / "mean", cells.astype(np.float32).mean(axis=2), np.arange(30) % 3)
    with standardised(full) as one, standardised(mean) as two:
        for a, b in zip(one, two, strict=True):
            np.testing.assert_allclose(a.z, b.z, atol=0.02)


@pytest.mark.parametrize("fails", [False, True], ids=["ends", "raises"])
def test_scratch_files_are_gone_afterwards(planted, fails):
    folder, _, _ = planted
    before = sorted(path.name for path in folder.iterdir())
    try:
        with standardised(folder):
            assert sorted(path.name for path in folder.iterdir()) != before
            if fails:
                raise KeyError
    except KeyError:
        pass
    assert sorted(path.name for path in folder.iterdir()) == before
