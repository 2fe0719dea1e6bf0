"""Instance vectors in the plane: computed once, in this stage, so that figures only draw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from mutineck.clusters.centroids import Centroids, load_centroids
from mutineck.clusters.clustering import extracted_teachers, teaching_teacher
from mutineck.clusters.kmeans import silhouette
from mutineck.features.shards import load_features, mean_vectors, read_index
from mutineck.study.stage import Outcome, Study
from mutineck.system.seeding import derive_seed
from mutineck.system.tables import write_table

ALL = "all"
"""Name of the panel in which every teacher's vectors lie, mapped into the first teacher's space."""
MOST_POINTS = 4000
"""Most instances of a panel: 80 categories of 200 would be a smear of ink and minutes of UMAP."""
NEIGHBOURS = 15
RIDGE = 0.1
"""Ridge of the map between two teachers' standardised vectors, in units of a row."""


class Sample(NamedTuple):
    """One teacher's drawn instances and its centroids, standardised.

    Attributes:
        teacher: its name.
        rows: `annotation_id`, `image_id`, `category` (index) of n instances, by category, then annotation.
        z: `(n, C)` float32.
        centroids: M of them.
        categories: names, in the data set's order.
    """

    teacher: str
    rows: pd.DataFrame
    z: np.ndarray
    centroids: Centroids
    categories: list[str]


def embed(study: Study, names: Sequence[str] | None = None) -> Outcome[pd.DataFrame]:
    """Lay out a sample of instances, and the centroids, in the plane.

    Panels: each teacher in its own space by UMAP; all teachers together in the first one's space, by UMAP,
    where there are several; and the teacher that teaches also by PCA and t-SNE. The sample holds the same
    targets for every teacher: `clusters.sample_per_category` of each category, but at most 4000 in all.
    Writes `embedding.parquet` and `separation.csv`, alike to the byte when repeated on one machine.

    Args:
        study: the study; `cluster` must have run.
        names: teachers; all whose features are there if None.

    Returns:
        Found: a row for each point: `panel` (a teacher or `all`), `method` (`umap`, `pca`, `tsne`), `kind`
        (`instance`, `centroid`), `teacher`, `category`, `cluster` (-1 for an instance), `annotation_id` (-1
        for a centroid), `x`, `y`.
    """
    names = list(extracted_teachers(study) if names is None else names)
    spec = study.experiment.clusters
    samples = [_sample(study, name) for name in names]
    panels = [_lay_out(name, "umap", [sample], spec.seed) for name, sample in zip(names, samples, strict=True)]
    teaching = samples[names.index(teaching_teacher(study.experiment, names))]
    panels += [_lay_out(teaching.teacher, method, [teaching], spec.seed) for method in ("pca", "tsne")]
    if len(samples) > 1:
        panels.append(_lay_out(ALL, "umap", in_first_space(samples, spec.seed), spec.seed))
    table = pd.concat(panels, ignore_index=True)
    files = [
        write_table(table, study.path("clusters", "embedding.parquet")),
        write_table(separation(samples), study.path("clusters", "separation.csv")),
    ]
    return Outcome(table, writes=files)


def separation(samples: Sequence[Sample]) -> pd.DataFrame:
    """Return a row for each teacher: `teacher`, `instances`, `silhouette` of the categories by cosine."""
    return pd.DataFrame(
        [
            {
                "teacher": s.teacher,
                "instances": len(s.z),
                "silhouette": silhouette(s.z, s.rows["category"].to_numpy(), sample=MOST_POINTS, metric="cosine"),
            }
            for s in samples
        ]
    )


