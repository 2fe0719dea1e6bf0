"""Teachers of a part of the training split: a source's (`teachers[].source`), or what one is shown (`sees`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import mmcv

from mutineck.dataset.coco import keep_images
from mutineck.detection.labelled import labelled_categories
from mutineck.study.dataset import SOURCES
from mutineck.study.experiment import INTERMEDIATE, SeesSpec
from mutineck.study.stage import Study
from mutineck.system.errors import ExperimentError
from mutineck.system.files import read_json, write_json

SUBSET = "train.json"
"""The part of the training split that a teacher is shown, in its folder; COCO's layout."""


def training_annotations(study: Study) -> Path:
    """Return the annotations that the teacher `study.item` learns from, and write them if they are but a part.

    Of a source, they are the pictures that are labelled for the teacher's categories. Thresholds of `sees` are medians
    over these, so that two teachers of the two sides share them out. A picture without any object left is then left
    out; crowd regions stay with their pictures. What an object teacher is not shown is background to it, as is a
    category that it does not know.

    Raises:
        ExperimentError: nothing is left.
    """
    whole = study.need("dataset", "train.json")
    spec = study.experiment.teacher(study.item or "")
    if spec.sees is None and spec.source is None:
        return whole
    content = read_json(whole)
    total = len(content["images"])
    said: dict[str, Any] = {}
    if spec.source is not None:
        content = of_source(content, spec.source, spec.categories or study.dataset.of_source(spec.source))
        said["source"] = spec.source
    if spec.sees is not None:
        content, found = _seen(study, content, spec.sees)
        said |= found
    if not content["images"]:
        where = f"source: {spec.source}" if spec.sees is None else f"sees: {_in_words(spec.sees)}"
        raise ExperimentError(f"teachers.{study.item}.{where}: no training picture is left for it")
    images, annotations = content["images"], content["annotations"]
    said |= {"pictures": len(images), "boxes": sum(not a.get("iscrowd") for a in annotations)}
    print(f"teacher {study.item!r} sees {said}, of {total} pictures")
    info = {**content.get("info", {}), "sees": said}
    return write_json(study.folder / SUBSET, content | {"info": info}, indent=None)


def of_source(content: Mapping[str, Any], source: str, categories: Sequence[str]) -> dict[str, Any]:
    """Return the part of a COCO document that is of a source and labelled for all of some categories, and these alone.

    Args:
        content: the document.
        source: the source's name.
        categories: names.
    """
    ids = {row["id"] for row in content["categories"] if row["name"] in categories}
    labelled = labelled_categories(content)
    chosen = {i["id"] for i in content["images"] if source in i.get(SOURCES, ()) and ids <= labelled[i["id"]]}
    kept = keep_images(content, chosen, "id")
    return kept | {"annotations": [a for a in kept["annotations"] if a["category_id"] in ids]}


def _seen(study: Study, content: Mapping[str, Any], sees: SeesSpec) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the part of a COCO document that a teacher is shown, and side and threshold of each condition."""
    images, annotations = content["images"], content["annotations"]
    said: dict[str, Any] = {}
    if sees.brightness is not None:
        values = {image["id"]: brightness(study.dataset.pictures / image["file_name"]) for image in images}
        middle = median(values.values())
        said["brightness"] = {"side": sees.brightness, "threshold": middle}
        images = [image for image in images if (values[image["id"]] < middle) == (sees.brightness == "dark")]
    if sees.area is not None:
        middle = median(a["area"] for a in annotations if not a.get("iscrowd"))
        said["area"] = {"side": sees.area, "threshold": middle}
        annotations = [a for a in annotations if a.get("iscrowd") or (a["area"] < middle) == (sees.area == "small")]
    with_objects = {a["image_id"] for a in annotations if not a.get("iscrowd")}
    shown = {image["id"] for image in images} & with_objects
    return keep_images({**content, "annotations": annotations}, shown, "id"), said


def shown_part(study: Study) -> dict[str, Any]:
    """Return `{"sees": ...}` of a teacher of a part: its source, sides and thresholds, its pictures and boxes.

    Empty for a teacher that saw all, and for the intermediate one.
    """
    if study.item == INTERMEDIATE:
        return {}
    spec = study.experiment.teacher(study.item or "")
    if spec.sees is None and spec.source is None:
        return {}
    return {"sees": read_json(study.need("teachers", str(study.item), SUBSET))["info"]["sees"]}


def brightness(picture: Path) -> float:
    """Return the mean of a picture's grey values, 0 to 255."""
    return float(mmcv.imread(str(picture), flag="grayscale").mean())


def _in_words(sees: SeesSpec) -> str:
    return ", ".join(f"{name}: {value}" for name, value in sees.model_dump(exclude_none=True).items())
