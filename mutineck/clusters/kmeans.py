"""K-means within one category."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import silhouette_score


@dataclass(frozen=True)
class CategoryClusters:
    """Clusters of one category, the largest first.

    Attributes:
        centroids: `(k, C)` float32; k may be smaller than asked for.
        label: `(n,)` int64, each row's cluster, -1 where its cluster was dropped.
        size: `(k,)` int64.
        spread: `(k,)` float64, mean squared distance of a cluster's rows to its centroid.
        inertia: sum of squared distances of all rows to their centroid, dropped clusters' rows too.
        explained: 1 - inertia / the inertia of a single cluster.
        dropped: clusters that were too small.
    """

    centroids: np.ndarray
    label: np.ndarray
    size: np.ndarray
    spread: np.ndarray
    inertia: float
    explained: float
    dropped: int


def cluster_category(
    vectors: np.ndarray, k: int, *, restarts: int = 10, minimum_share: float = 0.05, seed: int = 0
) -> CategoryClusters:
    """Cluster one category's standardised vectors.

    With fewer rows than `k`, or fewer different ones, there are fewer clusters. With `k = 1` the only
    centroid is the mean. The largest cluster is kept however small its share is.

    Args:
        vectors: `(n, C)` float32 or float64, n at least 1.
        k: clusters to look for.
        restarts: k-means++ starts, of which the one with the least inertia is taken.
        minimum_share: clusters with a smaller share of the rows are dropped.
        seed: seed of the starts.

    Raises:
        ValueError: `vectors` is not `(n, C)` with n at least 1, or holds numbers that are not finite.
    """
    if vectors.ndim != 2 or len(vectors) == 0:
        raise ValueError(f"vectors must be (n, C) with n at least 1, got {vectors.shape}")
    if not np.isfinite(vectors).all():
        raise ValueError("vectors hold numbers that are not finite")
    n = len(vectors)
    mean = vectors.mean(axis=0, dtype=np.float64).astype(vectors.dtype)
    total = float(_squares(vectors, mean).sum())
    if min(k, n) == 1 or total == 0:
        centres, label = mean[None], np.zeros(n, np.int64)
    else:
        with warnings.catch_warnings():
            # Fewer different rows than k: the empty clusters are dropped below.
            warnings.simplefilter("ignore", ConvergenceWarning)
            fit = KMeans(min(k, n), n_init=restarts, random_state=seed).fit(vectors)
        centres, label = fit.cluster_centers_, fit.labels_.astype(np.int64)
    squares = np.empty(n)
    for index, centre in enumerate(centres):
        squares[label == index] = _squares(vectors[label == index], centre)
    size = np.bincount(label, minlength=len(centres))
    # Ties by the centroid's first coordinates, so that the order does not hang on k-means' own numbering.
    order = sorted(range(len(centres)), key=lambda index: (-size[index], *centres[index][:4].tolist()))
    kept = [i for place, i in enumerate(order) if size[i] > 0 and (place == 0 or size[i] >= minimum_share * n)]
    renumber = np.full(len(centres), -1)
    renumber[kept] = np.arange(len(kept))
    return CategoryClusters(
        centroids=np.ascontiguousarray(centres[kept], np.float32),
        label=renumber[label],
        size=size[kept],
        spread=np.array([squares[label == index].mean() for index in kept]),
        inertia=float(squares.sum()),
        explained=1 - float(squares.sum()) / total if total > 0 else 0.0,
        dropped=int((size > 0).sum()) - len(kept),
    )


def _squares(vectors: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Return squared distances `(n,)` float64, in blocks: a category may hold a quarter of a million rows."""
    blocks = [
        ((vectors[i : i + 8192] - centre).astype(np.float64) ** 2).sum(axis=1) for i in range(0, len(vectors), 8192)
    ]
    return np.concatenate(blocks) if blocks else np.empty(0)


def silhouette(
    vectors: np.ndarray, label: np.ndarray, *, sample: int, seed: int = 0, metric: str = "euclidean"
) -> float:
    """Return the mean silhouette of rows whose label is not negative, on at most `sample` of them.

    Returns:
        A number in [-1, 1]; NaN where fewer than two labels, or nothing but single rows, are left.
    """
    rows = np.flatnonzero(label >= 0)
    if len(rows) > sample:
        rows = np.sort(np.random.default_rng(seed).choice(rows, sample, replace=False))
    labels = label[rows]
    if not 2 <= len(np.unique(labels)) < len(rows):
        return float("nan")
    return float(silhouette_score(vectors[rows], labels, metric=metric))
