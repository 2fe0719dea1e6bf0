"""Matching, its average precision and the breakdown of errors, against COCO's own evaluation and by hand."""

from __future__ import annotations

import numpy as np
import pytest

from mutineck.figures.confusion import confusion_counts
from mutineck.figures.detection_errors import breakdown, classify
from mutineck.figures.matching import ImageMatch, average_precision, best_threshold, match, match_split
from mutineck.figures.precision import evaluate
from mutineck.figures.split_data import Split, prediction_file
from mutineck.study.stage import Study
from mutineck.system.files import read_json

BOX = [10.0, 10.0, 20.0, 20.0]
FAR = [70.0, 70.0, 20.0, 20.0]
SHIFTED = [20.0, 10.0, 20.0, 20.0]  # IoU with BOX: 200 / 600 = 1/3


def one(found: list[tuple[list[float], int, float]], targets: list[tuple[list[float], int, bool]], **how) -> ImageMatch:
    detections = (
        np.array([box for box, *_ in found], dtype=float).reshape(-1, 4),
        np.array([label for _, label, _ in found], dtype=int),
        np.array([score for *_, score in found], dtype=float),
    )
    truth = (
        np.array([box for box, *_ in targets], dtype=float).reshape(-1, 4),
        np.array([label for _, label, _ in targets], dtype=int),
        np.array([crowd for *_, crowd in targets], dtype=bool),
    )
    return match(1, detections, truth, **how)


@pytest.mark.parametrize("name", ["faster", "retina", "student/seed0", "mutineck/seed2"])
def test_average_precision_is_cocos(name: str, finished: Study) -> None:
    split = Split(finished, "test")
    path = prediction_file(finished, name, "test")
    expected = evaluate(split, read_json(path)).eval["precision"][0, :, :, 0, -1].mean()
    matches = list(match_split(split, split.predictions(path)))
    assert breakdown(matches, len(split.categories))["AP50"][0] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("found", "targets", "kinds", "missed"),
    [
        pytest.param([(BOX, 0, 0.9)], [(BOX, 0, False)], [""], 0, id="right"),
        pytest.param([(BOX, 1, 0.9)], [(BOX, 0, False)], ["classification"], 0, id="wrong category"),
        pytest.param([(SHIFTED, 0, 0.9)], [(BOX, 0, False)], ["localisation"], 0, id="shifted"),
        pytest.param([(SHIFTED, 1, 0.9)], [(BOX, 0, False)], ["both"], 1, id="shifted and wrong"),
        pytest.param([(BOX, 0, 0.9), (BOX, 0, 0.8)], [(BOX, 0, False)], ["", "duplicate"], 0, id="twice"),
        pytest.param([(FAR, 0, 0.9)], [(BOX, 0, False)], ["background"], 1, id="nothing there"),
        pytest.param([(FAR, 0, 0.9)], [], ["background"], 0, id="empty picture"),
        pytest.param([], [(BOX, 0, False)], [], 1, id="no detection"),
        pytest.param([(BOX, 0, 0.9)], [(BOX, 0, True)], [""], 0, id="in a crowd"),
    ],
)
def test_kinds_of_error(found: list, targets: list, kinds: list[str], missed: int) -> None:
    mistakes = classify(one(found, targets))
    assert mistakes.kind.tolist() == kinds
    assert mistakes.missed.sum() == missed


def test_cost_of_one_wrong_category_by_hand() -> None:
    # Category 0 has two targets, the first is found: AP = 51 of 101 recalls. The second is called 1, with a
    # higher score than the one target of category 1, which is found: AP = 1 / 2.
    third = [10.0, 40.0, 20.0, 20.0]
    picture = one(
        [(BOX, 0, 0.9), (FAR, 1, 0.8), (third, 1, 0.7)], [(BOX, 0, False), (FAR, 0, False), (third, 1, False)]
    )
    table = breakdown([picture], 2).set_index("error")
    assert table["AP50"].iloc[0] == pytest.approx((51 / 101 + 1 / 2) / 2)
    assert table.loc["classification", "AP50_mended"] == pytest.approx(1.0)
    assert table.loc["classification", "count"] == 1
    assert table.loc[["both", "duplicate", "background", "missed"], "cost"].abs().max() == 0


def test_perfect_detector_has_no_cost(finished: Study) -> None:
    split = Split(finished, "test")
    perfect = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 0.9}
        for a in split.document["annotations"]
    ]
    grouped: dict[int, list] = {}
    for item in perfect:
        grouped.setdefault(item["image_id"], []).append(item)
    table = breakdown(list(match_split(split, grouped)), len(split.categories))
    assert table["AP50"].iloc[0] == pytest.approx(1.0)
    assert table["cost"].abs().max() == pytest.approx(0)


@pytest.mark.parametrize(
    ("right", "targets", "expected"),
    [([True, True], 2, 1.0), ([True, False], 2, 51 / 101), ([False, True], 1, 0.5), ([], 3, 0.0)],
)
def test_average_precision_by_hand(right: list[bool], targets: int, expected: float) -> None:
    scores = np.linspace(0.9, 0.1, len(right))
    assert average_precision(scores, np.array(right, dtype=bool), targets) == pytest.approx(expected)


def test_average_precision_without_targets_is_unknown() -> None:
    assert np.isnan(average_precision(np.array([0.5]), np.array([False]), 0))


def test_best_threshold_keeps_the_right_and_drops_the_wrong() -> None:
    picture = one([(BOX, 0, 0.9), (FAR, 0, 0.4)], [(BOX, 0, False)])
    assert best_threshold([picture]) == pytest.approx(0.9)
    assert best_threshold([]) == 0.0


def test_confusion_counts_by_hand() -> None:
    picture = one(
        [(BOX, 1, 0.9), (FAR, 0, 0.8)],
        [(BOX, 0, False), ([40.0, 60.0, 9.0, 9.0], 1, False)],
        by_category=False,
    )
    #                       as 0, as 1, missed
    assert confusion_counts([picture], 2).tolist() == [[0, 1, 0], [0, 0, 1], [1, 0, 0]]


def test_crowd_absorbs_any_number_and_is_never_missed() -> None:
    picture = one([(BOX, 0, 0.9), (BOX, 0, 0.8), (FAR, 0, 0.7)], [([0.0, 0.0, 50.0, 50.0], 0, True)])
    assert picture.ignored.tolist() == [True, True, False]
    assert not picture.missed.any()
    assert picture.f1() == 0.0
