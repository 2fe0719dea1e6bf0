"""The dataset stage: whatever came in leaves as COCO documents, with the list of what was wrong."""

from __future__ import annotations

import filecmp
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from mutineck.dataset.coco import keep_images
from mutineck.dataset.detect import find_layout, layout_inputs, read_layout
from mutineck.dataset.division import Shares, divided, joined
from mutineck.dataset.hidden import hide_labels, labelled_for
from mutineck.dataset.layouts import SPLITS, Layout
from mutineck.dataset.records import (
    CategoryNames,
    DatasetError,
    Defect,
    Reading,
    Source,
    defect_rows,
    grouped,
    lookalikes,
    marked_hint,
    refuse_defects,
)
from mutineck.dataset.repeats import find_repeats, photograph, same_content
from mutineck.dataset.shapes import write_shapes
from mutineck.dataset.sources import Collected, collect
from mutineck.dataset.split import first_by_hash
from mutineck.dataset.unlabelled import refuse_unknown
from mutineck.dataset.usable import (
    MOST_NAMED,
    boxes_under_a_pixel,
    small_at_input,
    trained_on,
    with_objects,
    without_objects,
)
from mutineck.detection.labelled import is_complete, labelled_categories, pictures_labelled
from mutineck.study.checks import losses
from mutineck.study.dataset import HIDDEN, LABELLED_PICTURES, SOURCES, Dataset
from mutineck.study.experiment import DatasetSpec
from mutineck.system.files import sha256_file, sha256_json, write_json
from mutineck.system.telling import tell

if TYPE_CHECKING:
    import pandas as pd

    from mutineck.study.stage import Study

DEFECTS = "defects.json"
TEST_IS_VAL = "test has no annotations of its own and holds the same pictures as val"


@dataclass
class DatasetSummary:
    """What the stage made.

    Attributes:
        categories: names in the order of the detector's labels.
        splits: ``train``, ``val``, ``test`` -> images, without_objects, boxes, crowd, per_category, as in
            ``dataset.json``; of ``train`` also what is trained_on.
        defects: what was repaired or left out.
        source: how many images and objects were ``read``, and ``found``.
        pictures: rows `source`, `labelled for`, `split`, `pictures`.
        reads, writes: files, for the manifest.
    """

    categories: tuple[str, ...]
    splits: dict[str, dict[str, Any]]
    defects: list[Defect]
    source: dict[str, dict[str, int]] = field(default_factory=dict)
    pictures: list[dict[str, Any]] = field(default_factory=list)
    reads: list[Path] = field(default_factory=list)
    writes: list[Path] = field(default_factory=list)

    def counts(self) -> pd.DataFrame:
        """Return boxes by category (rows) and split (columns), with rows of totals and of images."""
        import pandas as pd

        table = pd.DataFrame({split: self.splits[split]["per_category"] for split in SPLITS}).loc[list(self.categories)]
        counted = {"all boxes": "boxes", "images": "images", "images without objects": "without_objects"}
        rows = [[self.splits[split][key] for split in SPLITS] for key in counted.values()]
        # Rows of their own: a category may be called "images".
        return pd.concat([table, pd.DataFrame(rows, index=list(counted), columns=table.columns)]).astype(int)

    def sources(self) -> pd.DataFrame:
        """Return pictures by source and by what they are labelled for (rows), and split (columns)."""
        import pandas as pd

        rows = pd.DataFrame(self.pictures)
        table = rows.pivot_table(
            "pictures", ["source", "labelled for"], "split", aggfunc="sum", fill_value=0, sort=False
        )
        return table.reindex(columns=SPLITS, fill_value=0).rename_axis(columns=None).astype(int)

    def defect_counts(self) -> pd.DataFrame:
        """Return how many defects there were, by reason and what was done."""
        import pandas as pd

        counts = Counter((defect.reason, defect.action) for defect in self.defects)
        rows = [(reason, action, count) for (reason, action), count in sorted(counts.items())]
        return pd.DataFrame(rows, columns=["reason", "action", "count"])

    @property
    def results(self) -> dict[str, Any]:
        """The numbers worth keeping in the manifest."""
        actions = Counter(defect.action for defect in self.defects)
        return {
            "categories": len(self.categories),
            "images": {split: self.splits[split]["images"] for split in SPLITS},
            "boxes": {split: self.splits[split]["boxes"] for split in SPLITS},
            "repaired": actions["repaired"],
            "left_out": actions["left out"],
            "kept": actions["kept"],
            "trained_on": self.splits["train"]["trained_on"],
            **self.source,
        }


