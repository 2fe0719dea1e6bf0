"""Which categories a picture is labelled for."""

from __future__ import annotations

from mutineck.detection.labelled import is_complete, labelled_categories, of_labelled, pictures_labelled

CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]


def document(*labelled: list[int] | None) -> dict:
    images = [
        {"id": n} | ({} if ids is None else {"labelled_category_ids": ids}) for n, ids in enumerate(labelled, start=1)
    ]
    return {"images": images, "categories": CATEGORIES, "annotations": []}


def test_without_the_field_a_picture_is_labelled_for_every_category() -> None:
    partly = document(None, [3], [])
    assert labelled_categories(partly) == {1: frozenset({3, 7}), 2: frozenset({3}), 3: frozenset()}
    assert list(pictures_labelled(partly).items()) == [("dog", 1), ("cat", 2)]
    assert not is_complete(partly) and is_complete(document(None, [7, 3])) and is_complete(document())


def test_what_is_unknown_in_a_picture_is_left_out() -> None:
    rows = [{"image_id": image, "category_id": category} for image in (1, 2, 3) for category in (3, 7)]
    kept = of_labelled(rows, labelled_categories(document(None, [3], [])))
    assert [(row["image_id"], row["category_id"]) for row in kept] == [(1, 3), (1, 7), (2, 3)]
