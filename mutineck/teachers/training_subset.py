"""Teachers of a part of the training split: the pictures or objects that one is shown (`teachers[].sees`)."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

import mmcv

from mutineck.study.experiment import INTERMEDIATE, SeesSpec
from mutineck.study.stage import Study
from mutineck.system.errors import ExperimentError
from mutineck.system.files import read_json, write_json

SUBSET = "train.json"
"""The part of the training split that a teacher is shown, in its folder; COCO's layout."""


def training_annotations(study: Study) -> Path:
    """Return the annotations that the teacher `study.item` learns from, and write them if it sees but a part.

    Thresholds are medians over the whole training split, so that two teachers of the two sides share it out. A picture
    without any object left is left out; crowd regions stay with their pictures. What an object teacher is not shown is
    background to it, as is a category that it does not know.

    Raises:
        ExperimentError: nothing is left.
    """
    whole = study.need("dataset", "train.json")
    sees = study.experiment.teacher(study.item or "").sees
    if sees is None:
        return whole
    content = read_json(whole)
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
    images = [image for image in images if image["id"] in with_objects]
    kept = {image["id"] for image in images}
    annotations = [a for a in annotations if a["image_id"] in kept]
    if not images:
        raise ExperimentError(f"teachers.{study.item}.sees: {_in_words(sees)}: no training picture is left for it")
    said |= {"pictures": len(images), "boxes": sum(not a.get("iscrowd") for a in annotations)}
    print(f"teacher {study.item!r} sees {said}, of {len(content['images'])} pictures")
    info = {**content.get("info", {}), "sees": said}
    return write_json(
        study.folder / SUBSET, content | {"info": info, "images": images, "annotations": annotations}, indent=None
    )


def shown_part(study: Study) -> dict[str, Any]:
    """Return `{"sees": ...}` of a teacher that was shown a part: side and threshold of each condition, pictures, boxes.

    Empty for a teacher that saw all, and for the intermediate one.
    """
    if study.item == INTERMEDIATE or study.experiment.teacher(study.item or "").sees is None:
        return {}
    return {"sees": read_json(study.need("teachers", str(study.item), SUBSET))["info"]["sees"]}


def brightness(picture: Path) -> float:
    """Return the mean of a picture's grey values, 0 to 255."""
    return float(mmcv.imread(str(picture), flag="grayscale").mean())


def _in_words(sees: SeesSpec) -> str:
    return ", ".join(f"{name}: {value}" for name, value in sees.model_dump(exclude_none=True).items())
