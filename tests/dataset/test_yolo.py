"""YOLO's labels: boxes, outlines and keypoints, and every line that is none is named."""

from __future__ import annotations

import pytest
from PIL import Image

from mutineck.dataset.boxes import OUTSIDE, PARTLY_OUTSIDE, ZERO_AREA
from mutineck.dataset.detect import find_layout
from mutineck.dataset.images import MISSING, ORIENTATION, TURNED, UNREADABLE
from mutineck.dataset.records import CategoryNames, DatasetError
from mutineck.dataset.yolo_folder import DUPLICATE, NAMED_TWICE, NO_LABELS, NO_PICTURE, read_classes, read_yolo_layout
from mutineck.dataset.yolo_layout import find_yolo
from mutineck.dataset.yolo_txt import MALFORMED, NOT_SHARES, REPEATED, UNKNOWN_CLASS, read_yolo
from tests.dataset import exports
from tests.dataset.exports import TRUTH, text

CLASSES = {0: "cat", 2: "dog"}


def objects(content: str | bytes, **options: object):
    content = content.encode() if isinstance(content, str) else content
    names = options.pop("names", CategoryNames())
    return read_yolo(content, CLASSES, 200, 100, names, "labels/a.txt", **options)


@pytest.mark.parametrize(
    ("line", "category", "bbox", "area"),
    [
        pytest.param("0 0.5 0.5 0.2 0.4", "cat", [80, 30, 40, 40], 1600, id="box"),
        pytest.param("2.0 5e-1 .5 1 1", "dog", [0, 0, 200, 100], 20000, id="whole picture, other spellings"),
        pytest.param("0 0.1 0.1 0.3 0.1 0.3 0.5", "cat", [20, 10, 40, 40], 800, id="triangle"),
        pytest.param("0 .5 .2 .6 .4 .5 .6 .4 .4", "cat", [80, 20, 40, 40], 800, id="turned box, or outline of four"),
    ],
)
def test_a_line_is_an_object(line, category, bbox, area):
    (item,), defects = objects(line)
    assert not defects and item["category"] == category and item["iscrowd"] == 0
    assert item["bbox"] == pytest.approx(bbox) and item["area"] == pytest.approx(area)
    assert ("segmentation" in item) == (len(line.split()) > 5)


@pytest.mark.parametrize(
    ("line", "reason", "action"),
    [
        pytest.param("0 0.5 0.5 0.2", MALFORMED, "left out", id="four numbers"),
        pytest.param("0 0.5 0.5 0.2 0.4 0.99", MALFORMED, "left out", id="a confidence"),
        pytest.param("0 0.1 0.1 0.3 0.1 0.3 0.5 0.2", MALFORMED, "left out", id="half a point"),
        pytest.param("cat 0.5 0.5 0.2 0.4", MALFORMED, "left out", id="a word"),
        pytest.param("0 0,5 0,5 0,2 0,4", MALFORMED, "left out", id="commas"),
        pytest.param("0 nan 0.5 0.2 0.4", MALFORMED, "left out", id="not a number"),
        pytest.param("1 0.5 0.5 0.2 0.4", UNKNOWN_CLASS, "left out", id="a class without a name"),
        pytest.param("-1 0.5 0.5 0.2 0.4", UNKNOWN_CLASS, "left out", id="a negative class"),
        pytest.param("0.5 0.5 0.5 0.2 0.4", UNKNOWN_CLASS, "left out", id="half a class"),
        pytest.param("0 80 30 40 40", NOT_SHARES, "left out", id="pixels"),
        pytest.param("0 0.5 0.5 -0.2 0.4", NOT_SHARES, "left out", id="negative width"),
        pytest.param("0 0.5 0.5 0 0.4", ZERO_AREA, "left out", id="no width"),
        pytest.param("0 0.1 0.1 0.3 0.1 0.2 0.1", ZERO_AREA, "left out", id="a line"),
        pytest.param("0 0.9 0.5 0.4 0.4", PARTLY_OUTSIDE, "repaired", id="over the border"),
        pytest.param("0 1.004 0.5 0.001 0.4", OUTSIDE, "left out", id="outside"),
    ],
)
def test_a_line_that_is_no_sound_object_is_named(line, reason, action):
    found, defects = objects(f"0 0.5 0.5 0.1 0.1\n{line}\n")
    assert [(item.file, item.field, item.reason, item.action) for item in defects] == [
        ("labels/a.txt", "line[2]", reason, action)
    ]
    assert len(found) == 1 + (action == "repaired")
    assert all(item["bbox"][0] + item["bbox"][2] <= 200 for item in found)


