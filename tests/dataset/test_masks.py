from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageOps
from pycocotools import mask as coco_mask

from mutineck.dataset.images import ORIENTATION
from mutineck.dataset.masks import (
    box_overlap,
    check_segmentation,
    encode_mask,
    read_object_masks,
    segmentation_bbox,
    upright_segmentation,
)

MASK = np.zeros((30, 40), bool)
MASK[5:12, 20:35] = True
CODE = encode_mask(MASK)


def test_a_mask_survives_encoding():
    assert CODE["size"] == [30, 40]
    assert np.array_equal(coco_mask.decode(CODE).astype(bool), MASK)


@pytest.mark.parametrize("seed", range(5))
def test_any_code_of_pycocotools_is_sound(seed):
    mask = np.random.default_rng(seed).random((37, 53)) < (0.02, 0.3, 0.5, 0.9, 1.0)[seed]
    assert check_segmentation(encode_mask(mask), 53, 37)[1] == ""


POLYGON = [1, 1, 10, 1, 10, 10]


@pytest.mark.parametrize(
    ("segmentation", "kept", "problem"),
    [
        pytest.param([POLYGON], [POLYGON], "", id="polygon"),
        pytest.param([POLYGON, [1, 1, 2, 2]], [POLYGON], "1 of 2 polygons", id="two points"),
        pytest.param([[1, 1, 2, 2]], None, "1 of 1 polygons", id="nothing left"),
        pytest.param([[*POLYGON, 3]], None, "1 of 1", id="odd count"),
        pytest.param([[*POLYGON[:5], float("nan")]], None, "1 of 1", id="not a number"),
        pytest.param([["1"] * 6], None, "1 of 1", id="strings"),
        pytest.param([], None, "neither", id="empty"),
        pytest.param("mask", None, "neither", id="a word"),
        pytest.param(CODE, CODE, "", id="compressed"),
        pytest.param(
            {"size": [30, 40], "counts": [600, 10, 590]},
            {"size": [30, 40], "counts": [600, 10, 590]},
            "",
            id="run lengths",
        ),
        pytest.param({"size": [40, 30], "counts": CODE["counts"]}, None, "size", id="width and height exchanged"),
        pytest.param({"size": [30, 40], "counts": [600, 10]}, None, "add up to 610", id="too few pixels"),
        pytest.param({"size": [30, 40], "counts": [600, -10, 610]}, None, "non-negative", id="negative run"),
        pytest.param({"size": [30, 40], "counts": CODE["counts"][:-1]}, None, "run lengths", id="cut short"),
        pytest.param({"size": [30, 40], "counts": "\x7f\x7f\x7f"}, None, "run lengths", id="characters of no code"),
        pytest.param({"size": [30, 40], "counts": "oooooooooooooooo"}, None, "run lengths", id="endless number"),
        pytest.param({"size": [30, 40]}, None, "run lengths", id="no counts"),
        pytest.param({"counts": [1200]}, None, "size", id="no size"),
    ],
)
def test_segmentations_are_checked(segmentation, kept, problem):
    found = check_segmentation(segmentation, 40, 30)
    assert found[0] == kept
    assert problem in found[1] and bool(problem) == bool(found[1])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_outlines_are_turned_as_the_picture_is(orientation, tmp_path):
    """As PIL and OpenCV show the picture, of which a mask is one."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(np.uint8(MASK) * 255).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as picture:
        shown = np.asarray(ImageOps.exif_transpose(picture)) > 0
    runs = {"size": [30, 40], "counts": [605, 7, *[23, 7] * 14, 168]}
    polygon = [20, 5, 35, 5, 35, 12, 20, 12]
    for code in (CODE, runs):
        turned = upright_segmentation(code, (40, 30), orientation)
        assert np.array_equal(coco_mask.decode(turned).astype(bool), shown)
    (outline,) = upright_segmentation([polygon], (40, 30), orientation)
    drawn = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([outline], *shown.shape)))
    assert np.array_equal(drawn.astype(bool), shown)
    rows, columns = np.flatnonzero(shown.any(axis=1)), np.flatnonzero(shown.any(axis=0))
    assert segmentation_bbox([outline]) == [columns[0], rows[0], np.ptp(columns) + 1, np.ptp(rows) + 1]
    assert upright_segmentation({"size": [1, 1]}, (40, 30), orientation) == {"size": [1, 1]}, "broken ones stay"


@pytest.mark.parametrize(
    ("bbox", "overlap"),
    [
        pytest.param([20, 5, 15, 7], 1.0, id="same"),
        pytest.param([20, 5, 15, 14], 0.5, id="half"),
        pytest.param([0, 0, 5, 5], 0.0, id="elsewhere"),
    ],
)
def test_overlap_of_mask_and_box(bbox, overlap):
    assert box_overlap(MASK, bbox) == pytest.approx(overlap)
    assert box_overlap(np.zeros_like(MASK), bbox) == 0


def test_object_masks_are_read_as_numbers(tmp_path):
    picture = Image.fromarray(MASK.astype(np.uint8) * 3)
    picture.putpalette(list(range(256)) * 3)
    picture.save(tmp_path / "a.png")
    numbers, problem = read_object_masks(tmp_path / "a.png", (40, 30))
    assert problem == "" and numbers is not None and set(np.unique(numbers)) == {0, 3}


@pytest.mark.parametrize(
    ("mode", "size", "problem"),
    [("RGB", (40, 30), "mode RGB"), ("L", (30, 40), "30x40 instead of 40x30")],
    ids=["colours are no numbers", "another size"],
)
def test_unusable_object_masks(tmp_path, mode, size, problem):
    Image.new(mode, size).save(tmp_path / "a.png")
    numbers, found = read_object_masks(tmp_path / "a.png", (40, 30))
    assert numbers is None and problem in found


def test_a_broken_mask_file(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    assert read_object_masks(tmp_path / "a.png", (40, 30))[0] is None
