"""What is counted is what is trained on, and what the network's input loses is told before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mutineck.dataset import DatasetError
from mutineck.dataset.usable import (
    boxes_under_a_pixel,
    sides_at_input,
    small_at_input,
    trained_on,
    with_objects,
)
from mutineck.system.files import write_json

SIZES = [(40, 30), (120, 28), (3000, 40), (20, 20), (64, 48), (64, 48)]
"""Of the last picture nothing is annotated, of the one before a crowd region."""


def document(*boxes: tuple[int, list[float]], crowd: tuple[int, ...] = (5,), sizes: Any = SIZES) -> dict[str, Any]:
    images = [{"id": n, "file_name": f"{n}.jpg", "width": w, "height": h} for n, (w, h) in enumerate(sizes, 1)]
    annotations = [
        {"id": n, "image_id": image, "category_id": 1 + n % 2, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for n, (image, box) in enumerate(boxes, 1)
    ]
    annotations += [
        {"id": 90 + n, "image_id": n, "category_id": 1, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 1} for n in crowd
    ]
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    return {"images": images, "annotations": annotations, "categories": categories}


MIXED = [(1, [1, 1, 9, 9]), (2, [2, 2, 100, 20]), (3, [0, 0, 0.9, 30]), (4, [1, 1, 1, 1]), (4, [3, 3, 5, 0.99])]


@pytest.mark.parametrize("negatives", [True, False])
def test_mmdet_trains_on_what_is_counted(tmp_path: Path, negatives: bool) -> None:
    from mutineck.detection.repeatable import RepeatableCocoDataset

    given = document(*MIXED)
    given = given if negatives else with_objects(given)
    assert trained_on(given) == {"images": 6 if negatives else 5, "boxes": 3}
    file = write_json(tmp_path / "train.json", given)
    for filtered in (False, not negatives):
        data = RepeatableCocoDataset(str(file), [], classes=["cat", "dog"], filter_empty_gt=filtered)
        held = sum(len(data.get_ann_info(index)["labels"]) for index in range(len(data)))
        assert {"images": len(data), "boxes": held} == trained_on(given)
    defects = list(boxes_under_a_pixel(given))
    assert [(each.file, each.action) for each in defects] == [("3.jpg", "kept"), ("4.jpg", "kept")]


def test_a_teacher_of_some_categories_says_which_pictures_it_is_not_shown(tmp_path: Path, capsys: Any) -> None:
    from mutineck.detection.repeatable import RepeatableCocoDataset

    file = str(write_json(tmp_path / "train.json", document(*MIXED, crowd=())))
    assert len(RepeatableCocoDataset(file, [], classes=["dog"], filter_empty_gt=True)) == 3
    assert "! 3 of 6 pictures hold no object of dog: not trained on" in capsys.readouterr().out
    file = str(write_json(tmp_path / "none.json", document(crowd=())))
    with pytest.raises(ValueError, match=r"none\.json: none of its 6 pictures holds an object of cat"):
        RepeatableCocoDataset(file, [], classes=["cat"], filter_empty_gt=True)


@pytest.mark.parametrize("scale", [(160, 120), (96, 128), (1333, 800)])
def test_sides_are_those_that_the_networks_input_has(scale: tuple[int, int]) -> None:
    from mmdet.datasets.pipelines import Resize

    given = document(*MIXED)
    pictures, boxes = sides_at_input(given, scale)
    expected_pictures, expected_boxes = [], []
    for image in given["images"]:
        own = [item["bbox"] for item in given["annotations"] if item["image_id"] == image["id"]]
        own = [box for box in own if image["id"] != 5 and min(box[2:]) >= 1]
        corners = np.array(own, np.float32).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        result = {"img": np.zeros((image["height"], image["width"], 3), np.uint8), "boxes": corners}
        result |= {"img_fields": ["img"], "bbox_fields": ["boxes"]}
        found = Resize(img_scale=scale, keep_ratio=True, bbox_clip_border=False)(result)
        expected_pictures.append(min(found["img_shape"][:2]))
        expected_boxes += (found["boxes"][:, 2:] - found["boxes"][:, :2]).min(axis=1).tolist()
    assert pictures.tolist() == expected_pictures
    assert boxes.tolist() == pytest.approx(expected_boxes, rel=1e-5)


def test_objects_that_the_input_loses_are_told_with_the_setting_to_type() -> None:
    large = [(2000, 1500)] * 4
    boxes = [(n, [10, 10, 42, 60]) for n in (1, 2, 3)] + [(4, [10, 10, 700, 700])]
    (said,) = small_at_input(document(*boxes, crowd=(), sizes=large), (256, 192), 8)
    assert "3 of 4 boxes of train are under 8 pixels" in said and "(dog 2 of 2; cat 1 of 2)" not in said
    assert "dog 2 of 2" in said and "--set input.scale=[384,288]" in said
    assert small_at_input(document(*boxes, crowd=(), sizes=large), (384, 288), 8) == []
    assert small_at_input(document(*boxes, crowd=(), sizes=large), (256, 192), 4) == []


def test_a_split_whose_every_box_is_too_small_is_refused() -> None:
    boxes = [(n, [10, 10, 42, 60]) for n in (1, 2)]
    with pytest.raises(DatasetError, match=r"2 of 2 boxes.*input\.scale=\[384,288\].*features\.minimum_size=NUMBER"):
        small_at_input(document(*boxes, crowd=(), sizes=[(2000, 1500)] * 2), (256, 192), 8)
    with pytest.raises(DatasetError, match="Cut the pictures into parts"):
        small_at_input(document((1, [10, 10, 2, 2]), crowd=(), sizes=[(9000, 9000)]), (256, 192), 8)


def test_elongated_pictures_are_told() -> None:
    (flat, small) = small_at_input(document((3, [0, 0, 900, 40]), (3, [0, 0, 9, 9])), (160, 120), 1)
    assert "1 of 6 pictures of train are under 32 pixels" in flat and "3.jpg (3000x40, then 2)" in flat
    assert "1 of 2 boxes" in small
