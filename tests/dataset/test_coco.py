from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mutineck.dataset.boxes import OUTSIDE, PARTLY_OUTSIDE
from mutineck.dataset.coco import (
    BAD_BOX,
    BAD_MASK,
    DUPLICATE,
    DUPLICATE_ID,
    MALFORMED,
    ORPHAN,
    UNKNOWN_CATEGORY,
    UNUSABLE_ID,
    fit_to_images,
    read_coco,
)
from mutineck.dataset.records import CategoryNames, DatasetError


def document(**changes: Any) -> dict[str, Any]:
    """A sound document: category ids with gaps, a polygon, and a crowd region in run lengths."""
    return {
        "images": [
            {"id": 9, "file_name": "a.jpg", "width": 40, "height": 30},
            {"id": 12, "file_name": "b.jpg", "width": 20, "height": 10},
        ],
        "annotations": [
            {
                "id": 100,
                "image_id": 9,
                "category_id": 18,
                "bbox": [1, 2, 10, 12],
                "area": 90.5,
                "iscrowd": 0,
                "segmentation": [[1, 2, 11, 2, 11, 14]],
            },
            {
                "id": 7,
                "image_id": 12,
                "category_id": 90,
                "bbox": [0, 0, 20, 10],
                "area": 50,
                "iscrowd": 1,
                "segmentation": {"size": [10, 20], "counts": [150, 50]},
            },
        ],
        "categories": [
            {"id": 90, "name": "toothbrush", "supercategory": "indoor"},
            {"id": 18, "name": "dog"},
        ],
    } | changes


def read(data: Any, names: CategoryNames | None = None):
    return read_coco(json.dumps(data), "annotations/x.json", names)


def one(**changes: Any) -> dict[str, Any]:
    """A document whose first annotation is changed."""
    data = document()
    data["annotations"][0] |= changes
    return data


def test_a_sound_document_stays_as_it_is():
    data = document()
    result, defects = read(data)
    assert defects == [] and fit_to_images(result, "x") == []
    assert result["images"] == data["images"]
    assert result["annotations"] == data["annotations"]
    assert result["categories"] == [{"id": 90, "name": "toothbrush"}, {"id": 18, "name": "dog"}]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        pytest.param("", "not valid JSON", id="empty"),
        pytest.param(b"\xff\xfe\xfa", "not valid JSON", id="bytes"),
        pytest.param('{"images": [', "not valid JSON", id="cut short"),
        pytest.param("[" * 100000, "not valid JSON", id="nested without end"),
        pytest.param("[]", "got list", id="a list (results, not annotations)"),
        pytest.param(json.dumps({"images": []}), "annotations", id="key missing"),
        pytest.param(json.dumps(document(images={})), "images", id="images is no list"),
        pytest.param(json.dumps(document(categories=[])), "none is left", id="no category"),
        pytest.param(json.dumps(document(categories=[{"id": 1}])), r"categories\[0\]", id="category without a name"),
        pytest.param(
            json.dumps(document(categories=[{"id": 1, "name": "a"}, {"id": 1, "name": "b"}])),
            "id of 'a'",
            id="category id twice",
        ),
    ],
)
def test_what_is_no_coco_document_is_refused_by_name(content, match):
    with pytest.raises(DatasetError, match=match) as caught:
        read_coco(content, "annotations/x.json")
    assert str(caught.value).startswith("annotations/x.json")


