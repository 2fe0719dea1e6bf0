from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mutineck.dataset.images import MISSING, ORIENTATION, TURN_UNSAID, UNREADABLE, WRONG_SIZE
from mutineck.dataset.masks import encode_mask
from mutineck.dataset.records import CategoryNames, DatasetError
from mutineck.dataset.voc_folder import (
    DUPLICATE,
    ELSEWHERE,
    NO_ANNOTATION,
    NO_MASK,
    OTHER_NAME,
    official_split,
    read_pictures,
)
from mutineck.dataset.voc_layout import find_voc
from mutineck.dataset.voc_xml import UNREADABLE_XML, VocImage, VocObject, write_voc_xml


def read(voc_root, **options):
    (layout,) = find_voc(voc_root.root)
    pictures, reading = read_pictures(voc_root.root, layout, CategoryNames(), **options)
    return {picture.file_name: picture for picture in pictures}, reading.defects, reading


def reasons(defects):
    return [(defect.file, defect.reason, defect.action) for defect in defects]


def test_a_sound_folder_has_no_defects(voc_root):
    voc_root.add("a", [("cat", (1, 1, 10, 20)), ("dog", (5, 5, 40, 30))])
    voc_root.add("b", [])
    pictures, defects, _ = read(voc_root)
    assert defects == []
    assert list(pictures) == ["JPEGImages/a.jpg", "JPEGImages/b.jpg"]
    assert [item["bbox"] for item in pictures["JPEGImages/a.jpg"].objects] == [[0, 0, 10, 20], [4, 4, 36, 26]]


def test_suffixes_in_any_case_and_any_format(voc_root):
    voc_root.picture("a.JPG")
    voc_root.picture("b.Png")
    voc_root.annotation("a", suffix=".XML")
    voc_root.annotation("b", filename="b.png")
    pictures, defects, _ = read(voc_root)
    assert not defects and list(pictures) == ["JPEGImages/a.JPG", "JPEGImages/b.Png"]


def test_a_picture_named_by_its_annotation_only(voc_root):
    voc_root.picture("photo.jpg")
    voc_root.annotation("0001", filename="photo.jpg")
    pictures, defects, _ = read(voc_root)
    assert not defects and list(pictures) == ["JPEGImages/photo.jpg"]


@pytest.mark.parametrize(
    ("filename", "said"),
    [
        pytest.param("../../secret.jpg", True, id="parent"),
        pytest.param("..\\..\\a.jpg", True, id="parent, backslashes"),
        pytest.param("x/../a.jpg", True, id="parent in the middle"),
        pytest.param("/home/me/a.jpg", True, id="absolute, the own name is there"),
        pytest.param("C:\\pictures\\a.jpg", True, id="drive"),
        pytest.param("JPEGImages/a.jpg", False, id="with its folder"),
    ],
)
def test_file_names_never_lead_out_of_the_folder(voc_root, filename, said):
    (voc_root.root.parent / "secret.jpg").write_bytes(b"")
    voc_root.picture("a.jpg")
    voc_root.annotation("a", filename=filename)
    pictures, defects, _ = read(voc_root)
    assert reasons(defects) == [("Annotations/a.xml", ELSEWHERE, "repaired")] * said
    assert list(pictures) == ["JPEGImages/a.jpg"]


def test_a_file_name_of_another_picture_is_not_followed(voc_root):
    voc_root.add("a")
    voc_root.picture("b.jpg")
    voc_root.annotation("b", filename="a.jpg")
    pictures, defects, _ = read(voc_root)
    assert sorted(pictures) == ["JPEGImages/a.jpg", "JPEGImages/b.jpg"]
    assert reasons(defects) == [("Annotations/b.xml", OTHER_NAME, "repaired")]


