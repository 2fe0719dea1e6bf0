"""Resamples of a split's pictures: against pycocotools on splits that hold pictures several times, and at their ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mutineck.detection.evaluation import measure
from mutineck.detection.resampling import draw, interval, mean_ap, resampled_ap
from mutineck.system.files import write_json

NAMES = ("cat", "dog", "kite")


def split(path: Path, pictures: int, *, objects: int = 4, seed: int = 0) -> tuple[Path, list[dict[str, Any]]]:
    """Write a split of random boxes, crowds among them, and return it with detections that are right more or less."""
    random = np.random.default_rng(seed)
    annotations: list[dict[str, Any]] = []
    predictions: list[dict[str, Any]] = []
    for image in range(1, pictures + 1):
        for _ in range(objects):
            x, y, width, height = (*random.uniform(0, 80, 2), *random.uniform(10, 40, 2))
            category = int(random.integers(1, 3))  # no kite is anywhere
            crowd = int(random.random() < 0.1)
            box = {"image_id": image, "category_id": category, "bbox": [x, y, width, height]}
            annotations.append(
                box | {"id": len(annotations) + 1, "area": width * height, "iscrowd": crowd, "ignore": crowd}
            )
            for _ in range(3):
                moved = (np.array([x, y, width, height]) + random.normal(0, 4, 4)).tolist()
                label = int(random.integers(1, 4)) if random.random() < 0.3 else category
                predictions.append(box | {"category_id": label, "bbox": moved, "score": float(random.random())})
    images = [{"id": n, "file_name": f"{n}.png", "width": 128, "height": 128} for n in range(1, pictures + 1)]
    categories = [{"id": n + 1, "name": name} for n, name in enumerate(NAMES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    return write_json(path, content), predictions


def repeated(folder: Path, file: Path, predictions: list[dict[str, Any]], times: np.ndarray) -> dict[str, float]:
    """Return pycocotools' APs on a split that really holds each picture so many times."""
    from mutineck.system.files import read_json

    content = read_json(file)
    copies = [(image["id"], n) for image, count in zip(content["images"], times, strict=True) for n in range(count)]
    new = {copy: n + 1 for n, copy in enumerate(copies)}

    def copied(rows: list[dict[str, Any]], key: str) -> list[dict[str, Any]]:
        return [row | {key: number} for (image, _), number in new.items() for row in rows if row[key] == image]

    annotations = [row | {"id": n + 1} for n, row in enumerate(copied(content["annotations"], "image_id"))]
    images = copied(content["images"], "id")
    path = write_json(folder / "repeated.json", content | {"images": images, "annotations": annotations})
    rows = measure(path, copied(predictions, "image_id"))
    return {row["category"]: row["value"] for row in rows if row["metric"] in ("AP", "bbox_mAP")}


def test_a_resample_is_what_pycocotools_says_of_a_split_with_these_pictures(tmp_path: Path) -> None:
    file, predictions = split(tmp_path / "val.json", 12)
    counts = draw(12)[:6]
    found = resampled_ap(file, predictions, NAMES, counts)
    assert found.shape == (6, 3) and np.isnan(found[:, 2]).all(), "there is no kite to be found"
    for row, times in zip(found, counts, strict=True):
        expected = repeated(tmp_path, file, predictions, times)
        assert dict(zip(NAMES[:2], row, strict=False)) == pytest.approx({n: expected[n] for n in NAMES[:2]}, abs=1e-5)
        assert mean_ap(row[None])[0] == pytest.approx(expected[""], abs=1e-5)
    assert 0.05 < found[0, 0] < 0.95


def test_pictures_that_are_not_labelled_for_a_category_count_as_they_are_measured(tmp_path: Path) -> None:
    from mutineck.system.files import read_json

    file, predictions = split(tmp_path / "val.json", 12)
    content = read_json(file)
    for image in content["images"][:6]:
        image["labelled_category_ids"] = [1, 3]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] > 6 or a["category_id"] != 2]
    write_json(file, content)
    found = resampled_ap(file, predictions, NAMES, draw(12)[:1])
    expected = {row["category"]: row["value"] for row in measure(file, predictions) if row["metric"] == "AP"}
    assert dict(zip(NAMES[:2], found[0], strict=False)) == pytest.approx(expected, abs=1e-5)


def test_perfect_and_blind_detectors_are_known_for_sure(tmp_path: Path) -> None:
    file, _ = split(tmp_path / "val.json", 8)
    from mutineck.system.files import read_json

    truth = read_json(file)["annotations"]
    perfect = [{**row, "score": 1.0} for row in truth if not row["iscrowd"]]
    for predictions, value in ((perfect, 1.0), ([], 0.0)):
        assert interval(mean_ap(resampled_ap(file, predictions, NAMES, draw(8)))) == pytest.approx((value,) * 3)


def test_a_category_that_nobody_could_find_does_not_count() -> None:
    values = np.array([[0.5, np.nan, np.nan], [np.nan, np.nan, 0.3], [0.4, 0.0, np.nan], [np.nan] * 3])
    assert mean_ap(values) == pytest.approx([0.5, 0.3, 0.2, np.nan], nan_ok=True)


def test_the_interval_lies_on_the_other_side_of_what_resamples_add() -> None:
    assert interval(np.array([0.5, *np.linspace(0.5, 0.7, 101)])) == pytest.approx((0.5, 0.305, 0.495))


def test_the_interval_covers_what_more_pictures_would_say(tmp_path: Path) -> None:
    file, predictions = split(tmp_path / "all.json", 600)
    whole = float(mean_ap(resampled_ap(file, predictions, NAMES, np.ones((1, 600), int)))[0])
    held = 0
    for seed in range(12):
        part, found = split(tmp_path / "part.json", 30, seed=seed + 1)
        value, low, high = interval(mean_ap(resampled_ap(part, found, NAMES, draw(30)[:301])))
        assert low < value < high
        held += low <= whole <= high
    assert held >= 9, "fewer than that of twelve 95 % intervals: one time in 5000"


def test_draws_keep_the_number_of_pictures_repeat_and_are_bounded() -> None:
    counts = draw(40)
    assert counts.shape == (1001, 40) and (counts[0] == 1).all() and (counts.sum(axis=1) == 40).all()
    assert (draw(40) == counts).all() and not (draw(40, seed=1) == counts).all()
    assert counts[1:].mean(axis=0) == pytest.approx(np.ones(40), abs=0.15)
    assert len(draw(5000)) == 201


def test_resamples_leave_out_what_a_picture_is_not_labelled_for(tmp_path: Path) -> None:
    from tests.detection.test_evaluation import PARTLY, partly

    file = partly(tmp_path / "truth.json")
    own = resampled_ap(file, PARTLY, ("cat", "dog"), np.ones((1, 3), int))[0]
    rows = {row["category"]: row["value"] for row in measure(file, PARTLY) if row["metric"] == "AP"}
    assert own == pytest.approx([rows["cat"], rows["dog"]], abs=1e-5)