@pytest.mark.parametrize(
    ("data", "field", "reason", "action"),
    [
        pytest.param(one(image_id=1), "annotations[0].image_id", ORPHAN, "left out", id="orphan"),
        pytest.param(one(category_id=1), "annotations[0].category_id", UNKNOWN_CATEGORY, "left out", id="category gap"),
        pytest.param(one(bbox=[1, 2, -3, 4]), "annotations[0].bbox", BAD_BOX, "left out", id="negative width"),
        pytest.param(one(bbox=[1, 2, math.nan, 4]), "annotations[0].bbox", BAD_BOX, "left out", id="NaN"),
        pytest.param(one(bbox=[1, 2, math.inf, 4]), "annotations[0].bbox", BAD_BOX, "left out", id="infinite"),
        pytest.param(one(bbox=[1, 2, 3]), "annotations[0].bbox", BAD_BOX, "left out", id="three numbers"),
        pytest.param(one(id=7), "annotations[1].id", DUPLICATE_ID, "repaired", id="annotation id twice"),
        pytest.param(one(id=None), "annotations[0].id", UNUSABLE_ID, "repaired", id="no annotation id"),
        pytest.param(one(id=1 << 60), "annotations[0].id", UNUSABLE_ID, "repaired", id="annotation id too large"),
        pytest.param(one(image_id=1 << 70), "annotations[0].image_id", ORPHAN, "left out", id="image id too large"),
        pytest.param(one(iscrowd="yes"), "annotations[0].iscrowd", MALFORMED, "repaired", id="crowd is a word"),
        pytest.param(document(annotations=[5]), "annotations[0]", MALFORMED, "left out", id="annotation is a number"),
    ],
)
def test_broken_annotations(data, field, reason, action):
    result, defects = read(data)
    assert [(item.file, item.field, item.reason, item.action) for item in defects] == [
        ("annotations/x.json", field, reason, action)
    ]
    ids = [item["id"] for item in result["annotations"]]
    assert len(ids) == len(set(ids)) == len(data["annotations"]) - (action == "left out")


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        pytest.param({"id": 9, "file_name": "c.jpg", "width": 1, "height": 1}, DUPLICATE_ID, id="id twice"),
        pytest.param({"id": 3, "file_name": "a.jpg", "width": 1, "height": 1}, DUPLICATE, id="file twice"),
        pytest.param({"id": 3, "file_name": "\ud800.jpg"}, MALFORMED, id="lone surrogate"),
        pytest.param({"id": 3}, MALFORMED, id="no file name"),
        pytest.param({"file_name": "c.jpg"}, MALFORMED, id="no id"),
        pytest.param({"id": True, "file_name": "c.jpg"}, MALFORMED, id="id is a truth value"),
        pytest.param({"id": 1 << 60, "file_name": "c.jpg"}, MALFORMED, id="id too large"),
        pytest.param("c.jpg", MALFORMED, id="a word"),
    ],
)
def test_broken_images_are_left_out(image, reason):
    data = document()
    data["images"].append(image)
    result, defects = read(data)
    assert len(result["images"]) == 2
    assert [(item.reason, item.action) for item in defects] == [(reason, "left out")]


def test_the_same_annotation_twice_counts_once():
    data = document()
    data["annotations"].append(dict(data["annotations"][0]))
    result, defects = read(data)
    assert [item["id"] for item in result["annotations"]] == [100, 7]
    assert [(item.reason, item.action) for item in defects] == [(DUPLICATE_ID, "left out")]


def test_an_object_with_id_0_can_be_hit():
    """COCO's evaluation takes a match with annotation 0 for none, which would cost the detector that object."""
    result, _ = read(one(id=0))
    assert [item["id"] for item in result["annotations"]] == [1, 7]


def test_two_categories_of_one_name_are_one():
    data = document()
    data["categories"].append({"id": 91, "name": " dog"})
    data["annotations"][1]["category_id"] = 91
    result, defects = read(data)
    assert [item["category_id"] for item in result["annotations"]] == [18, 18]
    assert [(item.field, item.reason, item.action) for item in defects] == [
        ("categories[2].name", DUPLICATE, "repaired")
    ]


def test_unknown_sizes_are_zero_until_the_picture_is_seen():
    data = document()
    data["images"][0] |= {"width": None, "height": -4}
    result, _ = read(data)
    assert (result["images"][0]["width"], result["images"][0]["height"]) == (0, 0)


def test_categories_are_chosen_ordered_and_renamed():
    result, defects = read(document(), CategoryNames(("brush",), {"toothbrush": "brush"}))
    assert result["categories"] == [{"id": 90, "name": "brush"}]
    assert [item["id"] for item in result["annotations"]] == [7] and defects == []
    result, _ = read(document(), CategoryNames(("dog", "toothbrush")))
    assert [item["id"] for item in result["categories"]] == [18, 90]
    result, _ = read(document(), CategoryNames(None, {"toothbrush": "thing", "dog": "thing"}))
    assert {item["category_id"] for item in result["annotations"]} == {90}
    with pytest.raises(DatasetError, match="'cat' is not among its categories: dog, toothbrush"):
        read(document(), CategoryNames(("cat",)))


