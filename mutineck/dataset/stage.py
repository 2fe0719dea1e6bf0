"""The dataset stage: whatever came in leaves as COCO documents, with the list of what was wrong."""

from __future__ import annotations

import filecmp
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mutineck.dataset.coco_folder import SPLITS, find_single_file, read_coco_folder
from mutineck.dataset.fingerprints import coco_inputs, voc_inputs
from mutineck.dataset.records import (
    CategoryNames,
    DatasetError,
    Defect,
    Source,
    defect_rows,
    refuse_defects,
)
from mutineck.dataset.shapes import write_shapes
from mutineck.dataset.split import first_by_hash, stratified_split
from mutineck.dataset.voc import coco_document
from mutineck.dataset.voc_folder import official_split, read_voc_folders
from mutineck.system.files import write_json

if TYPE_CHECKING:
    import pandas as pd

    from mutineck.study.stage import Study

TEST_IS_VAL = "test has no annotations of its own and holds the same pictures as val"


@dataclass
class DatasetSummary:
    """What the stage made.

    Attributes:
        categories: names in the order of the detector's labels.
        splits: ``train``, ``val``, ``test`` -> images, boxes, crowd, per_category, as in ``dataset.json``.
        defects: what was repaired or left out.
        reads, writes: files, for the manifest.
    """

    categories: tuple[str, ...]
    splits: dict[str, dict[str, Any]]
    defects: list[Defect]
    reads: list[Path] = field(default_factory=list)
    writes: list[Path] = field(default_factory=list)

    def counts(self) -> pd.DataFrame:
        """Return boxes by category (rows) and split (columns), with a row of totals and one of images."""
        import pandas as pd

        table = pd.DataFrame({split: self.splits[split]["per_category"] for split in SPLITS}).loc[list(self.categories)]
        table.loc["all boxes"] = table.sum()
        table.loc["images"] = [self.splits[split]["images"] for split in SPLITS]
        return table.astype(int)

    def defect_counts(self) -> pd.DataFrame:
        """Return how many defects there were, by reason and what was done."""
        import pandas as pd

        counts = Counter((defect.reason, defect.action) for defect in self.defects)
        rows = [(reason, action, count) for (reason, action), count in sorted(counts.items())]
        return pd.DataFrame(rows, columns=["reason", "action", "count"])

    def results(self) -> dict[str, Any]:
        """Return the numbers worth keeping in the manifest."""
        actions = Counter(defect.action for defect in self.defects)
        return {
            "categories": len(self.categories),
            "images": {split: self.splits[split]["images"] for split in SPLITS},
            "boxes": {split: self.splits[split]["boxes"] for split in SPLITS},
            "repaired": actions["repaired"],
            "left_out": actions["left out"],
            "kept": actions["kept"],
        }


def convert(study: Study) -> DatasetSummary:
    """Read or generate the experiment's data set and write ``dataset/`` of the study, ``dataset.json`` last.

    Raises:
        DatasetError: there is no data set, nothing in it can be used, or it has defects and
            ``dataset.strict`` is set.
    """
    spec = study.experiment.dataset
    names = CategoryNames(spec.categories, spec.aliases)
    reads: list[Path] = []
    if spec.format == "coco":
        named = _named_root(study)
        study.note(*coco_inputs(named))
        root = named.resolve()
        documents, defects, reads = read_coco_folder(root, names, spec.limit, spec.seed, spec.split)
        notes: dict[str, Any] = {"split": "as published"}
        if documents["test"] is documents["val"]:
            notes["split"] += ", test is val"
            print(f"dataset: {TEST_IS_VAL}; what is reported on test was chosen on it")
        elif spec.split is not None and find_single_file(root):
            notes = {"split": list(spec.split), "seed": spec.seed}
        source = Source(str(root), documents, defects, notes)
    elif spec.format == "shapes":
        source = _voc_source(_generate(study), "dataset/source", spec, names)
    else:
        named = _named_root(study)
        study.note(*voc_inputs(named))
        root = named.resolve()
        source = _voc_source(root, str(root), spec, names)
    if spec.strict:
        refuse_defects(source.defects)
    return _write(study, source, reads)


def repeats_val(study: Study) -> bool:
    """Whether the test split that the stage wrote is the validation split once more."""
    val, test = (study.path("dataset", f"{split}.json") for split in ("val", "test"))
    return val.is_file() and test.is_file() and filecmp.cmp(val, test, shallow=False)


