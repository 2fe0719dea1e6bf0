"""The clusters stage: every teacher's centroids, how good they are, and the targets nearest to each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from mutineck.clusters.centroids import Centroids, save_centroids
from mutineck.clusters.kmeans import CategoryClusters, cluster_category, silhouette
from mutineck.clusters.standardise import CategoryRows, Standardised, standardised
from mutineck.features.shards import read_features, read_index
from mutineck.study.experiment import INTERMEDIATE, ClustersSpec, Experiment
from mutineck.study.stage import Outcome, Study
from mutineck.system.seeding import derive_seed
from mutineck.system.tables import write_table

NEAREST = 8
"""Targets kept for each centroid, to look at."""


def extracted_teachers(study: Study) -> list[str]:
    """Return the teachers whose features are there: the experiment's, then the intermediate one."""
    names = [*(teacher.name for teacher in study.experiment.teachers), INTERMEDIATE]
    return [name for name in names if study.path("features", name, "index.json").is_file()]


def teaching_teacher(experiment: Experiment, names: Sequence[str]) -> str:
    """Return whose centroids teach: the intermediate teacher's, else the first teacher's."""
    order = [INTERMEDIATE, *(teacher.name for teacher in experiment.teachers)]
    return next(name for name in order if name in names)


def cluster(study: Study, names: Sequence[str] | None = None) -> Outcome[pd.DataFrame]:
    """Find each teacher's centroids, and write them with their statistics below `clusters/`.

    Files: `centroids/TEACHER.safetensors`, `statistics.csv`, `nearest.parquet`.

    Args:
        study: the study at its clusters stage.
        names: teachers; all whose features are there if None.

    Returns:
        Found: a row for each teacher, category and cluster: `size`, `share`, `spread` (mean squared distance to
        the centroid, a channel), `norm` of the centroid, `nearest_other` (its largest cosine with a centroid
        of another category); and, alike for the clusters of a category: `count`, `dropped`, `inertia` (a row
        and channel), `explained` (share of the category's inertia that its clusters take away),
        `silhouette` of its clusters.

    Raises:
        FileNotFoundError: no teacher's features are there.
    """
    names = list(extracted_teachers(study) if names is None else names)
    if not names:
        study.need("features", study.experiment.teachers[0].name, "index.json")
    tables, nearest = [], []
    files = [study.path("clusters", "centroids", f"{name}.safetensors") for name in names]
    for name, file in zip(names, files, strict=True):
        centroids, table, near = cluster_teacher(study.need("features", name), name, study.experiment.clusters)
        save_centroids(centroids, file)
        tables.append(table)
        nearest.append(near)
    statistics = pd.concat(tables, ignore_index=True)
    files.append(write_table(statistics, study.path("clusters", "statistics.csv")))
    files.append(write_table(pd.concat(nearest, ignore_index=True), study.path("clusters", "nearest.parquet")))
    return Outcome(
        statistics,
        reads=[study.path("features", name, "index.json") for name in names],
        writes=files,
        results={name: {"centroids": int((statistics["teacher"] == name).sum())} for name in names},
    )