def test_rounding_of_a_tool_is_no_defect():
    (item,), defects = objects("0 0.5 0.5 1.000001 1")
    assert not defects and item["bbox"] == [0, 0, 200, 100]


def test_a_line_twice_is_one_object():
    found, defects = objects("0 0.5 0.5 0.1 0.1\r\n\r\n0  0.5 0.5 0.1 0.10\n0 0.5 0.5 0.1 0.2")
    assert len(found) == 2 and [(item.field, item.reason) for item in defects] == [("line[3]", REPEATED)]


def test_a_mark_of_the_byte_order_and_odd_bytes():
    assert len(objects(b"\xef\xbb\xbf0 0.5 0.5 0.1 0.1\n")[0]) == 1
    found, defects = objects(b"\xff\xfe0 0.5\n")
    assert not found and [item.reason for item in defects] == [MALFORMED]


def test_classes_that_are_not_wanted_are_no_defect():
    names = CategoryNames(("animal",), {"cat": "animal", "dog": ""})
    found, defects = objects("0 0.5 0.5 0.1 0.1\n2 0.5 0.5 0.1 0.1", names=names)
    assert [item["category"] for item in found] == ["animal"] and not defects


def test_keypoints_are_passed_over():
    found, defects = objects("0 0.5 0.5 0.2 0.4 0.1 0.1 2 0.2 0.2 1", keypoints=6)
    assert not defects and found[0]["bbox"] == [80, 30, 40, 40] and "segmentation" not in found[0]


def read(root):
    (layout,) = find_yolo(root)
    return read_yolo_layout(root, layout, CategoryNames())


def test_what_has_no_partner_or_cannot_be_read_is_told(tmp_path):
    exports.yolo_label_studio(tmp_path, TRUTH)
    (tmp_path / "labels" / "shot 0.txt").unlink()
    (tmp_path / "images" / "shot 1.jpg").unlink()
    (tmp_path / "images" / "shot 2.jpg").write_bytes(b"\xff\xd8\xff")
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    with Image.open(tmp_path / "images" / "shot 3.jpg") as picture:
        picture.save(tmp_path / "images" / "shot 3.jpg", exif=exif)
    reading = read(tmp_path)
    assert {(item.file, item.reason, item.action) for item in reading.defects} == {
        ("labels/shot 1.txt", NO_PICTURE, "left out"),
        ("images/shot 2.jpg", UNREADABLE, "left out"),
        ("images/shot 3.jpg", TURNED, "kept"),
        ("images/shot 0.jpg", NO_LABELS, "kept"),
    }
    assert reading.found["images"] == 7
    (document,) = reading.documents.values()
    assert [image["width"] for image in document["images"]] == [64, 48, 64, 64, 64, 64]


def test_a_split_that_is_not_there_is_said_and_train_has_to_be(tmp_path):
    exports.yolo_roboflow(tmp_path, tuple(shot for shot in TRUTH if shot.split != "test"))
    (layout,) = find_yolo(tmp_path)
    assert layout.remarks == ("data.yaml: test: ../test/images is not there",)
    assert layout.title == "Roboflow's YOLO export"
    (tmp_path / "train").rename(tmp_path / "training")
    with pytest.raises(DatasetError, match=r"data\.yaml: train: '\.\./train/images' is not there, below .*Correct the"):
        find_yolo(tmp_path)


