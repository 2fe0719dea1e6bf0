"""Centroids of as many instances as COCO has: memory, time by rows, inertia beside k-means of everything at once."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.table import Row, Target, in_child, peak_resident
from mutineck.features.shards import INDEX, write_shard
from mutineck.study.experiment import ClustersSpec
from mutineck.system.files import write_json

ROWS = 860_000
CHANNELS = 256
CATEGORIES = 80
PERSONS = 0.3
"""Share of the most frequent category, as in COCO; the others fall off by a power law."""
FEW = ROWS // 10
"""Rows that scikit-learn's full k-means is given at once; with all, it would take most of the benchmarks' time."""
SHARD_ROWS = 8192
SPEC = ClustersSpec()


@dataclass(frozen=True)
class Cost:
    """What a clustering took: processor seconds, peak resident MiB of its process, sum of squared distances."""

    seconds: float
    peak: float
    inertia: float


def rows() -> list[Row]:
    """Generate the rows on disk, then cluster them, each time in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        small, large = Path(folder, "small"), Path(folder, "large")
        in_child(generate, small, FEW)
        in_child(generate, large, ROWS)
        few = in_child(cluster_by_category, small)
        full = in_child(cluster_at_once, small, "KMeans")
        ours = in_child(cluster_by_category, large)
        batches = in_child(cluster_at_once, large, "MiniBatchKMeans")
    name, few_name = (f"clusters of {count} x {CHANNELS} in {CATEGORIES} categories" for count in (ROWS, FEW))
    k = CATEGORIES * SPEC.k
    everything, mini = f"sklearn KMeans({k}) of everything", f"sklearn MiniBatchKMeans({k}) of everything"
    starts = f"one start against {SPEC.restarts} a category"
    return [
        Row(f"{name}: peak memory", ours.peak, "MiB", target=Target("at most", 2.5 * 1024)),
        _row(f"{name}: time beside a tenth of the rows", "seconds", ours, few, f"{FEW} rows", 11.0),
        _row(f"{few_name}: inertia", "inertia", few, full, everything, 1.02),
        _row(f"{few_name}: time", "seconds", few, full, everything, None, starts),
        _row(f"{name}: inertia", "inertia", ours, batches, mini, None),
        _row(f"{name}: time", "seconds", ours, batches, mini, None, starts),
        _row(f"{name}: peak memory", "peak", ours, batches, mini, None),
    ]


def _row(name: str, field: str, ours: Cost, other: Cost, label: str, most: float | None, note: str = "") -> Row:
    value, reference = getattr(ours, field), getattr(other, field)
    unit = {"seconds": "s", "peak": "MiB", "inertia": ""}[field]
    target = None if most is None else Target("at most", most)
    return Row(name, value, unit, label, reference, value / reference, target, note)


def batches_of(count: int, seed: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield categories `(n,)` and vectors `(n, CHANNELS)` float16, three modes a category, shard by shard."""
    draw = np.random.default_rng(seed)
    frequency = 1 / np.arange(1, CATEGORIES)
    shares = np.concatenate([[PERSONS], (1 - PERSONS) * frequency / frequency.sum()])
    # Modes 3 to 4 deviations from each other, so that k-means has to search for them.
    middles = draw.normal(0, 1, (CATEGORIES, 1, CHANNELS)) + draw.normal(0, 0.15, (CATEGORIES, SPEC.k, CHANNELS))
    for first in range(0, count, SHARD_ROWS):
        n = min(SHARD_ROWS, count - first)
        category = draw.choice(CATEGORIES, n, p=shares)
        mode = draw.choice(SPEC.k, n, p=[0.5, 0.3, 0.2][: SPEC.k])
        vectors = middles[category, mode] + draw.standard_normal((n, CHANNELS), np.float32)
        yield category, vectors.astype(np.float16)


def generate(folder: Path, count: int) -> None:
    """Write a teacher's features as the features stage does."""
    folder.mkdir()
    shards = []
    for number, (category, vectors) in enumerate(batches_of(count)):
        n = len(category)
        ids = np.arange(n) + number * SHARD_ROWS
        columns: dict[str, Any] = dict.fromkeys(("x1", "y1", "x2", "y2"), np.zeros(n, np.float32))
        columns |= dict.fromkeys(("level", "stride"), np.ones(n, np.int8))
        columns |= {"image_id": ids, "annotation_id": ids, "category": category, "vector": vectors}
        shards.append(write_shard(folder, columns, number=number, rank=0, teacher="a", key="", images=n, left_out={}))
    write_json(
        folder / INDEX,
        {
            "pooled": "mean",
            "channels": CHANNELS,
            "categories": [f"category {k}" for k in range(CATEGORIES)],
            "shards": [shard.path.name for shard in shards],
        },
    )


def cluster_by_category(folder: Path) -> Cost:
    """Cluster as the clusters stage does."""
    from mutineck.clusters.clustering import cluster_teacher  # torch and sklearn with it: not before the clock starts

    started = time.process_time()
    _, table, _ = cluster_teacher(folder, "a", SPEC)
    seconds = time.process_time() - started
    each = table.drop_duplicates("category")  # `inertia` is a row's and channel's mean, alike in a category's clusters
    return Cost(seconds, peak_resident() / 2**20, float((each["inertia"] * each["count"]).sum() * CHANNELS))


def cluster_at_once(folder: Path, kind: str) -> Cost:
    """Hand all standardised vectors to one of scikit-learn's k-means, with as many clusters as ours together."""
    import sklearn.cluster

    from mutineck.clusters.standardise import standardised

    with standardised(folder) as vectors:
        everything = np.empty((vectors.moments.count.sum(), CHANNELS), np.float32)
        first = 0
        for part in vectors:
            everything[first : first + len(part.z)] = part.z
            first += len(part.z)
    started = time.process_time()
    model = getattr(sklearn.cluster, kind)(CATEGORIES * SPEC.k, n_init=1, random_state=0).fit(everything)
    return Cost(time.process_time() - started, peak_resident() / 2**20, float(model.inertia_))