def convert(study: Study) -> DatasetSummary:
    """Read or generate the experiment's data set and write ``dataset/`` of the study, ``dataset.json`` last.

    What is ambiguous, and what was left out or repaired, is reported. ``defects.json`` is written in any case.

    Raises:
        DatasetError: there is no data set, nothing in it can be used, or it has defects and
            ``dataset.strict`` is set.
    """
    try:
        return _convert(study)
    except DatasetError as error:
        if error.defects:
            path = write_json(study.path("dataset", DEFECTS), defect_rows(error.defects))
            error.args = (f"{error}\nAll of them: {path}",)
        raise


def _convert(study: Study) -> DatasetSummary:
    spec = study.experiment.dataset
    raw = _from_sources(study) if spec.folders else _from_root(study)
    try:
        source = _source(raw, spec)
        train, scale = source.splits["train"], study.experiment.input.scale
        source.hints += small_at_input(train, scale, study.experiment.features.minimum_size)
        refuse_unknown(study.experiment.teachers, train)
    except ValueError as error:  # of the splits, which know no defects
        raise DatasetError(str(error), raw.reading.defects) from error
    source.hints = [*raw.remarks, *source.hints]
    source.notes |= raw.notes
    if spec.format != "shapes":
        source.notes["hints"] = source.hints
    for hint in source.hints:
        tell(hint)
    if spec.strict:
        refuse_defects(source.defects)
    summary = _write(study, source, raw.reading.files)
    data = Dataset.read(study.root)
    tell("\n".join(filter(None, map(data.measured_on, ("val", "test")))))
    if source.defects:
        tell("\n".join([losses(summary.results, study.path("dataset", DEFECTS)), *grouped(source.defects)]))
    return summary


Divided = tuple[dict[str, dict[str, Any]], dict[str, Any]]


@dataclass
class RawData:
    """The pictures and labels of a study as they came, from one folder or several.

    Attributes:
        reading: all that was read.
        image_root: folder that names of pictures are relative to, as `dataset.json` has it.
        copies: picture -> the first one with the same bytes, see `same_content`.
        divide: given a picture's name -> what it is a copy of, returns the documents of the splits, and how they came
            about.
        notes: what the folders were taken for, for ``dataset.json``.
        remarks: the same in sentences.
    """

    reading: Reading
    image_root: str
    copies: dict[str, str]
    divide: Callable[[Mapping[str, str]], Divided]
    notes: dict[str, Any]
    remarks: list[str] = field(default_factory=list)


def _from_root(study: Study) -> RawData:
    """Read the one folder that `dataset.root` names, or the scenes that are generated."""
    spec = study.experiment.dataset
    if spec.format == "shapes":
        root, image_root = _generate(study), "dataset/source"
        layout = find_layout(root, "voc")
    else:
        root = _named_root(study)
        image_root = str(root.resolve())
        layout = find_layout(root, spec.format)
        study.note(*layout_inputs(layout))
    names = CategoryNames(spec.categories, spec.aliases)
    limit = None if spec.pictures else spec.limit  # of those that are listed
    reading = read_layout(root, layout, names, offset=spec.voc_offset, limit=limit, seed=spec.seed)
    if spec.pictures is not None:
        listed = study.experiment.find("dataset.pictures", spec.pictures)
        study.note(listed)
        _keep_listed(reading, listed, root)
    copies = same_content(root, _file_names(reading))
    raw = RawData(
        reading,
        image_root,
        copies,
        lambda together: divided(reading, root, spec.split, spec.seed, together),
        {"format": spec.format},
    )
    if spec.format != "shapes":
        raw.notes = {"format": layout.format, "layout": layout.title}
        raw.remarks = [_read_as(layout, reading), *layout.remarks]
    return raw