def test_a_picture_that_a_list_names_twice_is_there_once(tmp_path):
    exports.yolo_lists(tmp_path, TRUTH)
    path = tmp_path / "train.txt"
    path.write_text(path.read_text() + "\n./images/shot 0.jpg\nimages/gone.jpg\n")
    reading = read(tmp_path)
    assert len(reading.documents["train"]["images"]) == 4 and reading.found["images"] == 9
    named = [(item.file, item.field, item.reason) for item in reading.defects if item.action == "left out"]
    assert named == [("train.txt", "line[5]", NAMED_TWICE), ("train.txt", "line[6]", MISSING)]
    text(tmp_path / "data.yaml", "train: [images, images]\nval: images\nnames: [cat, dog, ox]")
    assert len(read(tmp_path).documents["train"]["images"]) == 8


def test_a_label_file_of_two_pictures_is_of_neither(tmp_path):
    exports.yolo_label_studio(tmp_path, TRUTH)
    exports.picture(tmp_path / "images" / "shot 0.png", "another")
    reading = read(tmp_path)
    assert [(item.file, item.reason, item.action) for item in reading.defects] == [
        (f"images/shot 0.{ending}", DUPLICATE, "left out") for ending in ("jpg", "png")
    ]
    (document,) = reading.documents.values()
    assert len(document["images"]) == 7 and reading.found["images"] == 9


def test_labels_outside_the_folder_are_not_taken(tmp_path):
    exports.yolo_beside(tmp_path / "images" / "mine", TRUTH)
    exports.yolo_label_studio(tmp_path, TRUTH[:1])  # labels/ two folders up is of other pictures
    (tmp_path / "labels" / "mine").mkdir()
    (document,) = read(tmp_path / "images" / "mine").documents.values()
    assert len(document["annotations"]) == 12


def test_labels_without_names_of_classes_are_refused(tmp_path):
    exports.yolo_label_studio(tmp_path, TRUTH)
    (tmp_path / "classes.txt").unlink()
    with pytest.raises(DatasetError, match=r"nothing that names their classes: write classes\.txt"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("content", "classes"),
    [
        pytest.param(
            "names: [no, 007, 1.0, null, caf\u00e9]", ["no", "007", "1.0", "null", "caf\u00e9"], id="text as typed"
        ),
        pytest.param("names:\n  0: a\n  5: b", ["a", "b"], id="numbered"),
        pytest.param("names: {a: 0}", None, id="the other way round"),
        pytest.param("names: ['', b]", None, id="an empty name"),
    ],
)
def test_names_of_classes(content, classes, tmp_path):
    exports.yolo_label_studio(tmp_path, TRUTH)
    (tmp_path / "classes.txt").unlink()
    text(tmp_path / "data.yaml", content)
    (layout,) = find_yolo(tmp_path)
    if classes is None:
        with pytest.raises(DatasetError, match=r"data\.yaml: names: expected numbers from 0 on and names, got"):
            read_classes(layout)
    else:
        assert [*read_classes(layout)[0].values()] == classes


def test_categories_that_are_wanted_have_to_be_classes(tmp_path):
    exports.yolo_label_studio(tmp_path, TRUTH)
    (layout,) = find_yolo(tmp_path)
    reading = read_yolo_layout(tmp_path, layout, CategoryNames(("ox", "cat")))
    assert [row["name"] for row in reading.documents[""]["categories"]] == ["ox", "cat"]
    with pytest.raises(
        DatasetError, match=r"classes\.txt: dataset\.categories: bird is not among its classes: cat, dog"
    ):
        read_yolo_layout(tmp_path, layout, CategoryNames(("bird",)))


def test_pictures_of_both_splits_are_in_both(tmp_path):
    exports.yolo_label_studio(tmp_path, TRUTH)
    text(tmp_path / "data.yaml", "train: images\nval: images\nnames: [cat, dog, ox]")
    documents = read(tmp_path).documents
    assert [len(documents[split]["images"]) for split in ("train", "val")] == [8, 8]
    ids = [item["id"] for document in documents.values() for item in document["annotations"]]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    "content", ["train: [", "- a", "names: 5\ntrain: x", "\0", "a: &a [*a]", "train: " + "x" * 5000]
)
def test_other_yaml_files_say_nothing(content, tmp_path):
    exports.coco_cvat(tmp_path, TRUTH)
    (tmp_path / "x.yaml").write_text(content)
    assert find_layout(tmp_path, "auto").format == "coco"