def test_missing_unreadable_and_unannotated(voc_root):
    voc_root.add("a")
    voc_root.annotation("no_picture")
    voc_root.picture("no_annotation.jpg")
    voc_root.picture("cut.jpg").write_bytes(b"\xff\xd8\xff")
    voc_root.annotation("cut")
    voc_root.picture("bad_xml.jpg")
    (voc_root.root / "Annotations" / "bad_xml.xml").write_text("<annotation>")
    pictures, defects, _ = read(voc_root)
    assert list(pictures) == ["JPEGImages/a.jpg"]
    assert sorted(reasons(defects)) == [
        ("Annotations/bad_xml.xml", UNREADABLE_XML, "left out"),
        ("Annotations/no_picture.xml", MISSING, "left out"),
        ("JPEGImages/cut.jpg", UNREADABLE, "left out"),
        ("JPEGImages/no_annotation.jpg", NO_ANNOTATION, "left out"),
    ]


def test_one_picture_annotated_twice(voc_root):
    voc_root.picture("photo.jpg")
    voc_root.annotation("a", filename="photo.jpg")
    voc_root.annotation("b", filename="photo.jpg")
    pictures, defects, _ = read(voc_root)
    assert len(pictures) == 1
    assert reasons(defects) == [("Annotations/b.xml", DUPLICATE, "left out")]


@pytest.mark.parametrize(
    ("filename", "read_as", "left_out"),
    [
        pytest.param("a.jpg", ["JPEGImages/a.jpg"], "JPEGImages/a.png", id="the one"),
        pytest.param("a.png", ["JPEGImages/a.png"], "JPEGImages/a.jpg", id="the other"),
        pytest.param("b.jpg", [], "Annotations/a.xml", id="neither"),
        pytest.param("", [], "Annotations/a.xml", id="not said"),
    ],
)
def test_of_two_pictures_of_one_name_filename_says_which(voc_root, filename, read_as, left_out):
    voc_root.picture("a.jpg")
    voc_root.picture("a.png")
    voc_root.annotation("a", filename=filename)
    pictures, defects, _ = read(voc_root)
    assert list(pictures) == read_as
    assert reasons(defects) == [(left_out, DUPLICATE, "left out")]


def test_a_picture_with_its_own_annotation_is_not_given_to_another(voc_root):
    voc_root.add("b")
    voc_root.annotation("a", filename="b.jpg")
    pictures, defects, _ = read(voc_root)
    assert list(pictures) == ["JPEGImages/b.jpg"] and defects[0].detail == "b.jpg is annotated by b.xml already"
    assert reasons(defects) == [("Annotations/a.xml", DUPLICATE, "left out")]


@pytest.mark.parametrize(("orientation", "said"), [(1, 0), (2, 1), (3, 1), (4, 1)])
def test_a_turned_picture_whose_size_does_not_tell_is_kept_and_listed(voc_root, orientation, said):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    voc_root.picture("a.jpg", exif=exif)
    voc_root.annotation("a")
    pictures, defects, _ = read(voc_root)
    assert reasons(defects) == [("Annotations/a.xml", TURN_UNSAID, "kept")] * said
    assert len(pictures) == 1


@pytest.mark.parametrize(
    ("written", "boxes", "action", "kept"),
    [
        pytest.param((0, 0), [("cat", (1, 1, 10, 10))], "repaired", 1, id="zero"),
        pytest.param((50, 31), [("cat", (1, 1, 10, 10))], "left out", 0, id="wrong, boxes fit"),
        pytest.param((30, 40), [("cat", (1, 1, 10, 10))], "left out", 0, id="turned without a word, boxes fit"),
        pytest.param((50, 90), [("cat", (1, 1, 10, 80))], "left out", 0, id="wrong, boxes do not fit"),
        pytest.param((80, 60), [("cat", (1, 1, 10, 10))], "left out", 0, id="resized after annotation"),
    ],
)
def test_wrong_sizes(voc_root, written, boxes, action, kept):
    voc_root.picture("a.jpg", (40, 30))
    voc_root.annotation("a", boxes, size=written)
    pictures, defects, _ = read(voc_root)
    assert reasons(defects) == [("Annotations/a.xml", WRONG_SIZE, action)]
    assert [(picture.width, picture.height) for picture in pictures.values()] == [(40, 30)] * kept


