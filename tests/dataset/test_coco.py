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
    DUPLICATE,
    DUPLICATE_ID,
    MALFORMED,
    ORPHAN,
    TEXT,
    UNKNOWN_CATEGORY,
    UNUSABLE_ID,
    CocoReader,
    read_coco,
    unused_root,
)
from mutineck.dataset.coco_fit import BAD_MASK, SHARES, fit_to_images
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


def text_of(data: Any) -> Any:
    """Return a document with all its numbers as text."""
    if isinstance(data, dict):
        return {key: text_of(value) for key, value in data.items()}
    return [text_of(value) for value in data] if isinstance(data, list) else str(data)


def test_numbers_may_be_text():
    data = document()
    written = {key: text_of(data[key]) for key in data}
    for plain, item in zip(data["annotations"], written["annotations"], strict=True):
        item["segmentation"] = plain["segmentation"]
    result, defects = read(written)
    expected, _ = read(data)
    assert result == expected
    assert {(item.reason, item.action) for item in defects} == {(TEXT, "repaired")}
    assert [item.field for item in defects if "bbox" in item.field] == ["annotations.bbox"], "one line for all"
    assert "8 read as numbers, such as '1'" in next(item.detail for item in defects if "bbox" in item.field)


def test_ids_may_be_words():
    data = document()
    for image, word in zip(data["images"], ("b7-a", "b7-b"), strict=True):
        image["id"] = word
    data["categories"][1]["id"] = "dog"
    data["annotations"][0] |= {"id": "x", "image_id": "b7-a", "category_id": "dog"}
    data["annotations"][1] |= {"id": 1, "image_id": "b7-b"}
    result, defects = read(data)
    assert [image["id"] for image in result["images"]] == [1, 2]
    assert [(item["id"], item["image_id"], item["category_id"]) for item in result["annotations"]] == [
        (2, 1, 1), (1, 2, 90)
    ]  # fmt: skip
    assert {(item.reason, item.action) for item in defects} == {(TEXT, "repaired")}


@pytest.mark.parametrize(
    ("size", "kept", "reasons"),
    [
        pytest.param({"width": 40, "height": 30}, 3, [(DUPLICATE, "repaired")], id="the same size"),
        pytest.param({}, 3, [(DUPLICATE, "repaired")], id="no size"),
        pytest.param({"width": 9, "height": 9}, 2, [(DUPLICATE, "left out"), (ORPHAN, "left out")], id="another size"),
    ],
)
def test_an_image_that_is_listed_twice_has_the_objects_of_both(size, kept, reasons):
    data = document()
    data["images"].append({"id": 77, "file_name": "a.jpg"} | size)
    data["annotations"].append({"id": 8, "image_id": 77, "category_id": 90, "bbox": [1, 2, 3, 4]})
    result, defects = read(data)
    assert [image["id"] for image in result["images"]] == [9, 12]
    assert [item["image_id"] for item in result["annotations"]] == [9, 12, 9][:kept]
    assert [(item.reason, item.action) for item in defects] == reasons


def test_an_object_of_both_listings_is_one():
    data = document()
    data["images"].append({"id": 77, "file_name": "a.jpg"})
    data["annotations"].append(data["annotations"][0] | {"id": 8, "image_id": 77})
    result, defects = read(data)
    assert [item["id"] for item in result["annotations"]] == [100, 7]
    assert [(item.field, item.action) for item in defects if item.field.startswith("ann")] == [
        ("annotations[2]", "left out")
    ]


@pytest.mark.parametrize("bbox", [[], None, ()])
@pytest.mark.parametrize(
    ("segmentation", "expected"),
    [
        pytest.param([[1, 2, 11, 2, 11, 14], [30, 1, 35, 1, 35, 20]], [1, 1, 34, 19], id="two outlines"),
        pytest.param([[1, 2, 3], [1, 2, 11, 2, 11, 14]], [1, 2, 10, 12], id="a broken one beside"),
        pytest.param({"size": [30, 40], "counts": [63, 5, 25, 5, 1102]}, [2, 3, 2, 5], id="run lengths"),
        pytest.param([[1, 2, 1, 9, 1, 4]], None, id="no area"),
        pytest.param([], None, id="nothing"),
        pytest.param({"size": [30, 40], "counts": [9]}, None, id="broken run lengths"),
        pytest.param({"size": ["a", 40], "counts": [9]}, None, id="broken size"),
    ],
)
def test_an_object_without_a_box_has_that_of_its_outline(bbox, segmentation, expected):
    result, defects = read(one(bbox=bbox, segmentation=segmentation))
    kept = [item["bbox"] for item in result["annotations"] if item["id"] == 100]
    assert kept == ([expected] if expected else [])
    assert [(item.reason, item.action) for item in defects] == [(BAD_BOX, "repaired" if expected else "left out")]


