"""A teacher against its floor, and the intermediate one against the best teacher, on resamples of val's pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mutineck.detection.resampling import draw, interval, mean_ap, resampled_ap
from mutineck.study.checks import Check, TooWeak, is_weak, least, refusal_of
from mutineck.study.experiment import CHOOSING, INTERMEDIATE
from mutineck.study.stage import Study
from mutineck.system.files import read_json, write_json
from mutineck.teachers import CHECK_FILE


def check_teacher(study: Study, rows: Sequence[Mapping[str, Any]]) -> Check | None:
    """Compare the teacher `study.item` with its floor; write `check.json`, and say what came of it.

    Args:
        study: at the teacher, whose predictions are written.
        rows: its metrics.

    Returns:
        None where the split has no object of a category that the teacher knows.

    Raises:
        TooWeak: it is weak, and `checks.on_weak` is `stop`.
    """
    known = [row["category"] for row in rows if row["metric"] == "AP" and row["split"] == CHOOSING]
    if not known:
        return None
    counts = _draws(study)
    return _settled(study, "", _resampled(study, str(study.item), known, counts), 0.0, pictures=counts.shape[1])


def check_intermediate(study: Study) -> Check:
    """Compare the intermediate teacher with the best teacher; write `check.json`, and say what came of it.

    Both are measured on the same resamples over the study's categories; a teacher has 0 on those that it lacks.

    Raises:
        TooWeak: it is weaker by more than the gate and the pictures allow, and `checks.on_weak` is `stop`.
    """
    categories = study.dataset.categories
    counts = _draws(study)
    teachers = [teacher.name for teacher in study.experiment.teachers]
    best = max(teachers, key=lambda name: ap_on_all_categories(study, name))
    reached, reference = (_resampled(study, name, categories, counts) for name in (INTERMEDIATE, best))
    return _settled(study, best, reached, reference, pictures=counts.shape[1])


def ap_on_all_categories(study: Study, teacher: str, split: str = CHOOSING) -> float:
    """Return a teacher's mean AP over the study's categories, 0 for each that it lacks."""
    rows = read_json(study.need("teachers", teacher, "metrics.json"))
    values = [r["value"] for r in rows if r["split"] == split and r["metric"] == "AP"]
    annotations = read_json(study.need("dataset", f"{split}.json"))["annotations"]
    with_truth = {a["category_id"] for a in annotations if not a.get("iscrowd")}
    return sum(values) / max(1, len(with_truth))


def _draws(study: Study) -> np.ndarray:
    """Return how often each picture of val is in each resample."""
    return draw(len(read_json(study.need("dataset", f"{CHOOSING}.json"))["images"]))


def _resampled(study: Study, teacher: str, categories: Sequence[str], counts: np.ndarray) -> np.ndarray:
    predictions = read_json(study.need("teachers", teacher, f"predictions_{CHOOSING}.json"))
    return mean_ap(resampled_ap(study.need("dataset", f"{CHOOSING}.json"), predictions, categories, counts))


def _settled(study: Study, against: str, reached: np.ndarray, reference: np.ndarray | float, *, pictures: int) -> Check:
    """Write what a comparison came to, and print it.

    Args:
        study: at the teacher.
        against: the teacher that it is compared with, or empty.
        reached: its mAP on the split and on the resamples `(1 + R,)`.
        reference: that teacher's.
        pictures: of the split.

    Raises:
        TooWeak: as `check_teacher`.
    """
    found = interval(reached - reference)
    value, difference, low, high = (round(float(number), 5) for number in (reached[0], *found))
    check = Check(value, against, difference, low, high, pictures, len(reached) - 1)
    write_json(study.folder / CHECK_FILE, check._asdict())
    name, bound = str(study.item), least(study.experiment, str(study.item))
    text = f"bbox_mAP {check.reached:.3f} on {CHOOSING}"
    sign = "+" if against else ""
    if against:
        best = check.reached - check.difference
        text += f"; the best teacher is {against!r}, {best:.3f}: difference {check.difference:+.3f}"
    ends = f"{check.low:{sign}.3f} to {check.high:{sign}.3f}"
    text += f" (95 % interval {ends} over resamples of {pictures} pictures)"
    verdict = "weak" if is_weak(study.experiment, name, check) else "good enough"
    print(f"teacher {name!r}: {text}; {'gate' if against else 'floor'} {bound:.3f}: {verdict}")
    if study.experiment.checks.on_weak == "stop" and (why := refusal_of(study.experiment, name, check)):
        raise TooWeak(why)
    return check
