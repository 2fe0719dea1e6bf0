from __future__ import annotations

import numpy as np
import pytest

from mutineck.clusters.kmeans import cluster_category, silhouette


def blobs(sizes, *, width=8, distance=10.0, noise=0.1, seed=0):
    draw = np.random.default_rng(seed)
    centres = distance * np.eye(width)[: len(sizes)]
    label = np.repeat(np.arange(len(sizes)), sizes)
    return (centres[label] + noise * draw.normal(size=(len(label), width))).astype(np.float32), centres, label


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_planted_centres_are_found_in_order_of_size(seed):
    vectors, centres, label = blobs([20, 60, 40], seed=seed)
    got = cluster_category(vectors, 3, seed=seed)
    np.testing.assert_allclose(got.centroids, centres[[1, 2, 0]], atol=0.1)
    assert got.size.tolist() == [60, 40, 20]
    np.testing.assert_array_equal(got.label, np.array([2, 0, 1])[label])
    assert got.explained > 0.99
    assert got.dropped == 0


def test_one_cluster_is_the_mean():
    vectors, _, _ = blobs([5, 9])
    got = cluster_category(vectors, 1)
    np.testing.assert_allclose(got.centroids[0], vectors.astype(np.float64).mean(axis=0), atol=1e-6)
    assert got.explained == pytest.approx(0, abs=1e-6)
    assert got.inertia == pytest.approx(((vectors - vectors.mean(0)) ** 2).sum(), rel=1e-5)


def test_numbers_are_those_of_their_definitions():
    vectors, _, _ = blobs([30, 50, 20], noise=2.0)
    got = cluster_category(vectors, 3)
    for index in range(3):
        rows = vectors[got.label == index]
        np.testing.assert_allclose(got.centroids[index], rows.mean(axis=0), atol=1e-4)
        assert got.spread[index] == pytest.approx(((rows - rows.mean(0)) ** 2).sum(1).mean(), rel=1e-4)
    assert got.inertia == pytest.approx((got.spread * got.size).sum(), rel=1e-6)
    total = ((vectors - vectors.mean(0)) ** 2).sum()
    assert got.explained == pytest.approx(1 - got.inertia / total, abs=1e-5)


def test_small_cluster_is_dropped_and_its_rows_belong_to_none():
    vectors, centres, label = blobs([60, 40, 4])
    got = cluster_category(vectors, 3, minimum_share=0.05)
    assert got.size.tolist() == [60, 40]
    assert got.dropped == 1
    assert (got.label[label == 2] == -1).all()
    np.testing.assert_allclose(got.centroids, centres[:2], atol=0.1)
    assert len(cluster_category(vectors, 3, minimum_share=0.0).size) == 3


def test_the_largest_cluster_stays_however_small_its_share():
    vectors = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    got = cluster_category(vectors, 10, minimum_share=0.9)
    assert len(got.size) == 1


@pytest.mark.parametrize(
    ("rows", "k", "clusters"),
    [(1, 3, 1), (2, 3, 2), (3, 3, 3)],
    ids=["single-row", "fewer-rows-than-k", "as-many"],
)
def test_fewer_rows_than_clusters(rows, k, clusters):
    vectors, _, _ = blobs([1] * rows)
    got = cluster_category(vectors, k)
    assert len(got.size) == clusters
    assert got.size.sum() == rows
    assert np.isfinite(got.centroids).all()


@pytest.mark.parametrize("different", [1, 2], ids=["all-equal", "two-values"])
def test_repeated_rows_give_no_empty_cluster(different, recwarn):
    vectors = np.repeat(np.eye(4, dtype=np.float32)[:different], 10, axis=0)
    got = cluster_category(vectors, 3)
    assert len(got.size) == different
    assert not recwarn.list


def test_same_seed_same_bytes_and_row_order_moves_no_centre():
    vectors, _, _ = blobs([30, 50, 20], noise=2.0)
    one, two = cluster_category(vectors, 3, seed=5), cluster_category(vectors, 3, seed=5)
    assert one.centroids.tobytes() == two.centroids.tobytes()
    turned = cluster_category(vectors[np.random.default_rng(0).permutation(len(vectors))], 3, seed=5)
    np.testing.assert_allclose(turned.centroids, one.centroids, atol=1e-3)


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.zeros((0, 3)), "n at least 1"),
        (np.zeros(3), "n at least 1"),
        (np.array([[1.0, np.nan]]), "not finite"),
    ],
    ids=["empty", "flat", "nan"],
)
def test_bad_vectors_are_refused(vectors, message):
    with pytest.raises(ValueError, match=message):
        cluster_category(vectors, 3)


def test_silhouette_leaves_dropped_rows_out_and_says_nan_where_it_means_nothing():
    vectors, _, label = blobs([30, 30])
    assert silhouette(vectors, label, sample=1000) > 0.9
    assert silhouette(vectors, label, sample=20) > 0.9
    assert np.isnan(silhouette(vectors, np.where(label == 1, -1, 0), sample=1000))
    assert np.isnan(silhouette(vectors[[0, 30]], np.array([0, 1]), sample=1000))
