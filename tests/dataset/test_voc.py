from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mutineck.dataset.boxes import NOT_FINITE, OUTSIDE, PARTLY_OUTSIDE, SWAPPED, ZERO_AREA
from mutineck.dataset.records import CategoryNames, DatasetError, category_name
from mutineck.dataset.voc import UNKNOWN_CATEGORY, coco_to_voc, picture_from_voc, usable_bbox, voc_to_coco
from mutineck.dataset.voc_xml import (
    ENCODING,
    MISSING_BOX,
    MISSING_NAME,
    UNREADABLE_XML,
    VocImage,
    VocObject,
    read_voc_xml,
    write_voc_xml,
)

BOX = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>10</xmax><ymax>20</ymax></bndbox>"
SIZE = "<size><width>40</width><height>30</height><depth>3</depth></size>"


def annotation(body: str, size: str = SIZE) -> str:
    return f"<annotation><filename>a.jpg</filename>{size}{body}</annotation>"


def an_object(name: str = "cat", box: str = BOX, more: str = "") -> str:
    return f"<object><name>{name}</name>{more}{box}</object>"


def test_a_plain_file_is_read_whole():
    more = "<pose>Left</pose><truncated>1</truncated><difficult>1</difficult><occluded>0</occluded>"
    record, defects = read_voc_xml(annotation("<segmented>1</segmented>" + an_object(more=more)).encode())
    assert defects == []
    expected = VocObject("cat", (1, 2, 10, 20), difficult=True, truncated=True, pose="Left", index=1)
    assert record == VocImage("a.jpg", 40, 30, 3, (expected,), segmented=True)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(annotation(an_object("café")).encode("utf-8"), id="utf-8"),
        pytest.param(annotation(an_object("café")).encode("utf-8-sig"), id="utf-8 with a byte-order mark"),
        pytest.param(
            ('<?xml version="1.0" encoding="utf-16"?>' + annotation(an_object("café"))).encode("utf-16"),
            id="utf-16",
        ),
        pytest.param(
            ('<?xml version="1.0" encoding="iso-8859-1"?>' + annotation(an_object("café"))).encode("latin-1"),
            id="latin-1, declared",
        ),
        pytest.param(
            ('<?xml version="1.0" encoding="cp1250"?>' + annotation(an_object("café"))).encode("cp1250"),
            id="cp1250",
        ),
        pytest.param(("\n\n<?xml version='1.0'?>" + annotation(an_object("café"))).encode(), id="blank lines first"),
        pytest.param(annotation("<!-- <object/> -->" + an_object("<!-- b -->café")).encode(), id="comments"),
        pytest.param(annotation(an_object("caf&#233;")).encode(), id="character reference"),
        pytest.param(annotation(an_object("<![CDATA[café]]>")).encode(), id="cdata"),
    ],
)
def test_encodings_and_comments(content):
    record, defects = read_voc_xml(content)
    assert defects == []
    assert record is not None
    assert [item.name for item in record.objects] == ["café"]


def test_chinese_in_a_multi_byte_encoding_that_expat_does_not_know():
    text = '<?xml version="1.0" encoding="gbk"?>' + annotation(an_object("猫"))
    record, defects = read_voc_xml(text.encode("gbk"))
    assert record is not None and record.objects[0].name == "猫" and not defects


def test_a_wrongly_declared_encoding_is_repaired_and_said():
    text = '<?xml version="1.0" encoding="utf-8"?>' + annotation(an_object("café"))
    record, defects = read_voc_xml(text.encode("latin-1"), "x.xml")
    assert record is not None and record.objects[0].name == "café"
    assert [(item.reason, item.action) for item in defects] == [(ENCODING, "repaired")]


