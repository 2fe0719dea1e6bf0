"""Instance vectors on disk: Parquet shards, written whole, recognised as current, streamed back.

One row is one target seen by one teacher. A shard holds a fixed range of images, so an interrupted extraction
goes on at the first shard that is missing, with any number of processes. Each shard carries the key of the
settings and of the checkpoint it came from: rows of another teacher or of other settings are never taken for
current ones.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mutineck.system.errors import unknown
from mutineck.system.files import atomic_path, read_json

INDEX = "index.json"
CELLS = 49
"""Cells of a pooled target (7x7): columns a channel of a vector that was stored `full`."""
BATCH_ROWS = 16384
_NAME = re.compile(r"part-(\d{4,})-(\d{4,})\.parquet")
_COLUMNS: dict[str, pa.DataType] = {
    "image_id": pa.int64(),
    "annotation_id": pa.int64(),
    "category": pa.int16(),
    "x1": pa.float32(),
    "y1": pa.float32(),
    "x2": pa.float32(),
    "y2": pa.float32(),
    "level": pa.int8(),
    "stride": pa.int16(),
}
COLUMNS = (*_COLUMNS, "teacher", "vector")


@dataclass(frozen=True)
class Shard:
    """One finished shard: its file and what it says about itself."""

    path: Path
    number: int
    key: str
    images: int
    rows: int
    left_out: dict[str, int]


def write_shard(
    folder: Path,
    columns: Mapping[str, np.ndarray],
    *,
    number: int,
    rank: int,
    teacher: str,
    key: str,
    images: int,
    left_out: Mapping[str, int],
) -> Shard:
    """Write one shard atomically as `part-RANK-NUMBER.parquet`.

    Args:
        folder: the teacher's folder.
        columns: `vector` `(n, D)` float16 and every other column of `COLUMNS` but `teacher` `(n,)`; boxes are
            `(x1, y1, x2, y2)` in pixels of the original image, `category` counts in the data set's order.
        number: which range of images this is.
        rank: the process that writes.
        teacher: the teacher's name.
        key: digest of everything that the rows depend on.
        images: images in the range, those without targets too.
        left_out: count of targets without a row, by reason.

    Raises:
        ValueError: a column is missing, or a vector is not finite in float16.
    """
    vectors = np.ascontiguousarray(columns["vector"], dtype=np.float16)
    if not np.isfinite(vectors).all():
        bad = columns["annotation_id"][~np.isfinite(vectors).all(axis=1)][:5].tolist()
        raise ValueError(
            f"teacher {teacher!r}: vectors of annotations {bad} are not finite in float16; "
            "its maps hold values beyond 65504 or NaN: check its checkpoint and its input normalisation"
        )
    rows, width = vectors.shape
    flat = pa.array(vectors.reshape(-1), type=pa.float16())
    arrays = [pa.array(columns[name], type=kind) for name, kind in _COLUMNS.items()]
    arrays.append(pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int8)), pa.array([teacher])))
    arrays.append(pa.FixedSizeListArray.from_arrays(flat, width))
    about = {"key": key, "images": images, "left_out": dict(left_out)}
    table = pa.table(arrays, names=list(COLUMNS), metadata={"mutineck": json.dumps(about, sort_keys=True)})
    path = folder / f"part-{rank:04d}-{number:04d}.parquet"
    with atomic_path(path) as temporary:
        # Level 1: half-precision noise barely shrinks, the other columns shrink at any level.
        pq.write_table(table, temporary, compression="zstd", compression_level=1, row_group_size=BATCH_ROWS)
    return Shard(path, number, key, images, rows, dict(left_out))


def find_shards(folder: Path, key: str) -> tuple[dict[int, Shard], list[Path]]:
    """Return the finished shards of this key by number, and the files that are not current."""
    current: dict[int, Shard] = {}
    stale = []
    for path in sorted(folder.glob("part-*.parquet")):
        match = _NAME.fullmatch(path.name)
        shard = _read_shard(path, int(match.group(2))) if match else None
        if shard is None or shard.key != key or shard.number in current:
            stale.append(path)
        else:
            current[shard.number] = shard
    return current, stale


def _read_shard(path: Path, number: int) -> Shard | None:
    try:
        footer = pq.read_metadata(path)
        about = json.loads(footer.metadata[b"mutineck"])
        return Shard(path, number, about["key"], about["images"], footer.num_rows, about["left_out"])
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
        return None  # a file that somebody else put there, or one damaged on disk: not ours to read


def read_index(folder: str | Path) -> dict[str, Any]:
    """Return what a finished extraction says about itself.

    Raises:
        FileNotFoundError: there is no finished extraction in `folder`.
    """
    path = Path(folder) / INDEX
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: the features of this teacher are not there, or not finished. "
            "Make them with: mutineck run EXPERIMENT --until features"
        )
    return read_json(path)


def read_features(
    folder: str | Path,
    columns: Sequence[str] | None = None,
    *,
    batch_rows: int = BATCH_ROWS,
    categories: Sequence[int] | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Stream a teacher's rows, never holding more than one batch.

    Args:
        folder: `features/TEACHER`.
        columns: the columns to read, all if None.
        batch_rows: most rows of a batch.
        categories: keep only rows of these categories (indices in the data set's order).

    Yields:
        Columns by name, `(n,)` each; `vector` is `(n, D)` float16 with D the channels, or channels * 49 if
        the experiment stores `pooled: full`; order of rows is that of the data set's images.

    Raises:
        FileNotFoundError: the extraction is not finished, or a shard has gone.
        ValueError: a column that does not exist.
    """
    folder = Path(folder)
    wanted = list(COLUMNS if columns is None else columns)
    for name in wanted:
        if name not in COLUMNS:
            raise ValueError(f"{folder}: " + unknown("column", name, COLUMNS))
    read = wanted if categories is None or "category" in wanted else [*wanted, "category"]
    for name in read_index(folder)["shards"]:
        with pq.ParquetFile(folder / name) as file:
            for batch in file.iter_batches(batch_rows, columns=read):
                if categories is not None:
                    batch = batch.filter(pc.is_in(batch["category"], pa.array(categories, pa.int16())))
                if len(batch):
                    yield {name: _to_numpy(batch[name]) for name in wanted}


