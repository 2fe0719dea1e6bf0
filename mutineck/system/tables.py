"""Tables on disk: in this project's CSV names are text, whatever they look like, and only numbers may be missing."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from mutineck.system.files import atomic_path

NAMES = (
    *("arm", "category", "category_a", "category_b", "detector", "kind", "metric", "panel"),
    *("space", "split", "teacher", "term"),
)
"""Columns that hold names. A category may be called 1, True, NA or null."""


def read_table(path: Path) -> pd.DataFrame:
    """Return a tidy table: columns of `NAMES` as text, an empty cell of any other as NaN.

    Raises:
        FileNotFoundError: there is no such file.
    """
    columns = pd.read_csv(path, nrows=0).columns
    return pd.read_csv(
        path,
        dtype={name: str for name in columns if name in NAMES},
        keep_default_na=False,
        na_values={name: [""] for name in columns if name not in NAMES},
    )


def write_table(table: pd.DataFrame, path: Path) -> Path:
    """Write a table atomically, without its index: Parquet by that ending, else CSV of 6 digits; return its path."""
    with atomic_path(path) as temporary:
        if path.suffix == ".parquet":
            table.to_parquet(temporary, index=False)
        else:
            table.to_csv(temporary, index=False, float_format="%.6g")
    return path