BOMB = (
    '<!DOCTYPE a [<!ENTITY x "lol"><!ENTITY y "&x;&x;&x;&x;&x;&x;&x;&x;">'
    '<!ENTITY z "&y;&y;&y;&y;&y;&y;&y;&y;">]>' + annotation(an_object("&z;"))
)
EXTERNAL = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]>' + annotation(an_object("&x;"))


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"   \n", id="blank"),
        pytest.param(b"\0\0\0", id="zeros"),
        pytest.param(annotation(an_object())[:-20].encode(), id="truncated"),
        pytest.param(b"\xff\xd8\xff\xe0 a picture", id="a picture"),
        pytest.param(b"{}", id="json"),
        pytest.param(b"<html><object/></html>", id="another root"),
        pytest.param(BOMB.encode(), id="entity bomb"),
        pytest.param(EXTERNAL.encode(), id="external entity"),
        pytest.param(b'<?xml version="1.0" encoding="rot13"?><annotation/>\xff', id="codec that is none for text"),
        pytest.param(b"\xff\xfe<\0a", id="broken utf-16"),
        pytest.param(annotation(an_object("a\x01b")).encode(), id="control character"),
    ],
)
def test_what_cannot_be_read_is_one_defect(content):
    record, defects = read_voc_xml(content, "x.xml")
    assert record is None
    assert [(item.file, item.reason, item.action) for item in defects][-1:] == [("x.xml", UNREADABLE_XML, "left out")]


def test_an_external_entity_is_never_read(tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("hunter2")
    text = f'<!DOCTYPE a [<!ENTITY x SYSTEM "{secret.as_uri()}">]>' + annotation(an_object("&x;"))
    record, defects = read_voc_xml(text.encode())
    assert record is None and "hunter2" not in str(defects)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        pytest.param(f"<object>{BOX}</object>", MISSING_NAME, id="no name"),
        pytest.param(an_object("  "), MISSING_NAME, id="blank name"),
        pytest.param(an_object(box=""), MISSING_BOX, id="no box"),
        pytest.param(an_object(box="<bndbox><xmin>1</xmin></bndbox>"), MISSING_BOX, id="half a box"),
        pytest.param(an_object(box=BOX.replace("10", "ten")), MISSING_BOX, id="a word"),
        pytest.param(an_object(box=BOX.replace("10", "1,5")), MISSING_BOX, id="decimal comma"),
        pytest.param(an_object(box=BOX.replace("10", "1_0")), MISSING_BOX, id="underscore"),
        pytest.param(an_object(box=f"<part><name>head</name>{BOX}</part>"), MISSING_BOX, id="only a part has a box"),
    ],
)
def test_broken_objects_are_left_out_and_the_others_stay(body, reason):
    record, defects = read_voc_xml(annotation(body + an_object("dog")).encode())
    assert record is not None
    assert [(item.name, item.index) for item in record.objects] == [("dog", 2)]
    assert [(item.reason, item.action) for item in defects] == [(reason, "left out")]


def test_parts_are_no_objects():
    part = f"<part><name>head</name>{BOX.replace('20', '5')}</part>"
    record, defects = read_voc_xml(annotation(an_object(more=part)).encode())
    assert record is not None and not defects
    assert [(item.name, item.corners) for item in record.objects] == [("cat", (1, 2, 10, 20))]


@pytest.mark.parametrize(
    "size",
    [
        "",
        "<size/>",
        "<size><width>0</width><height>-3</height></size>",
        "<size><width>wide</width><height>nan</height></size>",
    ],
)
def test_a_missing_size_reads_as_zero(size):
    record, _ = read_voc_xml(annotation(an_object(), size).encode())
    assert record is not None and (record.width, record.height) == (0, 0)


def test_thousands_of_objects_and_none():
    record, defects = read_voc_xml(annotation(an_object() * 5000).encode())
    assert record is not None and len(record.objects) == 5000 and not defects
    record, defects = read_voc_xml(annotation("").encode())
    assert record is not None and record.objects == () and not defects


def test_deep_nesting_is_no_crash():
    record, _ = read_voc_xml(("<annotation>" + "<a>" * 20000 + "</a>" * 20000 + "</annotation>").encode())
    assert record is None or record.objects == ()


@pytest.mark.parametrize(
    ("corners", "bbox", "reasons"),
    [
        pytest.param((1, 1, 40, 30), [0, 0, 40, 30], [], id="the whole image"),
        pytest.param((0, 1, 40, 30), [0, 0, 40, 30], [PARTLY_OUTSIDE], id="zero corner"),
        pytest.param((10, 20, 1, 2), [0, 1, 10, 19], [SWAPPED], id="swapped"),
        pytest.param((50, 2, 1, 20), [0, 1, 40, 19], [SWAPPED, PARTLY_OUTSIDE], id="swapped and outside"),
        pytest.param((5, 5, 5, 9), None, [ZERO_AREA], id="no width"),
        pytest.param((5, 5, 5, 5), None, [ZERO_AREA], id="a click"),
        pytest.param((100, 100, 120, 120), None, [OUTSIDE], id="outside"),
        pytest.param((math.nan, 1, 2, 3), None, [NOT_FINITE], id="not a number"),
        pytest.param((1.5, 2.5, 10.25, 20.75), [0.5, 1.5, 9.75, 19.25], [], id="fractions"),
    ],
)
def test_corners_are_repaired_where_that_is_certain(corners, bbox, reasons):
    assert usable_bbox(corners, 40, 30) == (bbox, reasons)


