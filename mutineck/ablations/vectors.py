"""How tightly each detector's instance vectors gather, student alone and taught student beside their teachers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch

from mutineck.ablations.detectors import LAYOUT, TIGHTNESS, detectors
from mutineck.clusters.centroids import Centroids, load_centroids
from mutineck.clusters.clustering import teaching_teacher
from mutineck.clusters.embedding import MOST_POINTS, project
from mutineck.clusters.kmeans import silhouette
from mutineck.detection.evaluation import device_of
from mutineck.detection.roi import instance_vectors
from mutineck.detectors.folders import load_frozen
from mutineck.detectors.loaders import MOST_PICTURES, some_pictures
from mutineck.features.moments import between, mean_cosines
from mutineck.study.stage import Outcome, Study
from mutineck.system.seeding import derive_seed
from mutineck.system.tables import write_table

FOLDS = 5


def measure_vectors(study: Study, *, pictures: int = MOST_PICTURES) -> Outcome[pd.DataFrame]:
    """Compare the vectors of teachers, student alone and taught student on the reported split's targets.

    Every detector's vectors are standardised by their own balanced moments, then turned (rotated and mirrored, never
    stretched) onto the vectors of the teacher whose centroids teach. A target is turned by a map that was fitted on
    other pictures. Distances, cosines and silhouettes within a detector survive that, so they compare. Writes
    `ablations/tightness.csv`, and `ablations/layout.csv`: all of them and the centroids in one UMAP.

    Args:
        study: any stage of it; teachers, clusters and students must be there.
        pictures: most pictures that are read.

    Returns:
        Found: a row a detector: `detector`, `kind` (`teacher`, `intermediate`, `alone`, `taught`), `instances`,
        `distance` (to the category's centroid, in standard deviations a channel), `cosine` (with it), `silhouette` of
        the categories by cosine, `between` (mean cosine of targets of different categories).

    Raises:
        FileNotFoundError: a detector or the centroids are missing; the message names the command.
    """
    shown = detectors(study)
    categories = study.dataset.categories
    own = [*shown.teachers, *([shown.intermediate] if shown.intermediate else [])]
    reference = teaching_teacher(study.experiment, own)
    centroids = load_centroids(study.need("clusters", "centroids", f"{reference}.safetensors"), categories)
    rows, vectors = collect_vectors(study, shown.all, pictures=pictures)
    label, group = rows["category"].to_numpy(), rows["image_id"].to_numpy()
    z = {name: standardised(values, label) for name, values in vectors.items()}
    target = centroids.standardise(torch.from_numpy(vectors[reference])).numpy()
    aligned = {name: target if name == reference else turned(z[name], target, group) for name in shown.all}
    nearest = nearest_centroids(target, label, centroids)
    kinds = dict.fromkeys(shown.teachers, "teacher") | {shown.intermediate: "intermediate"}
    kinds |= {shown.alone: "alone", shown.taught: "taught"}
    table = pd.DataFrame(
        [
            {"detector": name, "kind": kinds[name], "instances": len(label)}
            | tightness(z[name], aligned[name], nearest, label, len(categories))
            for name in shown.all
        ]
    )
    layout = lay_out(rows, aligned, centroids, categories, study.experiment.clusters.seed)
    frames = {TIGHTNESS: table, LAYOUT: layout}
    return Outcome(table, writes=[write_table(frame, study.path("ablations", f)) for f, frame in frames.items()])


@torch.no_grad()
def collect_vectors(
    study: Study, names: Sequence[str], *, pictures: int = MOST_PICTURES
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Pool every target of the reported split, crowd and tiny ones left out, from each detector's maps.

    Returns:
        A row a target (`image_id`, `annotation_id`, `category` as index), and for each detector `(n, C)` float32.
    """
    device = device_of(study.experiment.resources.device)
    minimum = study.experiment.features.minimum_size
    loaded = [load_frozen(study, name) for name in names]
    rows: list[tuple[int, int, int]] = []
    found: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for batch in some_pictures(study, study.experiment.evaluation.report, pictures):
        sides = [(b[:, 2:] - b[:, :2]).amin(dim=1) if len(b) else b.new_zeros(0) for b in batch.boxes]
        keep = [~crowd & (side >= minimum) for crowd, side in zip(batch.crowd, sides, strict=True)]
        boxes = [b[k].to(device) for b, k in zip(batch.boxes, keep, strict=True)]
        for i, image_id in enumerate(batch.image_ids):
            kept = zip(batch.annotation_ids[i][keep[i]].tolist(), batch.labels[i][keep[i]].tolist(), strict=True)
            rows += [(image_id, annotation, category) for annotation, category in kept]
        for detector in loaded:
            found[detector.name].append(instance_vectors(detector.maps(batch.image.to(device)), boxes).cpu().numpy())
    table = pd.DataFrame(rows, columns=["image_id", "annotation_id", "category"])
    return table, {name: np.concatenate(parts).astype(np.float32) for name, parts in found.items()}


def standardised(vectors: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Return `(t - mean) / std` `(n, C)` by moments to which every category present contributes alike."""
    counts = np.bincount(label)
    weight = 1 / counts[label] / (counts > 0).sum()
    mean = weight @ vectors
    std = np.sqrt(weight @ (vectors - mean) ** 2)
    return ((vectors - mean) / np.where(std > 1e-6, std, 1.0)).astype(np.float32)


def turned(vectors: np.ndarray, target: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Turn vectors `(n, C)` onto `(n, D)` by orthogonal maps, each target by one fitted on other groups' targets.

    The map is the closed-form solution of the orthogonal Procrustes problem, Schoenemann 1966.
    """
    from sklearn.model_selection import GroupKFold

    folds = min(FOLDS, len(np.unique(group)))
    if folds < 2:
        return vectors @ _procrustes(vectors, target)
    found = np.zeros_like(target)
    for fit, apply in GroupKFold(folds).split(vectors, groups=group):
        found[apply] = vectors[apply] @ _procrustes(vectors[fit], target[fit])
    return found


def _procrustes(vectors: np.ndarray, target: np.ndarray) -> np.ndarray:
    left, _, right = np.linalg.svd(vectors.T.astype(np.float64) @ target, full_matrices=False)
    return (left @ right).astype(np.float32)


def nearest_centroids(target: np.ndarray, label: np.ndarray, centroids: Centroids) -> np.ndarray:
    """Return for each target `(n, D)` its category's centroid nearest by cosine, as the loss takes it; NaN if none."""
    chosen = np.full_like(target, np.nan)
    points, category = centroids.centroids.numpy(), centroids.category.numpy()
    for index in np.unique(label):
        own = points[category == index]
        if len(own):
            cosine = target[label == index] @ (own / np.linalg.norm(own, axis=1, keepdims=True).clip(1e-12)).T
            chosen[label == index] = own[cosine.argmax(axis=1)]
    return chosen


def tightness(
    z: np.ndarray, aligned: np.ndarray, nearest: np.ndarray, label: np.ndarray, categories: int
) -> dict[str, float]:
    """Return the four numbers of one detector: see `measure_vectors`."""
    away = np.linalg.norm(aligned - nearest, axis=1) / np.sqrt(aligned.shape[1])
    lengths = np.linalg.norm(aligned, axis=1) * np.linalg.norm(nearest, axis=1)
    cosines = mean_cosines(iter([(label, z)]), categories)
    return {
        "distance": float(np.nanmean(away)),
        "cosine": float(np.nanmean((aligned * nearest).sum(axis=1) / np.maximum(lengths, 1e-12))),
        "silhouette": silhouette(z, label, sample=MOST_POINTS, metric="cosine"),
        "between": between(cosines),
    }


def lay_out(
    rows: pd.DataFrame, aligned: Mapping[str, np.ndarray], centroids: Centroids, categories: Sequence[str], seed: int
) -> pd.DataFrame:
    """Return one UMAP of all detectors' vectors and the centroids.

    Returns:
        A row a point: `detector` (empty for a centroid), `kind`, `category`, `annotation_id` (-1), `x`, `y`.
    """
    # The same targets for every detector, evenly over the split.
    most = min(len(rows), MOST_POINTS // len(aligned))
    shown = np.linspace(0, len(rows) - 1, most).round().astype(int)
    instances = rows.iloc[shown].assign(kind="instance")
    middle = pd.DataFrame({"annotation_id": -1, "category": centroids.category.numpy(), "kind": "centroid"})
    parts = [instances.assign(detector=name) for name in aligned] + [middle.assign(detector="")]
    table = pd.concat(parts, ignore_index=True)
    points = np.concatenate([*(values[shown] for values in aligned.values()), centroids.centroids.numpy()])
    plane = project(points, "umap", derive_seed(seed, "students", "umap"))
    table["category"] = np.asarray(categories)[table["category"].to_numpy()]
    table["x"], table["y"] = plane[:, 0], plane[:, 1]
    return table[["detector", "kind", "category", "annotation_id", "x", "y"]]