def _from_sources(study: Study) -> RawData:
    """Read several folders, each labelled for its own categories."""
    spec = study.experiment.dataset
    root, found, copies, categories = collect(study)
    whole = Reading({}, defects=[defect for each in found for defect in each.reading.defects])
    whole.hints = [hint for each in found for hint in each.reading.hints]
    whole.files = [file for each in found for file in each.reading.files]
    notes = {
        "format": "sources",
        SOURCES: {each.spec.name: [name for name in categories if name in each.labelled] for each in found},
        "read": {
            each.spec.name: each.reading.notes | {"format": each.layout.format, "layout": each.layout.title}
            for each in found
        },
    }
    whole.documents = {
        f"{each.spec.name}/{split}": document for each in found for split, document in each.reading.documents.items()
    }

    def divide(together: Mapping[str, str]) -> Divided:
        parts = [divided(each.reading, root, shares_of(spec, each, found), spec.seed, together) for each in found]
        splits = {each.spec.name: notes["split"] for each, (_, notes) in zip(found, parts, strict=True)}
        return joined([documents for documents, _ in parts]), {"split": splits, "seed": spec.seed}

    remarks = [f"{each.spec.name}: {_read_as(each.layout, each.reading)}" for each in found]
    return RawData(whole, str(root), copies, divide, notes, remarks)


def shares_of(spec: DatasetSpec, source: Collected, found: Sequence[Collected]) -> Shares | None:
    """Return the shares of train, val and test of a source: pictures without labels are trained on alone."""
    others = any(each.labelled for each in found)
    if source.spec.split is None and not source.labelled and others:
        return (1, 0, 0)
    return source.spec.split or spec.split


def _file_names(reading: Reading) -> list[str]:
    return [image["file_name"] for document in reading.documents.values() for image in document["images"]]


def _keep_listed(reading: Reading, listed: Path, root: Path) -> None:
    """Leave out of what was read the pictures that a file does not list, in place.

    Raises:
        DatasetError: the file lists none, or pictures that cannot be used or are not there.
    """
    names = {line.strip() for line in listed.read_text(encoding="utf-8").splitlines()} - {""}
    if not names:
        raise DatasetError(f"dataset.pictures: {listed} lists no picture")
    stems = {name: Path(name).stem for name in _file_names(reading)}
    if absent := sorted(names - set(stems.values())):
        raise DatasetError(
            f"dataset.pictures: {root} lacks {len(absent)} of the {len(names)} pictures that {listed} lists, or they "
            f"cannot be used: {', '.join(absent[:5])}{', ...' if len(absent) > 5 else ''}",
            reading.defects,
        )
    kept = {file_name for file_name, stem in stems.items() if stem in names}
    reading.documents = {split: keep_images(document, kept) for split, document in reading.documents.items()}
    of_others = len(stems) - len(kept)
    if of_others:
        reading.hints.append(f"{of_others} pictures that {listed.name} does not list are left out")


def _read_as(layout: Layout, reading: Reading) -> str:
    """Return in a sentence what the folder was taken for, and how many pictures of each split it gave."""
    names = {part.split: part.name for part in layout.parts}
    found = sorted(reading.documents.items(), key=lambda each: (*SPLITS, "").index(each[0]))
    counts = {split: len(document["images"]) for split, document in found}
    if len(counts) == 1:
        parts = f" ({', '.join(part.name for part in layout.parts)})" if len(layout.parts) > 1 else ""
        return f"read as {layout.title}{parts}: {sum(counts.values())} pictures"
    return f"read as {layout.title}: {', '.join(f'{names[split]} {count}' for split, count in counts.items())}"


def repeats_val(study: Study) -> bool:
    """Whether the test split that the stage wrote is the validation split once more."""
    val, test = (study.path("dataset", f"{split}.json") for split in ("val", "test"))
    return val.is_file() and test.is_file() and filecmp.cmp(val, test, shallow=False)


