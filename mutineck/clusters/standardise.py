"""From a teacher's streamed rows to standardised vectors, one category at a time."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mutineck.features.moments import Moments, class_moments, stream_vectors
from mutineck.features.shards import mean_vectors, read_features, read_index


class CategoryRows(NamedTuple):
    """One category's rows: its index, annotation ids `(n,)`, standardised vectors `(n, C)` float32."""

    category: int
    annotation_id: np.ndarray
    z: np.ndarray


class Standardised:
    """A teacher's vectors, regrouped by category on disk, standardised as they are read.

    Attributes:
        categories: names, in the data set's order.
        moments: of each category, before standardising.
        mean: `(C,)` float32, categories balanced.
        std: `(C,)` float32, categories balanced.
    """

    def __init__(self, categories: list[str], moments: Moments, scratch: Path) -> None:
        self.categories = categories
        self.moments = moments
        self.mean, self.std = moments.balanced()
        self._first = np.concatenate([[0], np.cumsum(moments.count)])
        self._vectors = scratch / "vectors.f32"
        self._ids = scratch / "annotations.i64"

    def __iter__(self) -> Iterator[CategoryRows]:
        """Yield each category that has rows; only one is in memory."""
        for category in np.flatnonzero(self.moments.count):
            yield self.rows(int(category))

    def rows(self, category: int) -> CategoryRows:
        """Return one category's rows, in the data set's order of images."""
        first, count, width = int(self._first[category]), int(self.moments.count[category]), len(self.mean)
        ids = np.fromfile(self._ids, np.int64, count, offset=first * 8)
        z = np.fromfile(self._vectors, np.float32, count * width, offset=first * width * 4).reshape(count, width)
        z -= self.mean
        z /= self.std
        return CategoryRows(category, ids, z)

    def within(self) -> np.ndarray:
        """Return the covariance of vectors within their categories, each weighing alike, `(C, C)` float32.

        It is shrunk toward a multiple of the identity as far as its number of rows asks for (OAS), so that it can be
        inverted.

        References:
            [1] Shrinkage Algorithms for MMSE Covariance Estimation, 2010, equation 23, https://arxiv.org/abs/0907.4698
        """
        width, parts = len(self.mean), []
        for part in self:
            centred = part.z.astype(np.float64) - part.z.mean(axis=0, dtype=np.float64)
            parts.append(centred.T @ centred / len(centred))
        covariance = np.mean(parts, axis=0)
        mean = max(np.trace(covariance) / width, float(np.finfo(np.float32).eps))
        square, count = np.mean(covariance**2), int(self.moments.count.sum())
        excess = (count + 1) * (square - mean**2 / width)
        shrinkage = min(1.0, (square + mean**2) / excess) if excess > 0 else 1.0
        return ((1 - shrinkage) * covariance + shrinkage * mean * np.eye(width)).astype(np.float32)

    def _fill(self, folder: Path) -> None:
        """Write every row to its category's place: sorting 860 000 rows without holding them."""
        index, width = read_index(folder), len(self.mean)
        place = self._first[:-1].copy()
        with open(self._vectors, "wb") as vectors, open(self._ids, "wb") as ids:
            for batch in read_features(folder, ["annotation_id", "category", "vector"]):
                values = mean_vectors(batch["vector"], index)
                for category in np.unique(batch["category"]):
                    chosen = batch["category"] == category
                    vectors.seek(int(place[category]) * width * 4)
                    vectors.write(np.ascontiguousarray(values[chosen]).data)
                    ids.seek(int(place[category]) * 8)
                    ids.write(np.ascontiguousarray(batch["annotation_id"][chosen], np.int64).data)
                    place[category] += int(chosen.sum())


@contextmanager
def standardised(folder: Path) -> Iterator[Standardised]:
    """Open a teacher's features as standardised vectors, category by category.

    Memory holds one category at most; scratch files beside the features hold the rest (4 bytes a value) and
    are gone when the block ends.

    Args:
        folder: `features/TEACHER`.

    Raises:
        FileNotFoundError: the features are not there.
        ValueError: they hold no row.
    """
    categories = read_index(folder)["categories"]
    moments = class_moments(stream_vectors(folder), len(categories))
    with tempfile.TemporaryDirectory(prefix=".scratch-", dir=folder) as scratch:
        opened = Standardised(categories, moments, Path(scratch))
        opened._fill(folder)
        yield opened