def test_names_outside_the_categories_are_left_out_with_the_near_match():
    record = VocImage(
        "a.jpg",
        40,
        30,
        objects=tuple(
            VocObject(name, (1, 1, 5, 5), index=i) for i, name in enumerate(("disc", "dics", "kitty", "ignored"), 1)
        ),
    )
    names = CategoryNames(("disc", "cat"), {"kitty": "cat", "ignored": ""})
    picture, defects = picture_from_voc(record, "a.jpg", 40, 30, names)
    assert [item["category"] for item in picture.objects] == ["disc", "cat"]
    assert [(item.field, item.reason) for item in defects] == [("object[2].name", UNKNOWN_CATEGORY)]
    assert "close to disc" in defects[0].detail


def test_difficult_objects_are_crowd():
    record = VocImage("a.jpg", 40, 30, objects=(VocObject("cat", (1, 1, 5, 5), difficult=True, index=1),))
    picture, _ = picture_from_voc(record, "a.jpg", 40, 30, CategoryNames())
    assert picture.objects[0]["iscrowd"] == 1


def test_an_orphan_annotation_cannot_become_voc():
    document = {"images": [], "categories": [], "annotations": [{"id": 1, "image_id": 7, "category_id": 1}]}
    with pytest.raises(DatasetError, match="annotation 1"):
        coco_to_voc(document)


NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=8).map(category_name)


@st.composite
def voc_images(draw: st.DrawFn) -> VocImage:
    width, height = draw(st.integers(2, 5000)), draw(st.integers(2, 5000))

    def corners(side: int) -> tuple[float, float]:
        if draw(st.booleans()):
            low = draw(st.integers(1, side - 1))
            return float(low), float(draw(st.integers(low + 1, side)))
        low_milli = draw(st.integers(1000, side * 1000 - 1))
        return low_milli / 1000, draw(st.integers(low_milli + 1, side * 1000)) / 1000

    objects = []
    for index in range(1, 1 + draw(st.integers(0, 4))):
        (x_min, x_max), (y_min, y_max) = corners(width), corners(height)
        flags = {key: draw(st.booleans()) for key in ("difficult", "truncated", "occluded")}
        pose = draw(NAMES)
        objects.append(VocObject(draw(NAMES), (x_min, y_min, x_max, y_max), **flags, pose=pose, index=index))
    return VocImage(draw(NAMES), width, height, draw(st.sampled_from((1, 3, 4))), tuple(objects), draw(st.booleans()))


@settings(max_examples=80, deadline=None)
@given(record=voc_images())
def test_xml_to_record_and_back_loses_nothing(record):
    assert read_voc_xml(write_voc_xml(record)) == (record, [])


@settings(max_examples=80, deadline=None)
@given(records=st.lists(voc_images(), max_size=3), offset=st.sampled_from((0, 1)))
def test_voc_to_coco_and_back_loses_nothing(records, offset):
    document, defects = voc_to_coco(records, offset=offset)
    assert defects == []
    assert coco_to_voc(document, offset) == records


@settings(max_examples=200, deadline=None)
@given(
    content=st.binary(max_size=200)
    | st.text(max_size=200).map(lambda text: annotation(text).encode("utf-8", "replace"))
)
def test_no_bytes_make_the_reader_fail(content):
    record, defects = read_voc_xml(content)
    assert record is not None or defects


@settings(max_examples=200, deadline=None)
@given(
    corners=st.tuples(*[st.floats() | st.integers(-10, 60).map(float)] * 4),
    size=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    offset=st.sampled_from((0, 1)),
)
def test_a_usable_box_lies_in_the_image(corners, size, offset):
    bbox, reasons = usable_bbox(corners, *size, offset)
    if bbox is None:
        assert reasons
        return
    x, y, w, h = bbox
    assert w > 0 and h > 0 and x >= 0 and y >= 0
    assert x + w <= size[0] + 1e-6 and y + h <= size[1] + 1e-6
