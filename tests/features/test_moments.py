from __future__ import annotations

import itertools

import numpy as np
import pytest

from mutineck.features.moments import (
    between,
    centring,
    class_moments,
    mean_cosines,
    stream_vectors,
    summarise,
)
from mutineck.study.experiment import load_experiment
from mutineck.study.jobs import Job
from mutineck.study.stage import Study
from tests.features.planted import plant


def batches(category, vectors, rows=7):
    for i in range(0, len(vectors), rows):
        yield category[i : i + rows], vectors[i : i + rows]


@pytest.fixture
def planted():
    draw = np.random.default_rng(0)
    category = np.array([0] * 40 + [1] * 8 + [3] * 3)
    vectors = draw.normal(size=(51, 5)) + np.array([5.0, 0, 0, 0, 0]) + category[:, None]
    order = draw.permutation(51)
    return category[order], vectors[order]


def test_balanced_moments_are_those_of_equal_shares(planted):
    category, vectors = planted
    moments = class_moments(batches(*planted), 4)
    assert moments.count.tolist() == [40, 8, 0, 3]
    mean, std = moments.balanced()
    weight = 1 / (3 * moments.count[category])
    expected = (weight[:, None] * vectors).sum(axis=0)
    np.testing.assert_allclose(mean, expected, rtol=1e-6)
    np.testing.assert_allclose(std, np.sqrt((weight[:, None] * (vectors - expected) ** 2).sum(axis=0)), rtol=1e-5)


def test_repeating_one_category_moves_nothing(planted):
    category, vectors = planted
    big = category == 0
    twice = np.concatenate([category, category[big]]), np.concatenate([vectors, vectors[big]])
    for got, expected in zip(
        class_moments(batches(*twice), 4).balanced(),
        class_moments(batches(*planted), 4).balanced(),
        strict=True,
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize("constant", [1, 5], ids=["one-channel", "all-channels"])
def test_dead_channels_neither_divide_by_zero_nor_explode(planted, constant):
    category, vectors = planted
    vectors = vectors.copy()
    vectors[:, :constant] = 3.0
    _, std = class_moments(batches(category, vectors), 4).balanced()
    assert (std > 0).all()
    if constant == 1:
        assert std[0] == pytest.approx(0.01 * np.median(std), rel=0.5)


def test_no_row_is_refused():
    with pytest.raises(ValueError, match="no category"):
        class_moments(iter(()), 3).balanced()


def test_mean_cosines_are_those_of_all_pairs(planted):
    category, vectors = planted
    got = mean_cosines(batches(*planted), 4, vectors.mean(axis=0), vectors.std(axis=0))
    z = (vectors - vectors.mean(axis=0)) / vectors.std(axis=0)
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    for a, b in itertools.product(range(4), repeat=2):
        pairs = [
            unit[i] @ unit[j]
            for i, j in itertools.product(np.flatnonzero(category == a), np.flatnonzero(category == b))
            if i != j
        ]
        if pairs:
            assert got[a, b] == pytest.approx(np.mean(pairs), abs=1e-12)
        else:
            assert np.isnan(got[a, b])


def test_a_shared_part_raises_raw_cosines_and_centring_removes_it():
    draw = np.random.default_rng(0)
    category = np.arange(300) % 3
    vectors = draw.normal(size=(300, 16)) + 2 * draw.normal(size=(3, 16))[category] + 10.0
    mean, std = class_moments(batches(category, vectors), 3).balanced()
    raw = between(mean_cosines(batches(category, vectors), 3))
    centred = between(mean_cosines(batches(category, vectors), 3, mean, std))
    assert raw > 0.8
    assert centred == pytest.approx(-0.3, abs=0.2)  # three directions around their mean are 120 degrees apart


def test_summarise_writes_what_it_returns(tmp_path, planted):
    category, vectors = planted
    study = Study(load_experiment("smoke"), tmp_path, Job("features"))
    plant(tmp_path / "features" / "faster", vectors, category, categories=("a", "b", "c", "d"))
    table, cosines = summarise(study, ["faster"]).found
    assert table["count"].tolist() == [40, 8, 0, 3]
    norms = np.linalg.norm(vectors.astype(np.float16).astype(np.float32), axis=1)
    assert table["norm_median"][0] == pytest.approx(np.median(norms[category == 0]), rel=1e-5)
    assert len(cosines) == 2 * 16
    lines = centring(cosines)
    assert set(lines["space"]) == {"raw", "centred"}
    assert (tmp_path / "features" / "summary.csv").read_text().count("\n") == 5
    assert (tmp_path / "features" / "cosines.csv").read_text().count("\n") == 33
    assert len(list(stream_vectors(tmp_path / "features" / "faster"))) >= 1
