"""What a training can use of its split, and what the network's input leaves of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from mutineck.dataset.coco import keep_images
from mutineck.dataset.records import KEPT, DatasetError, Defect
from mutineck.detection.labelled import labelled_categories
from mutineck.study.stage import Study
from mutineck.system.files import read_json

SMALLEST_SIDE = 1.0
"""Pixels: mmdet's data set passes over boxes with a shorter side, whose targets would be all but points."""
UNDER_A_PIXEL = "box under a pixel"
FEW = 0.1
"""Share of boxes that may be too small for the network's input without a word."""
FLAT = 32
"""Pixels: a picture that the input makes lower or narrower than this has not one cell of the coarsest levels."""
STEP = 32
"""A suggested `input.scale` is a multiple of it."""
LARGEST_SIDE = 4096
"""No larger `input.scale` is suggested."""
MOST_NAMED = 5


def is_trained_on(item: Mapping[str, Any]) -> bool:
    """Whether a training learns the box of an annotation: it is no crowd region, and large enough for mmdet."""
    return not item["iscrowd"] and min(item["bbox"][2:]) >= SMALLEST_SIDE


def boxes_under_a_pixel(document: Mapping[str, Any]) -> Iterator[Defect]:
    """Yield a defect for each box of a training split that no training uses; it stays, as measuring counts it."""
    files = {image["id"]: image["file_name"] for image in document["images"]}
    for item in document["annotations"]:
        if not item["iscrowd"] and not is_trained_on(item):
            detail = f"{item['bbox']}: no training uses it"
            yield Defect(files[item["image_id"]], f"annotation {item['id']}.bbox", UNDER_A_PIXEL, KEPT, detail)


def with_objects(document: dict[str, Any]) -> dict[str, Any]:
    """Return the document without the pictures that are known to hold no object."""
    return keep_images(document, {image["id"] for image in document["images"]} - without_objects(document), "id")


def without_objects(document: Mapping[str, Any]) -> set[int]:
    """Return the ids of the pictures that hold no object and are labelled for every category."""
    labelled = labelled_categories(document)
    most = {category["id"] for category in document["categories"]}
    return {number for number, ids in labelled.items() if ids >= most} - {
        a["image_id"] for a in document["annotations"]
    }


def trained_on(document: Mapping[str, Any]) -> dict[str, int]:
    """Return how many `images` and `boxes` of a training split a training uses: all of its pictures."""
    return {"images": len(document["images"]), "boxes": sum(map(is_trained_on, document["annotations"]))}


def sides_at_input(document: Mapping[str, Any], scale: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the shorter sides, in pixels of the network's input, of pictures and of boxes.

    Args:
        document: COCO document.
        scale: `input.scale`; pictures are resized to fit into it, or into it turned.

    Returns:
        Of the pictures `(N,)`, and of the boxes that are trained on `(M,)`, in the document's order.
    """
    sizes = np.array([(image["width"], image["height"]) for image in document["images"]], float).reshape(-1, 2)
    factor = np.minimum(max(scale) / sizes.max(axis=1), min(scale) / sizes.min(axis=1))
    resized = (sizes * factor[:, None] + 0.5).astype(int)
    place = {image["id"]: index for index, image in enumerate(document["images"])}
    items = [item for item in document["annotations"] if is_trained_on(item)]
    pictures = [place[item["image_id"]] for item in items]
    sides = np.array([item["bbox"][2:] for item in items], float).reshape(-1, 2)
    return resized.min(axis=1), (sides * (resized / sizes)[pictures]).min(axis=1)


def small_at_input(document: Mapping[str, Any], scale: tuple[int, int], minimum: float) -> list[str]:
    """Return a sentence for each thing that gets lost in the network's input, with the setting to type; often none.

    Args:
        document: the training split.
        scale: `input.scale`.
        minimum: `features.minimum_size`; boxes with a shorter side give no vector.

    Raises:
        DatasetError: every box is too small.
    """
    pictures, boxes = sides_at_input(document, scale)
    said = []
    if flat := int((pictures < FLAT).sum()):
        worst = document["images"][int(pictures.argmin())]
        said.append(
            f"{flat} of {len(pictures)} pictures of train are under {FLAT} pixels high or wide in the network's input, "
            f"such as {worst['file_name']} ({worst['width']}x{worst['height']}, then {pictures.min()}): they are very "
            f"elongated for input.scale={[*scale]}; cut them into parts, or set a larger one"
        )
    small = boxes < minimum
    lost = _lost_categories(document, small)
    if len(boxes) and (small.mean() > FEW or lost):
        named = f" ({'; '.join(lost[:MOST_NAMED])}{'; ...' if lost[MOST_NAMED:] else ''})" if lost else ""
        sentence = (
            f"{int(small.sum())} of {len(boxes)} boxes of train are under {minimum:g} pixels high or wide in the "
            f"network's input{named}: no vector is read of them, and such objects are hardly learned. "
            f"{_remedy(scale, boxes, minimum)}"
        )
        if small.all():
            raise DatasetError(f"{sentence}. --set features.minimum_size=NUMBER reads smaller ones, too")
        said.append(sentence)
    return said


def refuse_small(study: Study) -> None:
    """Refuse to train on boxes that are all too small for a vector; settings may have changed since the dataset stage.

    Raises:
        DatasetError: see `small_at_input`.
    """
    document = read_json(study.need("dataset", "train.json"))
    small_at_input(document, study.experiment.input.scale, study.experiment.features.minimum_size)


def _lost_categories(document: Mapping[str, Any], small: np.ndarray) -> list[str]:
    """Return the categories of which most boxes are too small, as `name 3 of 4`, the worst first."""
    items = [item for item in document["annotations"] if is_trained_on(item)]
    labels = np.array([item["category_id"] for item in items])
    found = []
    for category in document["categories"]:
        own = small[labels == category["id"]]
        if len(own) and own.mean() > 0.5:
            found.append((-own.mean(), f"{category['name']} {int(own.sum())} of {len(own)}"))
    return [words for _, words in sorted(found)]


def _remedy(scale: tuple[int, int], boxes: np.ndarray, minimum: float) -> str:
    """Return the scale at which nine of ten boxes are large enough, as it is typed, if there is a sensible one."""
    factor = minimum / float(np.quantile(boxes, FEW))
    sides = [int(np.ceil(side * factor / STEP)) * STEP for side in scale]
    if max(sides) > LARGEST_SIDE:
        return "Cut the pictures into parts"
    return f"Nine of ten boxes are larger with --set input.scale=[{sides[0]},{sides[1]}]"