@pytest.mark.parametrize(
    ("degrees", "expected"),
    [
        pytest.param(0.0, [10, 12, 20, 6], id="not turned"),
        pytest.param(90, [17, 5, 6, 20], id="a quarter"),
        pytest.param(180.0, [10, 12, 20, 6], id="half a turn"),
        pytest.param(-270, [17, 5, 6, 20], id="three quarters the other way"),
        pytest.param("90", [17, 5, 6, 20], id="text"),
        pytest.param(30, [9.839746, 7.401924, 20.320508, 15.196152], id="a twelfth, by hand"),
        pytest.param("steep", None, id="no number"),
        pytest.param([1], None, id="a list"),
    ],
)
def test_a_turned_box_is_the_upright_one_around_it(degrees, expected):
    data = one(bbox=[10, 12, 20, 6], segmentation=[], attributes={"occluded": False, "rotation": degrees})
    reader = CocoReader("x", CategoryNames())
    result = reader.read(data)
    kept = [item["bbox"] for item in result["annotations"] if item["id"] == 100]
    if expected is None:
        assert kept == [] and [item.action for item in reader.defects] == ["left out"]
        return
    assert kept[0] == pytest.approx(expected, abs=1e-5)
    assert reader.hints() == (
        ["1 boxes are turned (attribute rotation): each is read as the upright box around it"]
        if float(degrees) % 180
        else []
    )


def test_an_outline_says_more_than_a_rotation():
    result, _ = read(one(attributes={"rotation": 45.0}))
    assert result["annotations"][0]["bbox"] == [1, 2, 10, 12]


@pytest.mark.parametrize("ignore", [1, True, "1", 1.0])
def test_what_is_to_be_ignored_is_a_crowd_region_and_said(ignore):
    reader = CocoReader("x.json", CategoryNames())
    result = reader.read(one(ignore=ignore))
    assert [item["iscrowd"] for item in result["annotations"]] == [1, 1] and not reader.defects
    assert "x.json: 1 objects have ignore 1: read as crowd regions" in reader.hints()[0]
    assert [item["iscrowd"] for item in read(one(ignore=0))[0]["annotations"]] == [0, 1]


def in_shares(width: float = 40, height: float = 30) -> dict[str, Any]:
    boxes = [[4, 3, 20, 15], [0, 0, 40, 30], [10, 6, 1, 3]]
    rows = [
        {"id": index, "image_id": 9, "category_id": 18, "bbox": [x / width, y / height, w / width, h / height]}
        | {"area": w * h / width / height, "segmentation": [[x / width, y / height, (x + w) / width, y / height, 0, 0]]}
        for index, (x, y, w, h) in enumerate(boxes, start=1)
    ]
    return document(annotations=rows)


def test_boxes_in_shares_of_the_side_become_pixels():
    result, defects = read(in_shares())
    found = fit_to_images(result, "x.json")
    assert [item["bbox"] for item in result["annotations"]] == [[4, 3, 20, 15], [0, 0, 40, 30], [10, 6, 1, 3]]
    assert [item["area"] for item in result["annotations"]] == pytest.approx([300, 1200, 3])
    assert result["annotations"][0]["segmentation"][0] == pytest.approx([4, 3, 24, 3, 0, 0])
    assert not defects and [(item.field, item.reason, item.action) for item in found] == [
        ("annotations.bbox", SHARES, "repaired")
    ]


def test_boxes_of_few_pixels_are_no_shares():
    for data in (in_shares(20, 15), one(bbox=[0, 0, 1, 1])):
        result, _ = read(data)
        before = [list(item["bbox"]) for item in result["annotations"]]
        fit_to_images(result, "x.json")
        assert [item["bbox"] for item in result["annotations"]] == before


def test_corners_in_the_place_of_sides_are_refused():
    corners = [[2 + x, 3, 12 + x, 20] for x in range(25)]
    rows = [{"id": i, "image_id": 9, "category_id": 18, "bbox": box} for i, box in enumerate(corners, start=1)]
    message = r"^x\.json: annotations\.bbox: \d+ of 25 boxes reach out .* all fit as corners .* write \[x1, y1, x2 - x1"
    with pytest.raises(DatasetError, match=message):
        fit_to_images(read(document(annotations=rows))[0], "x.json")
    rows[0]["bbox"] = [20, 3, 10, 10]  # no corners
    assert len(fit_to_images(read(document(annotations=rows))[0], "x.json")) > 10


def roboflow(**changes: Any) -> dict[str, Any]:
    categories = [{"id": 0, "name": "farm", "supercategory": "none"}]
    categories += [{"id": n, "name": name, "supercategory": "farm"} for n, name in ((90, "farm"), (18, "dog"))]
    return document(categories=categories) | changes


def test_a_root_that_no_object_has_is_no_category():
    data = roboflow()
    root = unused_root([data, data])
    assert root == data["categories"][0]
    reader = CocoReader("x", CategoryNames(), root)
    assert [row["id"] for row in reader.read(data)["categories"]] == [90, 18] and not reader.defects
    used = roboflow(annotations=[{"id": 1, "image_id": 9, "category_id": 0, "bbox": [1, 1, 2, 2]}])
    assert unused_root([data, used]) is None, "an object of the second split has it"
    assert unused_root([document()]) is None and unused_root([document(categories=[])]) is None
    assert unused_root([document(categories=[{"id": 1, "name": "a", "supercategory": "none"}])]) is None, "it is alone"


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