def cluster_teacher(folder: Path, name: str, spec: ClustersSpec) -> tuple[Centroids, pd.DataFrame, pd.DataFrame]:
    """Cluster one teacher's vectors, category by category.

    Args:
        folder: `features/TEACHER`.
        name: the teacher's name.
        spec: clusters, restarts, seed, least share, sample for silhouettes.

    Returns:
        The centroids, a row of statistics for each, and the targets nearest to each by cosine: `category`,
        `cluster`, `place`, `image_id`, `annotation_id`, `cosine`, box `(x1, y1, x2, y2)` in pixels of the
        original image.
    """
    rows: list[dict[str, Any]] = []
    near: list[dict[str, Any]] = []
    found: list[CategoryClusters] = []
    with standardised(folder) as vectors:
        width = len(vectors.mean)
        for part in vectors:
            category = vectors.categories[part.category]
            seed = derive_seed(spec.seed, name, category)
            clusters = cluster_category(
                part.z, spec.k, restarts=spec.restarts, minimum_share=spec.minimum_share, seed=seed
            )
            quality = silhouette(part.z, clusters.label, sample=spec.sample_per_category, seed=seed)
            found.append(clusters)
            near += _nearest(part, clusters)
            rows += [
                {
                    "teacher": name,
                    "category": category,
                    "cluster": index,
                    "size": int(size),
                    "share": size / len(part.z),
                    "spread": clusters.spread[index] / width,
                    "norm": float(np.linalg.norm(clusters.centroids[index])),
                    "count": len(part.z),
                    "dropped": clusters.dropped,
                    "inertia": clusters.inertia / part.z.size,
                    "explained": clusters.explained,
                    "silhouette": quality,
                }
                for index, size in enumerate(clusters.size)
            ]
        centroids = _assemble(vectors, found, name, spec)
    table = pd.DataFrame(rows)
    table.insert(7, "nearest_other", _nearest_other(centroids))
    return centroids, table, _with_boxes(folder, name, pd.DataFrame(near))


def _assemble(vectors: Standardised, found: list[CategoryClusters], name: str, spec: ClustersSpec) -> Centroids:
    present = np.flatnonzero(vectors.moments.count)
    counts = vectors.moments.count.tolist()
    return Centroids(
        mean=torch.from_numpy(vectors.mean),
        std=torch.from_numpy(vectors.std),
        centroids=torch.from_numpy(np.concatenate([c.centroids for c in found])),
        category=torch.from_numpy(np.repeat(present, [len(c.size) for c in found])),
        size=torch.from_numpy(np.concatenate([c.size for c in found])),
        about={
            "teacher": name,
            "categories": vectors.categories,
            "counts": dict(zip(vectors.categories, counts, strict=True)),
            "dropped": sum(c.dropped for c in found),
            **spec.model_dump(mode="json"),
        },
        within=torch.from_numpy(vectors.within()),
    )


def _nearest(part: CategoryRows, clusters: CategoryClusters) -> list[dict[str, Any]]:
    unit = clusters.centroids / np.maximum(np.linalg.norm(clusters.centroids, axis=1, keepdims=True), 1e-12)
    cosine = (part.z @ unit.T) / np.maximum(np.linalg.norm(part.z, axis=1, keepdims=True), 1e-12)
    rows = []
    for index in range(len(unit)):
        own = np.flatnonzero(clusters.label == index)
        best = own[np.lexsort((part.annotation_id[own], -cosine[own, index]))][:NEAREST]
        rows += [
            {
                "category": part.category,
                "cluster": index,
                "place": place,
                "annotation_id": int(part.annotation_id[row]),
                "cosine": float(cosine[row, index]),
            }
            for place, row in enumerate(best)
        ]
    return rows


def _with_boxes(folder: Path, name: str, near: pd.DataFrame) -> pd.DataFrame:
    """Look up picture and box of the nearest targets: one pass over the rows, without their vectors."""
    columns = ["annotation_id", "image_id", "x1", "y1", "x2", "y2"]
    wanted = near["annotation_id"].to_numpy()
    parts = []
    for batch in read_features(folder, columns):
        keep = np.isin(batch["annotation_id"], wanted)
        parts.append(pd.DataFrame({column: batch[column][keep] for column in columns}))
    boxes = pd.concat(parts, ignore_index=True)
    table = near.merge(boxes, on="annotation_id", how="left", validate="one_to_one")
    table["category"] = np.array(read_index(folder)["categories"])[table["category"]]
    table.insert(0, "teacher", name)
    return table


def _nearest_other(centroids: Centroids) -> np.ndarray:
    """Return each centroid's largest cosine with one of another category `(M,)`, NaN if there is none."""
    unit = torch.nn.functional.normalize(centroids.centroids, dim=1)
    cosine = unit @ unit.T
    cosine[centroids.category[:, None] == centroids.category] = -torch.inf
    best = cosine.max(dim=1).values
    return torch.where(best.isinf(), torch.nan, best).numpy()
