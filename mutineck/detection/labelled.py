"""Which categories a picture is labelled for: in the others it is unknown, neither object nor background.

LVIS's federated annotation (Gupta, Dollar and Girshick, "LVIS: A Dataset for Large Vocabulary Instance Segmentation",
CVPR 2019) in one field of COCO's image records: `labelled_category_ids` holds LVIS's positive and negative categories
together. A record without the field is labelled for all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

LABELLED = "labelled_category_ids"
"""Field of a COCO image record: ids of the categories that the picture is labelled for; absent, of all."""


def labelled_categories(document: Mapping[str, Any]) -> dict[int, frozenset[int]]:
    """Return image id -> ids of the categories that the picture is labelled for.

    Args:
        document: COCO's, with `images` and `categories`.
    """
    everything = frozenset(category["id"] for category in document["categories"])
    return {
        image["id"]: frozenset(image[LABELLED]) if LABELLED in image else everything for image in document["images"]
    }


def is_complete(document: Mapping[str, Any]) -> bool:
    """Whether every picture of a COCO document is labelled for every category."""
    everything = {category["id"] for category in document["categories"]}
    return all(everything <= found for found in labelled_categories(document).values())


def pictures_labelled(document: Mapping[str, Any]) -> dict[str, int]:
    """Return category name -> number of pictures that are labelled for it, in the document's order."""
    found = labelled_categories(document).values()
    return {row["name"]: sum(row["id"] in ids for ids in found) for row in document["categories"]}


def of_labelled(rows: Iterable[dict[str, Any]], labelled: Mapping[int, frozenset[int]]) -> list[dict[str, Any]]:
    """Return the annotations or detections whose category their picture is labelled for.

    Args:
        rows: with `image_id` and `category_id`.
        labelled: as `labelled_categories` returns it.
    """
    return [row for row in rows if row["category_id"] in labelled[row["image_id"]]]


def on_labelled_pictures(
    document: Mapping[str, Any], predictions: Sequence[dict[str, Any]]
) -> Sequence[dict[str, Any]]:
    """Return the predictions that count. Where a picture has neither object nor prediction, pycocotools skips it.

    Raises:
        ValueError: an annotation of a category that its picture is not labelled for.
    """
    if is_complete(document):
        return predictions
    labelled = labelled_categories(document)
    if stray := [a for a in document["annotations"] if a["category_id"] not in labelled[a["image_id"]]]:
        raise ValueError(
            f"annotation {stray[0]['id']}: image {stray[0]['image_id']} is not labelled for its category "
            f"{stray[0]['category_id']}: add the category to {LABELLED}, or take the annotation out"
        )
    return of_labelled(predictions, labelled)
