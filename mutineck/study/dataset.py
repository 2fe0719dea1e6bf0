"""What the dataset stage made, as every later stage reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mutineck.detection.labelled import labelled_categories
from mutineck.system.files import read_json, write_json

CHOOSING: Literal["val"] = "val"
"""The split that every choice is made on: which arm and teacher to show, thresholds, floors, searches. It is always
measured, whatever `evaluation.splits` says, so nothing is chosen by what is reported."""
DATASET_FILE = "dataset.json"
"""In the stage's folder, written last."""
HIDDEN = "hidden_{}.json"
"""In the stage's folder: labels that the experiment hid in a split, for measuring alone. Its pictures are those of the
split, each labelled for the categories that it lost."""
SOURCES = "sources"
"""Field of a COCO image record: names of the sources that the picture is from, where there are several. In `source` of
`dataset.json`: name -> categories that its pictures are labelled for."""
LABELLED_PICTURES = "labelled"
"""Key of a split in `dataset.json`, where some picture is not labelled for some category: category -> pictures."""
DATA = "data"
"""Key of a manifest: `Dataset.content` that the job worked on; nothing where it was not known yet."""


@dataclass(frozen=True)
class Dataset:
    """A study's data set: `dataset/dataset.json`.

    Attributes:
        categories: names in the order of the detectors' labels.
        pictures: folder that the file names of `train.json`, `val.json` and `test.json` are relative to.
        masks: which boxes have a mask: `all`, `some` or `none`.
        splits: `train`, `val`, `test` -> `images`, `boxes`, `crowd`, `per_category`, and `labelled` (category ->
            pictures that are labelled for it) where not all pictures are labelled for all categories.
        source: where it comes from: `format`, number of `defects`, how it was divided.
        folder: the stage's folder, which holds the splits' files.
        content: `train`, `val`, `test` -> hash of its annotations and of its pictures' bytes, wherever these lie. What
            was made from a data set is up to date with any other of the same content.
    """

    categories: tuple[str, ...]
    pictures: Path
    masks: str = "none"
    splits: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    source: Mapping[str, Any] = field(default_factory=dict)
    folder: Path = Path()
    content: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, root: Path) -> Dataset:
        """Read the data set of the study in a folder, `outputs/EXPERIMENT`.

        Raises:
            FileNotFoundError: the study has none yet.
        """
        fields = read_json(root / "dataset" / DATASET_FILE)
        # A path from the study's folder stays valid where the study is moved to.
        pictures = root / fields.pop("image_root")
        own = {"categories": tuple(fields["categories"]), "pictures": pictures, "folder": root / "dataset"}
        return cls(**{**fields, **own})

    def of_source(self, name: str | None) -> tuple[str, ...]:
        """Return the categories that the pictures of a source are labelled for; with None, the data set's."""
        return self.categories if name is None else tuple(self.source[SOURCES][name])

    def complete(self, split: str) -> bool:
        """Whether every picture of a split is labelled for every category."""
        return LABELLED_PICTURES not in self.splits.get(split, {})

    def labelled(self, split: str) -> dict[int, frozenset[int]]:
        """Return image id -> ids of the categories that a picture of a split is labelled for."""
        return labelled_categories(read_json(self.folder / f"{split}.json"))

    def pictures_labelled(self, split: str) -> dict[str, int]:
        """Return category name -> number of pictures of a split that are labelled for it."""
        counts = self.splits[split]
        return dict(counts.get(LABELLED_PICTURES, dict.fromkeys(self.categories, counts["images"])))

    def measured_on(self, split: str) -> str:
        """Return over how many pictures a category's AP is, in a sentence; '' where it is over all of the split."""
        if self.complete(split):
            return ""
        counts, total = self.pictures_labelled(split), self.splits[split]["images"]
        some = [f"{name} {count}" for name, count in counts.items() if count]
        none = [name for name, count in counts.items() if not count]
        parts = [f"AP of a category is over the pictures of {split} that are labelled for it, of {total}"]
        parts += [", ".join(some)] if some else []
        without = ", and floors, gates and thresholds do without" * (split == CHOOSING)
        parts += [f"none is for {', '.join(none)}: no number of it{without}"] if none else []
        return "; ".join(parts) + "."

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
            "content": dict(self.content),
        }
        return write_json(root / "dataset" / DATASET_FILE, fields)