def _named_root(study: Study) -> Path:
    """Return the folder that ``dataset.root`` names, as named (it may be a symbolic link), downloaded first if need be.

    Raises:
        DatasetError: no folder is named, or it is not there.
    """
    from mutineck.study.experiment_file import places

    spec = study.experiment.dataset
    named = spec.root or f"data/{spec.format}"
    published = spec.format in ("voc", "coco")
    looked_at = places(named, study.experiment.relative_to)
    root = next((path for path in looked_at if path.is_dir()), looked_at[-1])
    if spec.download:
        if not published:
            raise DatasetError(
                f"dataset.download: there is nothing to fetch for dataset.format={spec.format}: voc or coco"
            )
        from mutineck.system.download import download_dataset

        return download_dataset(spec.format, root)
    if root.is_dir():
        return root
    what = f"{named} is no folder" if spec.root else "no folder is named"
    get = f", or get the published data with `mutineck download {spec.format} --to PATH`" if published else ""
    where = " and ".join(map(str, looked_at))
    raise DatasetError(f"dataset.root: {what} (looked for {where}). Name one with --set dataset.root=PATH{get}")


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


def _source(raw: RawData, spec: DatasetSpec) -> Source:
    """Divide what is not divided yet, and say which pictures are there twice."""
    reading, copies = raw.reading, raw.copies
    read = reading.read()
    marked = marked_hint(reading.documents.values(), spec.crowd)
    if spec.crowd == "objects":
        for item in (item for document in reading.documents.values() for item in document["annotations"]):
            item["iscrowd"] = 0
    together = {name: photograph(copies.get(name, name)) for name in _file_names(reading)}
    documents, notes = raw.divide(together)
    documents.setdefault("test", documents["val"])
    if spec.limit is not None:
        limited = {id(each): _limited(each, spec.limit, spec.seed) for each in documents.values()}
        documents = {split: limited[id(each)] for split, each in documents.items()}
    train, hints = documents["train"], []
    if empty := _count(train)["without_objects"]:
        kept = "trained on as background" if spec.negatives else "left out, as dataset.negatives says"
        hints.append(f"{empty} of {len(train['images'])} pictures of train hold no object: {kept}")
    if not spec.negatives:
        documents["train"] = with_objects(train)
    defects, repeated = find_repeats(documents, copies)
    hints += repeated
    defects += boxes_under_a_pixel(documents["train"])
    if documents["test"] is documents["val"]:
        hints.append(f"{TEST_IS_VAL}; what is reported on test was chosen on it")
    categories = [category["name"] for category in documents["train"]["categories"]]
    hints += reading.hints + marked + _never_shown(documents["train"]) + lookalikes(categories)
    hidden: dict[str, dict[str, Any]] = {}
    if spec.hide:
        for split in spec.hide.splits:
            documents[split], hidden[split] = hide_labels(documents[split], spec.hide, together)
        notes = notes | {SOURCES: labelled_for(spec.hide, categories)}
    counts = {"read": read, "found": dict(reading.found)}
    return Source(raw.image_root, documents, reading.defects + defects, hints, counts, reading.notes | notes, hidden)


def _never_shown(train: Mapping[str, Any]) -> list[str]:
    """Return a sentence about the categories that a training never sees, if there are any."""
    there = {item["category_id"] for item in train["annotations"] if not item["iscrowd"]}
    absent = [row["name"] for row in train["categories"] if row["id"] not in there]
    total = len(train["categories"])
    few = f"{', '.join(absent[:MOST_NAMED])}{', ...' if absent[MOST_NAMED:] else ''}"
    return [f"{len(absent)} of {total} categories have no object in train: {few}"] if absent else []


def _limited(document: dict[str, Any], limit: int, seed: int) -> dict[str, Any]:
    chosen = set(first_by_hash([image["file_name"] for image in document["images"]], limit, seed))
    return keep_images(document, chosen)