def test_boxes_drawn_on_the_unrotated_picture_are_turned(voc_root):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    voc_root.picture("a.jpg", (40, 30), exif=exif)
    voc_root.annotation("a", [("cat", (21, 6, 35, 12))], size=(40, 30))
    pictures, defects, _ = read(voc_root)
    picture = pictures["JPEGImages/a.jpg"]
    assert (picture.width, picture.height) == (30, 40)
    assert picture.objects[0]["bbox"] == [18, 20, 7, 15]
    assert reasons(defects) == [("Annotations/a.xml", WRONG_SIZE, "repaired")]


def test_boxes_drawn_on_the_rotated_picture_stay(voc_root):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    voc_root.picture("a.jpg", (40, 30), exif=exif)
    voc_root.annotation("a", [("cat", (1, 21, 30, 40))], size=(30, 40))
    pictures, defects, _ = read(voc_root)
    assert not defects and pictures["JPEGImages/a.jpg"].objects[0]["bbox"] == [0, 20, 30, 20]


def add_masks(voc_root, stem: str, numbers: np.ndarray) -> None:
    (voc_root.root / "SegmentationObject").mkdir(exist_ok=True)
    picture = Image.fromarray(numbers.astype(np.uint8))
    picture.putpalette(list(range(256)) * 3)
    picture.save(voc_root.root / "SegmentationObject" / f"{stem}.png")


def test_masks_go_to_their_objects(voc_root):
    voc_root.add("a", [("cat", (1, 1, 10, 10)), ("dog", (21, 11, 40, 30))])
    numbers = np.zeros((30, 40))
    numbers[0:10, 0:10] = 1
    numbers[10:30, 20:40] = 2
    numbers[15, :] = 255
    add_masks(voc_root, "a", numbers)
    pictures, defects, _ = read(voc_root)
    cat, dog = pictures["JPEGImages/a.jpg"].objects
    assert not defects
    assert cat["segmentation"] == encode_mask(numbers == 1) and cat["area"] == 100
    assert dog["segmentation"] == encode_mask(numbers == 2) and dog["area"] == 380


def test_masks_of_other_objects_are_not_taken(voc_root):
    voc_root.add("a", [("cat", (1, 1, 10, 10)), ("dog", (21, 11, 40, 30))])
    numbers = np.zeros((30, 40))
    numbers[0:10, 0:10] = 2
    add_masks(voc_root, "a", numbers)
    pictures, defects, _ = read(voc_root)
    assert all("segmentation" not in item for item in pictures["JPEGImages/a.jpg"].objects)
    assert reasons(defects) == [("SegmentationObject/a.png", NO_MASK, "left out")] * 2


def test_several_years_are_read_as_one_set(make_voc_root, tmp_path):
    for year in ("VOC2007", "VOC2012"):
        make_voc_root(f"VOCdevkit/{year}").add("000001")
    (layout,) = find_voc(tmp_path)
    assert [part.name for part in layout.parts] == ["VOC2007", "VOC2012"]
    pictures, reading = read_pictures(tmp_path, layout, CategoryNames())
    assert not reading.defects
    assert [picture.file_name for picture in pictures] == [
        "VOCdevkit/VOC2007/JPEGImages/000001.jpg",
        "VOCdevkit/VOC2012/JPEGImages/000001.jpg",
    ]


def test_lists_say_what_is_read(voc_root):
    for stem in ("a", "b", "c", "extra"):
        voc_root.add(stem)
    lists = voc_root.root / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\nb  1\n\n")
    (lists / "test.txt").write_text("c\ngone\n")
    pictures, defects, reading = read(voc_root)
    assert [name[-5:-4] for name in pictures] == ["a", "b", "c"]
    assert reasons(defects) == [("Annotations/gone.xml", NO_ANNOTATION, "left out")]
    assert reading.notes["not_listed"] == 1
    with pytest.raises(DatasetError, match=r"val\.txt"):
        official_split(reading.lists, pictures)