def _sample(study: Study, name: str) -> Sample:
    folder = study.need("features", name)
    index = read_index(folder)
    categories = index["categories"]
    centroids = load_centroids(study.need("clusters", "centroids", f"{name}.safetensors"), categories)
    spec = study.experiment.clusters
    each = max(5, min(spec.sample_per_category, MOST_POINTS // len(categories)))
    columns = ["annotation_id", "image_id", "category", "vector"]
    found = load_features(folder, columns, per_category=each, seed=spec.seed)
    z = centroids.standardise(torch.from_numpy(mean_vectors(found.pop("vector"), index))).numpy()
    return Sample(name, pd.DataFrame(found), z, centroids, categories)


def in_first_space(samples: Sequence[Sample], seed: int = 0) -> list[Sample]:
    """Map every teacher's vectors into the first teacher's space, thinned so that each target is shown once.

    The maps are ridge regressions on the targets that both saw; an instance is mapped by a regression that
    has not seen it (five folds), a centroid by one that has seen all.
    """
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import KFold, cross_val_predict

    first = samples[0]
    shared = set.intersection(*(set(s.rows["annotation_id"]) for s in samples))
    mapped = []
    for place, sample in enumerate(samples):
        keep = sample.rows["annotation_id"].isin(shared).to_numpy()
        rows, z = sample.rows[keep].reset_index(drop=True), sample.z[keep]
        centroids = sample.centroids.centroids.numpy()
        if place and len(rows) > 1:
            target = first.z[first.rows["annotation_id"].isin(shared).to_numpy()]
            ridge = Ridge(alpha=RIDGE * len(rows))
            folds = KFold(min(5, len(rows)), shuffle=True, random_state=seed)
            centroids = ridge.fit(z, target).predict(centroids)
            z = cross_val_predict(ridge, z, target, cv=folds)
        # Each teacher shows other targets: as many points as in any other panel, none of them thrice.
        thin = np.arange(len(rows)) % len(samples) == place
        mapped.append(
            Sample(
                sample.teacher,
                rows[thin].reset_index(drop=True),
                z[thin].astype(np.float32),
                Centroids(
                    first.centroids.mean,
                    first.centroids.std,
                    torch.from_numpy(np.ascontiguousarray(centroids, np.float32)),
                    sample.centroids.category,
                    sample.centroids.size,
                ),
                sample.categories,
            )
        )
    return mapped


def _lay_out(panel: str, method: str, samples: Sequence[Sample], seed: int) -> pd.DataFrame:
    parts = []
    for sample in samples:
        category = sample.centroids.category.numpy()
        # A centroid's number within its category: they are stored by category, then by size.
        cluster = np.arange(len(category)) - np.searchsorted(category, category)
        centroids = pd.DataFrame({"annotation_id": -1, "image_id": -1, "category": category, "cluster": cluster})
        points = pd.concat([sample.rows.assign(cluster=-1), centroids], ignore_index=True)
        points["teacher"] = sample.teacher
        parts.append(points)
    table = pd.concat(parts, ignore_index=True)
    vectors = np.concatenate([np.concatenate([s.z, s.centroids.centroids.numpy()]) for s in samples])
    plane = project(vectors, method, derive_seed(seed, panel, method))
    return pd.DataFrame(
        {
            "panel": panel,
            "method": method,
            "kind": np.where(table["cluster"] < 0, "instance", "centroid"),
            "teacher": table["teacher"],
            "category": np.array(samples[0].categories)[table["category"]],
            "cluster": table["cluster"],
            "annotation_id": table["annotation_id"],
            "x": plane[:, 0],
            "y": plane[:, 1],
        }
    )


def project(vectors: np.ndarray, method: str, seed: int) -> np.ndarray:
    """Project vectors `(n, C)` to `(n, 2)` float32 by `umap`, `tsne` (both by cosine) or `pca`.

    Fewer than five vectors have no neighbourhoods: those are shown by PCA whatever the method.
    """
    from sklearn.decomposition import PCA

    n = len(vectors)
    if method == "pca" or n < 5:
        plane = np.zeros((n, 2), np.float32)
        if n > 1:
            found = PCA(min(2, *vectors.shape), svd_solver="full").fit_transform(vectors.astype(np.float64))
            plane[:, : found.shape[1]] = found
        return plane
    # By cosine, as the loss compares; a seed makes UMAP run on one thread, repeatably.
    if method == "umap":
        return _umap(vectors, min(NEIGHBOURS, n - 1), seed)
    if method == "tsne":
        from sklearn.manifold import TSNE

        unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        model = TSNE(perplexity=min(30.0, (n - 1) / 3), init="pca", max_iter=500, random_state=seed)
        return model.fit_transform(unit)
    raise ValueError(f"unknown projection {method!r} (known: umap, tsne, pca)")


def _umap(vectors: np.ndarray, neighbours: int, seed: int) -> np.ndarray:
    import warnings

    import umap

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="n_jobs value")
        # The default start, eigenvectors of the neighbourhood graph, breaks on a quick look's few points.
        model = umap.UMAP(n_neighbors=neighbours, metric="cosine", init="pca", random_state=seed, n_jobs=1)
        return model.fit_transform(vectors)
