"""Centroids of categories: what the student is drawn toward, in memory and on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mutineck.system.files import atomic_path

_KEY = "mutineck"


@dataclass(frozen=True, eq=False)
class Centroids:
    """M centroids of K categories in the standardised space of one teacher's instance vectors.

    Attributes:
        mean: `(C,)` float32 of the instance vectors, categories balanced.
        std: `(C,)` float32 of the instance vectors, above 0.
        centroids: `(M, C)` float32, standardised; by category, then from the largest cluster to the smallest.
        category: `(M,)` int64, index into the data set's categories.
        size: `(M,)` int64, instances of each cluster.
        about: teacher, categories, k, seed and counts, JSON-able.
        within: `(C, C)` float32, covariance of standardised vectors within their categories, positive definite; None in
            files from before there was one.
    """

    mean: Tensor
    std: Tensor
    centroids: Tensor
    category: Tensor
    size: Tensor
    about: Mapping[str, Any] = field(default_factory=dict)
    within: Tensor | None = None

    def __post_init__(self) -> None:
        if self.centroids.ndim != 2 or len(self.centroids) == 0:
            raise ValueError(f"centroids must be (M, C) with M at least 1, got {tuple(self.centroids.shape)}")
        m, c = self.centroids.shape
        expected: dict[str, tuple[int, ...]] = {"mean": (c,), "std": (c,), "category": (m,), "size": (m,)}
        expected |= {} if self.within is None else {"within": (c, c)}
        for name, shape in expected.items():
            if tuple(getattr(self, name).shape) != shape:
                got = tuple(getattr(self, name).shape)
                raise ValueError(f"{name} must be {shape} for centroids (M, C) = {(m, c)}, got {got}")
        for name in ("mean", "std", "centroids"):
            if not bool(getattr(self, name).isfinite().all()):
                raise ValueError(f"{name} holds numbers that are not finite")
        if not bool((self.std > 0).all()):
            raise ValueError(f"std must be above 0, but is not in {int((self.std <= 0).sum())} of {c} dimensions")

    def standardise(self, vectors: Tensor) -> Tensor:
        """Return `(t - mean) / std` of vectors `(J, C)`, float32 or wider, on the vectors' device."""
        wide = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
        return (wide - self.mean.to(wide)) / self.std.to(wide)


def save_centroids(centroids: Centroids, path: str | Path) -> Path:
    """Write centroids as safetensors, atomically, and return the path."""
    tensors = {
        name: getattr(centroids, name).detach().cpu().contiguous()
        for name in ("mean", "std", "centroids", "category", "size", "within")
        if getattr(centroids, name) is not None
    }
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={_KEY: json.dumps(dict(centroids.about), sort_keys=True)})
    return Path(path)


def load_centroids(path: str | Path, categories: Sequence[str] | None = None) -> Centroids:
    """Read centroids that `save_centroids` wrote.

    Args:
        path: a `.safetensors` file.
        categories: the student's; refused if the centroids were made for others.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not a file of centroids, or one for other categories; the message names the file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing. Make it with: mutineck run EXPERIMENT --until clusters")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a mapping
        about = json.loads(metadata[_KEY])
        centroids = Centroids(**tensors, about=about)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: not a file of centroids, or a damaged one ({error}); delete it and run again"
        ) from error
    made_for = list(about.get("categories", []))
    if categories is not None and list(categories) != made_for:
        raise ValueError(
            f"{path}: centroids of the categories {', '.join(made_for)}, but the data set has "
            f"{', '.join(categories)}. Make them anew with: mutineck run EXPERIMENT --until clusters"
        )
    return centroids