def _named_root(study: Study) -> Path:
    """Return the folder that ``dataset.root`` names, as named (it may be a symbolic link), downloaded first if need be.

    Raises:
        DatasetError: no folder is named, or it is not there.
    """
    from mutineck.study.experiment_file import repository

    spec = study.experiment.dataset
    named = Path(spec.root or f"data/{spec.format}").expanduser()
    # Notebooks opened in notebooks/ mean the same folder as commands typed in the repository's root.
    candidates = [named] if named.is_absolute() else [Path.cwd() / named, repository() / named]
    root = next((path for path in candidates if path.is_dir()), candidates[-1])
    if spec.download:
        from mutineck.system.download import download_dataset

        return download_dataset(spec.format, root)
    if root.is_dir():
        return root
    what = f"{named} is no folder" if spec.root else "no folder is named"
    raise DatasetError(
        f"dataset.root: {what}. Name one with --set dataset.root=PATH, or get the published data with "
        f"`mutineck download {spec.format} --to PATH`"
    )


def _generate(study: Study) -> Path:
    """Draw the scenes beside their place and move them there whole: a killed run leaves no half folder."""
    spec = study.experiment.dataset
    folder, partial = study.path("dataset", "source"), study.path("dataset", ".source.partial")
    for path in (partial, folder):
        shutil.rmtree(path, ignore_errors=True)
    write_shapes(
        partial,
        images=spec.shapes.images,
        seed=spec.seed,
        size=spec.shapes.size,
        max_objects=spec.shapes.max_objects,
    )
    partial.rename(folder)
    return folder


def _voc_source(root: Path, image_root: str, spec: Any, names: CategoryNames) -> Source:
    pictures, defects, notes = read_voc_folders(root, names, spec.voc_offset)
    if not pictures:
        raise DatasetError(f"{root}: no usable image in it. {_first(defects)}")
    found = {name for picture in pictures for name in picture.categories()}
    categories = names.order(found)
    absent = [name for name in categories if name not in found]
    if absent or not found:
        raise DatasetError(
            f"dataset.categories: no object of {', '.join(absent) or 'any category'} in {root}; "
            f"it has {', '.join(sorted(found)) or 'none'}. {_first(defects)}"
        )
    lists = notes.pop("lists")
    labels = {picture.file_name: picture.categories() for picture in pictures}
    if spec.split is None:
        parts = official_split(lists, labels)
    else:
        parts = stratified_split(labels, spec.split, spec.seed)
    document = coco_document(sorted(pictures, key=lambda picture: picture.file_name), categories)
    for item in document["annotations"]:
        del item["index"]
    documents = {}
    for index, split in enumerate(SPLITS):
        chosen = {name for name, part in parts.items() if part == index}
        if spec.limit is not None:
            chosen = set(first_by_hash(chosen, spec.limit, spec.seed))
        documents[split] = _part(document, chosen)
    notes |= {"split": list(spec.split) if spec.split is not None else "ImageSets/Main", "seed": spec.seed}
    return Source(image_root, documents, defects, notes)


def _part(document: Mapping[str, Any], file_names: set[str]) -> dict[str, Any]:
    from mutineck.dataset.coco import keep_images

    return keep_images(dict(document), lambda image: image["file_name"] in file_names)


def _first(defects: Iterable[Defect], shown: int = 5) -> str:
    lines = [str(defect) for defect in list(defects)[:shown]]
    return "First defects: " + "; ".join(lines) if lines else ""


def _write(study: Study, source: Source, reads: list[Path]) -> DatasetSummary:
    spec = study.experiment.dataset
    folder = study.path("dataset")
    splits = {split: _count(document) for split, document in source.splits.items()}
    for split, counts in splits.items():
        if not counts["images"] or not counts["boxes"]:
            raise DatasetError(
                f"{source.image_root}: the {split} split has {counts['images']} usable images and "
                f"{counts['boxes']} boxes; nothing can be trained or measured on it. {_first(source.defects)}"
            )
    writes = [write_json(folder / f"{split}.json", source.splits[split], indent=None) for split in SPLITS]
    writes.append(write_json(folder / "defects.json", defect_rows(source.defects)))
    masks = [("segmentation" in item) for document in source.splits.values() for item in document["annotations"]]
    categories = tuple(category["name"] for category in source.splits["train"]["categories"])
    description = {
        "categories": list(categories),
        "image_root": source.image_root,
        "masks": "all" if all(masks) else "some" if any(masks) else "none",
        "splits": splits,
        "source": {"format": spec.format, "defects": len(source.defects)} | source.notes,
    }
    writes.append(write_json(folder / "dataset.json", description))
    return DatasetSummary(categories, splits, source.defects, reads, writes)


def _count(document: Mapping[str, Any]) -> dict[str, Any]:
    """Count a COCO document: boxes without crowd regions, crowd regions, boxes by category."""
    names = {category["id"]: category["name"] for category in document["categories"]}
    per_category = dict.fromkeys(names.values(), 0)
    crowd = 0
    for item in document["annotations"]:
        if item["iscrowd"]:
            crowd += 1
        else:
            per_category[names[item["category_id"]]] += 1
    return {
        "images": len(document["images"]),
        "boxes": sum(per_category.values()),
        "crowd": crowd,
        "per_category": per_category,
    }