@pytest.mark.parametrize(
    ("changes", "kept", "found"),
    [
        pytest.param({"bbox": [30, 2, 10.6, 12]}, {"bbox": [30, 2, 10.6, 12]}, [], id="a fraction over the border"),
        pytest.param(
            {"bbox": [30, 2, 20, 12]}, {"bbox": [30, 2, 10, 12]}, [(PARTLY_OUTSIDE, "repaired")], id="over it"
        ),
        pytest.param({"bbox": [50, 2, 20, 12]}, None, [(OUTSIDE, "left out")], id="outside"),
        pytest.param({"area": None}, {"area": 120}, [], id="no area"),
        pytest.param({"area": -5}, {"area": 120}, [(MALFORMED, "repaired")], id="negative area"),
        pytest.param({"area": 0}, {"area": 120}, [(MALFORMED, "repaired")], id="no area, mmdet would skip it"),
        pytest.param({"segmentation": [[1, 2, 3, 4]]}, {}, [(BAD_MASK, "left out")], id="polygon of two points"),
        pytest.param({"segmentation": {"size": [3, 4], "counts": [12]}}, {}, [(BAD_MASK, "left out")], id="RLE size"),
    ],
)
def test_annotations_are_fitted_to_their_image(changes, kept, found):
    result, _ = read(one(**changes))
    defects = fit_to_images(result, "x.json")
    assert [(item.reason, item.action) for item in defects] == found
    first = [item for item in result["annotations"] if item["id"] == 100]
    assert bool(first) == (kept is not None)
    if first:
        assert first[0] | (kept or {}) == first[0]
        assert ("segmentation" in first[0]) == (BAD_MASK not in {reason for reason, _ in found})


@pytest.mark.slow
def test_a_file_of_200_mb_is_read_whole():
    """As many annotations as 200 MB hold, one of them broken: read in time and memory that grow with the file alone."""
    count = 200_000
    row = (
        '{"id": %d, "image_id": 9, "category_id": 18, "bbox": [1, 2, 10, %s], "area": 90.5, "note": "'
        + "x" * 960
        + '"}'
    )
    rows = ", ".join(row % (number, "NaN" if number == count else 12) for number in range(1, 1 + count))
    content = json.dumps(document()).partition('"annotations": [')
    content = f'{content[0]}"annotations": [{rows}], "categories": [{{"id": 18, "name": "dog"}}]}}'
    assert len(content) > 200_000_000
    result, defects = read_coco(content, "annotations/x.json")
    assert len(result["annotations"]) == count - 1
    assert [(item.field, item.reason) for item in defects] == [(f"annotations[{count - 1}].bbox", BAD_BOX)]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 200) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(
    images=st.lists(
        JSON | st.fixed_dictionaries({"id": JSON, "file_name": JSON, "width": JSON, "height": JSON}),
        max_size=2,
    ),
    annotations=st.lists(
        JSON
        | st.fixed_dictionaries(
            {
                "id": JSON,
                "image_id": st.sampled_from((9, 12)),
                "category_id": st.sampled_from((18, 90)),
                "bbox": st.lists(st.floats() | st.integers(-9, 50), min_size=4, max_size=4) | JSON,
            },
            optional={"segmentation": JSON, "area": JSON, "iscrowd": JSON},
        ),
        max_size=3,
    ),
)
def test_no_json_makes_the_reader_fail(images, annotations):
    data = document()
    data["images"] += images
    data["annotations"] += annotations
    result, _ = read(data)
    result["images"] = [image | {"width": 40, "height": 30} for image in result["images"]]
    fit_to_images(result, "x")
    json.dumps(result, allow_nan=False).encode("utf-8")
    ids = [item["id"] for item in result["annotations"]]
    assert len(ids) == len(set(ids))
    assert all(item["bbox"][2] > 0 and item["bbox"][3] > 0 for item in result["annotations"])
