"""What the dataset stage made, as every later stage reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mutineck.system.files import read_json, write_json

DATASET_FILE = "dataset.json"
"""In the stage's folder, written last."""


@dataclass(frozen=True)
class Dataset:
    """A study's data set: `dataset/dataset.json`.

    Attributes:
        categories: names in the order of the detectors' labels.
        pictures: folder that the file names of `train.json`, `val.json` and `test.json` are relative to.
        masks: which boxes have a mask: `all`, `some` or `none`.
        splits: `train`, `val`, `test` -> `images`, `boxes`, `crowd`, `per_category`.
        source: where it comes from: `format`, number of `defects`, how it was divided.
    """

    categories: tuple[str, ...]
    pictures: Path
    masks: str = "none"
    splits: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    source: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, root: Path) -> Dataset:
        """Read the data set of the study in a folder, `outputs/EXPERIMENT`.

        Raises:
            FileNotFoundError: the study has none yet.
        """
        fields = read_json(root / "dataset" / DATASET_FILE)
        # A path from the study's folder stays valid where the study is moved to.
        pictures = root / fields.pop("image_root")
        return cls(**{**fields, "categories": tuple(fields["categories"]), "pictures": pictures})

    def write(self, root: Path) -> Path:
        """Write the file atomically; pictures within the study's folder are named from there."""
        own, pictures = root.resolve(), self.pictures.resolve()
        named = pictures.relative_to(own).as_posix() if pictures.is_relative_to(own) else str(pictures)
        fields = {
            "categories": list(self.categories),
            "image_root": named,
            "masks": self.masks,
            "splits": dict(self.splits),
            "source": dict(self.source),
        }
        return write_json(root / "dataset" / DATASET_FILE, fields)