def _to_numpy(column: pa.Array) -> np.ndarray:
    if pa.types.is_fixed_size_list(column.type):
        return column.flatten().to_numpy().reshape(len(column), column.type.list_size)
    return column.to_numpy(zero_copy_only=False)


def load_features(
    folder: str | Path,
    columns: Sequence[str] | None = None,
    *,
    per_category: int | None = None,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Read a teacher's rows into memory, or a fixed-size sample of each category.

    The draw looks only at annotation ids, categories and the seed: it is the same for every teacher.

    Args:
        folder: `features/TEACHER`.
        columns: the columns to read, all if None.
        per_category: most rows of a category; all if None.
        seed: seed of the draw.

    Returns:
        Columns as in `read_features`, ordered by category, then annotation id, if sampled.
    """
    if per_category is None:
        return _concatenate(list(read_features(folder, columns)))
    rows = _concatenate(list(read_features(folder, ["annotation_id", "category"])))
    chosen = draw_annotations(rows["annotation_id"], rows["category"], per_category, seed)
    wanted = list(COLUMNS if columns is None else columns)
    parts = []
    for batch in read_features(folder, list(dict.fromkeys([*wanted, "annotation_id", "category"]))):
        keep = np.isin(batch["annotation_id"], chosen)
        parts.append({name: values[keep] for name, values in batch.items()})
    sample = _concatenate(parts)
    order = np.lexsort((sample["annotation_id"], sample["category"]))
    return {name: sample[name][order] for name in wanted}


def draw_annotations(annotation_id: np.ndarray, category: np.ndarray, per_category: int, seed: int) -> np.ndarray:
    """Return the annotation ids of a random sample, at most `per_category` of each category, sorted."""
    chosen = []
    for index in np.unique(category):
        ids = np.sort(annotation_id[category == index])
        draw = np.random.default_rng([seed, int(index)])
        chosen.append(ids if len(ids) <= per_category else draw.choice(ids, per_category, replace=False))
    return np.sort(np.concatenate(chosen)) if chosen else np.empty(0, np.int64)


def _concatenate(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    if not parts:
        raise ValueError("the features hold no row: every target was left out, or the split has none")
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def mean_vectors(vectors: np.ndarray, index: Mapping[str, Any]) -> np.ndarray:
    """Return one value a channel, `(n, C)` float32, of vectors stored `mean` (as they are) or `full`."""
    wide = vectors.astype(np.float32)
    return wide.reshape(len(wide), index["channels"], -1).mean(axis=2) if index["pooled"] == "full" else wide
