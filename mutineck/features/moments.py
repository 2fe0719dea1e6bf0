"""What instance vectors look like as they come: counts, norms, class moments and cosines between categories.

All of it is computed while streaming; memory grows with categories and channels, not with rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mutineck.features.shards import mean_vectors, read_features, read_index
from mutineck.study.stage import Outcome, Study
from mutineck.system.tables import write_table

STD_FLOOR = 0.01
"""Least standard deviation, as a share of the median channel's: a channel that is all but dead in the teacher
would otherwise turn the student's smallest difference there into the largest number of its vector."""


def stream_vectors(folder: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield category `(n,)` and mean vectors `(n, C)` float32, batch by batch."""
    index = read_index(folder)
    for batch in read_features(folder, ["category", "vector"]):
        yield batch["category"], mean_vectors(batch["vector"], index)


@dataclass(frozen=True)
class Moments:
    """First and second moments of each of K categories, over all rows.

    Attributes:
        count: `(K,)` int64.
        mean: `(K, C)` float64, zero where a category has no row.
        square: `(K, C)` float64, mean of squares.
    """

    count: np.ndarray
    mean: np.ndarray
    square: np.ndarray

    def balanced(self) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation `(C,)` float32; every category that occurs weighs the same.

        Raises:
            ValueError: no category has a row.
        """
        present = self.count > 0
        if not present.any():
            raise ValueError(
                "no category has a vector: every box of train is a crowd region, or under features.minimum_size at "
                "input.scale; set a larger scale or a smaller minimum"
            )
        mean = self.mean[present].mean(axis=0)
        std = np.sqrt(np.maximum(self.square[present].mean(axis=0) - mean**2, 0))
        floor = STD_FLOOR * float(np.median(std))
        std = np.maximum(std, floor) if floor > 0 else np.where(std > 0, std, 1.0)
        return mean.astype(np.float32), std.astype(np.float32)


def class_moments(batches: Iterator[tuple[np.ndarray, np.ndarray]], categories: int) -> Moments:
    """Accumulate moments over batches of category `(n,)`, below `categories`, and vectors `(n, C)`."""
    count = np.zeros(categories, np.int64)
    total = square = np.zeros((categories, 0))
    for category, vectors in batches:
        if total.shape[1] == 0:
            total = np.zeros((categories, vectors.shape[1]))
            square = np.zeros_like(total)
        for index in np.unique(category):
            rows = vectors[category == index].astype(np.float64)
            count[index] += len(rows)
            total[index] += rows.sum(axis=0)
            square[index] += (rows**2).sum(axis=0)
    divisor = np.maximum(count, 1)[:, None]
    return Moments(count, total / divisor, square / divisor)


def mean_cosines(
    batches: Iterator[tuple[np.ndarray, np.ndarray]],
    categories: int,
    mean: np.ndarray | float = 0.0,
    std: np.ndarray | float = 1.0,
) -> np.ndarray:
    """Return the mean cosine between the instances of each two categories, of `(t - mean) / std`.

    Exact over all pairs without visiting them: the mean of the dot products of unit vectors is the dot
    product of their means; on the diagonal an instance is not paired with itself.

    Returns:
        `(K, K)` float64, symmetric; NaN where a category has too few rows for a pair.
    """
    count = np.zeros(categories, np.int64)
    total = np.zeros((categories, 0))
    for category, vectors in batches:
        z = (vectors.astype(np.float64) - mean) / std
        unit = z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)
        if total.shape[1] == 0:
            total = np.zeros((categories, vectors.shape[1]))
        for index in np.unique(category):
            rows = unit[category == index]
            count[index] += len(rows)
            total[index] += rows.sum(axis=0)
    pairs = np.outer(count, count).astype(np.float64)
    sums = total @ total.T
    diagonal = np.arange(categories)
    pairs[diagonal, diagonal] -= count
    sums[diagonal, diagonal] -= count
    return np.divide(sums, pairs, out=np.full_like(sums, np.nan), where=pairs > 0)


def between(cosines: np.ndarray) -> float:
    """Return the mean off the diagonal of a `(K, K)` cosine matrix, NaN if there is no pair of categories."""
    values = cosines[~np.eye(len(cosines), dtype=bool)]
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def summarise(study: Study, names: Iterable[str]) -> Outcome[tuple[pd.DataFrame, pd.DataFrame]]:
    """Describe the extracted vectors, and write it as `features/summary.csv` and `features/cosines.csv`.

    Args:
        study: the study; its features must be there.
        names: teachers, in the order of the tables.

    Returns:
        Found: a row for each teacher and category (`count`, `norm_p05`, `norm_median`, `norm_p95`), and a row for
        each teacher, space (`raw`, `centred`: `(t - mean) / std` over balanced categories) and pair of
        categories (`category_a`, `category_b`, `cosine`).
    """
    rows, cosines = [], []
    for name in names:
        folder = study.need("features", name)
        categories = read_index(folder)["categories"]
        mean, std = class_moments(stream_vectors(folder), len(categories)).balanced()
        for space, shift, scale in (("raw", 0.0, 1.0), ("centred", mean, std)):
            matrix = mean_cosines(stream_vectors(folder), len(categories), shift, scale)
            cosines += [
                {"teacher": name, "space": space, "category_a": a, "category_b": b, "cosine": matrix[i, j]}
                for i, a in enumerate(categories)
                for j, b in enumerate(categories)
            ]
        parts = [(c, np.linalg.norm(v, axis=1)) for c, v in stream_vectors(folder)]
        category = np.concatenate([c for c, _ in parts])
        norm = np.concatenate([n for _, n in parts])
        for i, label in enumerate(categories):
            own = norm[category == i]
            p05, median, p95 = np.quantile(own, [0.05, 0.5, 0.95]) if len(own) else [np.nan] * 3
            rows.append(
                {
                    "teacher": name,
                    "category": label,
                    "count": len(own),
                    "norm_p05": p05,
                    "norm_median": median,
                    "norm_p95": p95,
                }
            )
    tables = pd.DataFrame(rows), pd.DataFrame(cosines)
    files = [study.path("features", file) for file in ("summary.csv", "cosines.csv")]
    for table, file in zip(tables, files, strict=True):
        write_table(table, file)
    return Outcome(tables, writes=files)


def centring(cosines: pd.DataFrame) -> pd.DataFrame:
    """Return each teacher's mean cosine between different categories, and within one, raw and centred."""
    same = cosines["category_a"] == cosines["category_b"]
    kind = np.where(same, "within a category", "between categories")
    table = cosines.assign(kind=kind).groupby(["teacher", "space", "kind"], sort=False)["cosine"].mean()
    return table.unstack(["kind"]).reset_index()