def _write(study: Study, source: Source, reads: list[Path]) -> DatasetSummary:
    folder = study.path("dataset")
    splits = {split: _count(document) for split, document in source.splits.items()}
    splits["train"]["trained_on"] = trained_on(source.splits["train"])
    for split, counts in splits.items():
        unlabelled = not any(counts.get(LABELLED_PICTURES, {"": 1}).values())
        if not counts["images"] or not (counts.get("trained_on", counts)["boxes"] or unlabelled):
            marked = (
                f" (all {counts['crowd']} objects are difficult, in VOC, or iscrowd or ignore, in COCO, and those are "
                "neither learned nor counted. To take them as any other, --set dataset.crowd=objects)"
            )
            raise DatasetError(
                f"{source.image_root}: the {split} split has {counts['images']} usable images and {counts['boxes']} "
                f"boxes{marked if counts['crowd'] else ''}; nothing can be trained or measured on it",
                source.defects,
            )
    writes = [write_json(folder / f"{split}.json", source.splits[split], indent=None) for split in SPLITS]
    writes.append(write_json(folder / DEFECTS, defect_rows(source.defects)))
    for split in SPLITS:
        (folder / HIDDEN.format(split)).unlink(missing_ok=True)
    writes += [
        write_json(folder / HIDDEN.format(split), document, indent=None) for split, document in source.hidden.items()
    ]
    masks = [("segmentation" in item) for document in source.splits.values() for item in document["annotations"]]
    categories = tuple(category["name"] for category in source.splits["train"]["categories"])
    made = Dataset(
        categories,
        study.root / source.image_root,
        masks="all" if all(masks) else "some" if any(masks) else "none",
        splits=splits,
        source={"defects": len(source.defects)} | source.notes,
        content=content_of(source, folder, study.root / source.image_root),
    )
    writes.append(made.write(study.root))
    pictures = [row for split, document in source.splits.items() for row in _pictures(split, document)]
    return DatasetSummary(categories, splits, source.defects, source.counts, pictures, reads, writes)


def content_of(source: Source, folder: Path, root: Path) -> dict[str, str]:
    """Return a hash for each split: of its annotations as written in a folder, and of its pictures below a root.

    Labels that are hidden in a split have one of their own.
    """
    documents = source.splits
    names = dict.fromkeys(image["file_name"] for document in documents.values() for image in document["images"])
    pictures = {name: sha256_file(root / name) for name in tqdm(names, desc="hashing", unit="file", disable=None)}
    return {
        split: sha256_json(
            [sha256_file(folder / f"{split}.json"), [pictures[image["file_name"]] for image in document["images"]]]
        )
        for split, document in documents.items()
    } | {f"hidden {split}": sha256_file(folder / HIDDEN.format(split)) for split in source.hidden}


def _pictures(split: str, document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a row for each kind of picture of a split: its source, what it is labelled for, how many there are."""
    names = {category["id"]: category["name"] for category in document["categories"]}
    labelled = labelled_categories(document)
    kinds = Counter((", ".join(image.get(SOURCES, ["–"])), labelled[image["id"]]) for image in document["images"])
    for (source, ids), count in kinds.items():
        said = [name for number, name in names.items() if number in ids]
        words = "everything" if len(said) == len(names) else ", ".join(said) or "nothing"
        yield {"source": source, "labelled for": words, "split": split, "pictures": count}


def _count(document: Mapping[str, Any]) -> dict[str, Any]:
    """Count a COCO document: images, boxes without crowd regions, crowd regions, boxes by category."""
    names = {category["id"]: category["name"] for category in document["categories"]}
    per_category = dict.fromkeys(names.values(), 0)
    crowd = 0
    for item in document["annotations"]:
        if item["iscrowd"]:
            crowd += 1
        else:
            per_category[names[item["category_id"]]] += 1
    labelled = {} if is_complete(document) else {LABELLED_PICTURES: pictures_labelled(document)}
    return {
        "images": len(document["images"]),
        "without_objects": len(without_objects(document)),
        "boxes": sum(per_category.values()),
        "crowd": crowd,
        "per_category": per_category,
        **labelled,
    }
