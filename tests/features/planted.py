"""Planted features: vectors of known centres, written as the features stage writes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mutineck.features.shards import INDEX, write_shard
from mutineck.system.files import write_json

CATEGORIES = ("disc", "ring", "star")


def plant(
    folder: Path,
    vectors: np.ndarray,
    category: np.ndarray,
    *,
    teacher: str = "faster",
    categories: Sequence[str] = CATEGORIES,
    shards: int = 3,
    pooled: str = "mean",
) -> Path:
    """Write vectors `(n, D)` of categories `(n,)` as shards with an index; annotation ids are 1..n."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    n = len(vectors)
    for number, rows in enumerate(np.array_split(np.arange(n), shards)):
        columns = {
            "image_id": rows // 4 + 1,
            "annotation_id": rows + 1,
            "category": category[rows].astype(np.int16),
            "x1": np.full(len(rows), 10.0),
            "y1": np.full(len(rows), 12.0),
            "x2": np.full(len(rows), 40.0),
            "y2": np.full(len(rows), 44.0),
            "level": np.zeros(len(rows)),
            "stride": np.full(len(rows), 4),
            "vector": vectors[rows],
        }
        shard = write_shard(
            folder,
            columns,
            number=number,
            rank=0,
            teacher=teacher,
            key="planted",
            images=len(rows),
            left_out={},
        )
        written.append(shard.path.name)
    index = {
        "teacher": teacher,
        "key": "planted",
        "pooled": pooled,
        "channels": vectors.shape[1] // (49 if pooled == "full" else 1),
        "categories": list(categories),
        "images": n,
        "rows": n,
        "left_out": {},
        "shards": written,
        "timing": {"images": n, "seconds": 1.0, "processes": 1},
    }
    write_json(folder / INDEX, index)
    return folder