@pytest.mark.parametrize(
    ("stem", "line"),
    [
        pytest.param("a", "a -1", id="pair"),
        pytest.param("a", "a.jpg", id="with its ending"),
        pytest.param("a", "JPEGImages\\a.JPG  1", id="path of Windows, pair"),
        pytest.param("a b", "a b", id="space"),
        pytest.param("a b", '"a b" 1', id="quotes, pair"),
        pytest.param("a 1", "a 1", id="a name that looks like a pair"),
        pytest.param("caf\u00e9", "cafe\u0301", id="other form"),
        pytest.param("cam1/a", "cam1/a", id="sub-folder"),
        pytest.param("cam1/a", "a", id="sub-folder, not named"),
    ],
)
def test_a_line_of_a_list_names_a_picture(voc_root, stem, line):
    for name in (stem, "other"):
        for folder in ("Annotations", "JPEGImages"):
            (voc_root.root / folder / name).parent.mkdir(exist_ok=True)
        voc_root.add(name)
    lists = voc_root.root / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "trainval.txt").write_text(line + "\n", encoding="utf-8")
    pictures, defects, reading = read(voc_root)
    assert not defects and [*pictures] == [f"JPEGImages/{stem}.jpg"]
    assert reading.lists == {"trainval": {f"JPEGImages/{stem}.jpg"}}


def test_a_line_that_two_pictures_have_names_neither(voc_root):
    for camera in ("cam1", "cam2"):
        for folder in ("Annotations", "JPEGImages"):
            (voc_root.root / folder / camera).mkdir()
        voc_root.add(f"{camera}/a")
    (voc_root.root / "ImageSets" / "Main").mkdir(parents=True)
    (voc_root.root / "ImageSets" / "Main" / "train.txt").write_text("a\ncam2/a")
    pictures, defects, _ = read(voc_root)
    assert [*pictures] == ["JPEGImages/cam2/a.jpg"]
    assert reasons(defects) == [("Annotations/a.xml", NO_ANNOTATION, "left out")]


def test_turned_boxes_are_upright_ones_around_them(voc_root):
    voc_root.picture("a.jpg")
    turned = VocObject("bar", (11, 13, 30, 16), index=1, rotation=90.0)
    record = VocImage("a.jpg", 40, 30, objects=(turned,))
    (voc_root.root / "Annotations" / "a.xml").write_bytes(write_voc_xml(record))
    pictures, defects, reading = read(voc_root)
    assert not defects and pictures["JPEGImages/a.jpg"].objects[0]["bbox"] == [18, 4, 4, 20]
    assert reading.hints == ["1 boxes are turned (attribute rotation): each is read as the upright box around it"]


@pytest.mark.parametrize(("offset", "said"), [(1, 1), (0, 0)])
def test_coordinates_from_zero_are_hinted_at(voc_root, offset, said):
    voc_root.add("a", [("cat", (0, 3, 9, 9)), ("cat", (5, 0, 9, 9)), ("cat", (5, 5, 9, 9))])
    _, _, reading = read(voc_root, offset=offset)
    hint = "2 of 3 boxes begin at 0, where Pascal VOC's pixels count from 1: if the tool counts from 0, "
    assert reading.hints == [f"{hint}--set dataset.voc_offset=0"] * said


def test_an_official_split_is_followed():
    lists = {"train": {"a", "b"}, "val": {"c"}, "test": {"d"}}
    assert official_split(lists, "abcd") == {"a": 0, "b": 0, "c": 1, "d": 2}
    with pytest.raises(DatasetError, match="shares 1"):
        official_split(lists | {"test": {"a"}}, "abcd")


def test_the_hash_tells_two_sets_apart(voc_root):
    voc_root.add("a")
    first = read(voc_root)[2].notes["sha256"]
    assert read(voc_root)[2].notes["sha256"] == first
    voc_root.annotation("a", [("cat", (1, 1, 10, 11))])
    assert read(voc_root)[2].notes["sha256"] != first
