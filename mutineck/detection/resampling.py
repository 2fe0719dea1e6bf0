"""How well a split can tell detectors apart: their AP on resamples of its pictures (the basic bootstrap)."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mutineck.detection.evaluation import MOST_DETECTIONS, coco_evaluation
from mutineck.system.seeding import derive_seed

LEVEL = 0.95
MOST_RESAMPLES = 1000
FEWEST_RESAMPLES = 200
PICTURES_DRAWN = 500_000
"""Over all resamples; a split of more than 500 pictures has fewer of these, so that COCO's 5000 take seconds, too."""


class Interval(NamedTuple):
    """A number with the ends of its 95 % interval."""

    value: float
    low: float
    high: float


def draw(pictures: int, seed: int = 0) -> np.ndarray:
    """Return how often each picture is in each resample of a split, drawn with replacement.

    Args:
        pictures: in the split.
        seed: of the drawing. Detectors that are compared take the same draws: pictures that are hard are so to both.

    Returns:
        `(1 + R, pictures)` int32. The first row is the split itself, each picture once. R is 1000, less for more than
        500 pictures, and 200 at least.
    """
    resamples = int(np.clip(PICTURES_DRAWN // pictures, FEWEST_RESAMPLES, MOST_RESAMPLES))
    generator = np.random.default_rng(derive_seed(seed, "resampling", pictures))
    drawn = generator.integers(pictures, size=(resamples, pictures))
    rows = np.repeat(np.arange(resamples), pictures)
    counts = np.zeros((1 + resamples, pictures), dtype=np.int32)
    counts[0] = 1
    np.add.at(counts, (1 + rows, drawn.ravel()), 1)
    return counts


def resampled_ap(
    annotations: Path, predictions: Sequence[dict[str, Any]], categories: Sequence[str], counts: np.ndarray
) -> np.ndarray:
    """Return a detector's AP of boxes by category on resamples of a split's pictures.

    Detections are matched once, picture by picture, as COCO does; a resample only weighs the pictures. It is what
    pycocotools comes to on a split that holds each picture as often.

    Args:
        annotations: COCO JSON.
        predictions: COCO results.
        categories: names to measure on.
        counts: `(R, pictures)`, as `draw` returns them, pictures by rising id.

    Returns:
        `(R, categories)` in 0..1, NaN where a resample has no object of the category.
    """
    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        ids = {category["name"]: category["id"] for category in truth.loadCats(truth.getCatIds())}
        evaluation = coco_evaluation(truth, predictions, [ids[name] for name in categories], "bbox")
        params = evaluation.params
        params.areaRng, params.areaRngLbl, params.maxDets = params.areaRng[:1], params.areaRngLbl[:1], [MOST_DETECTIONS]
        evaluation.evaluate()
    by_category = np.array(evaluation.evalImgs, dtype=object).reshape(len(params.catIds), len(params.imgIds))
    places = [params.catIds.index(ids[name]) for name in categories]
    return np.stack([_average_precision(by_category[place], counts, params.recThrs) for place in places], axis=1)


def mean_ap(by_category: np.ndarray) -> np.ndarray:
    """Return the mean over the categories that a resample has objects of `(R,)`, NaN where there are none.

    Args:
        by_category: `(R, categories)`, as `resampled_ap` returns it.
    """
    there = ~np.isnan(by_category)
    with np.errstate(invalid="ignore"):
        return np.where(there, by_category, 0.0).sum(axis=1) / there.sum(axis=1)


def interval(values: np.ndarray) -> Interval:
    """Return a split's own value with the basic bootstrap interval over its resamples.

    AP comes out higher on few pictures than on many, and so on resamples than on the split itself; the basic interval
    takes that back where percentiles would double it.

    Args:
        values: `(1 + R,)`, the split's own first; NaN is left out.
    """
    own, resampled = float(values[0]), values[1:][~np.isnan(values[1:])]
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(resampled, [tail, 100 - tail])
    return Interval(own, 2 * own - float(high), 2 * own - float(low))


def _average_precision(pictures: np.ndarray, counts: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Return the AP of one category on every resample `(R,)`.

    Args:
        pictures: what pycocotools found on each picture, or None.
        counts: `(R, pictures)`.
        thresholds: recalls at which precision is read.
    """
    found = [(place, item) for place, item in enumerate(pictures) if item is not None]
    if not found:
        return np.full(len(counts), np.nan)
    objects = counts[:, [place for place, _ in found]] @ np.array([(item["gtIgnore"] == 0).sum() for _, item in found])
    scores = np.concatenate([item["dtScores"] for _, item in found])
    order = np.argsort(-scores, kind="mergesort")
    owner = np.repeat([place for place, _ in found], [len(item["dtScores"]) for _, item in found])[order]
    # Both (IoU thresholds, detections), the best detection first.
    hit = np.concatenate([item["dtMatches"] for _, item in found], axis=1)[:, order] > 0
    ignored = np.concatenate([item["dtIgnore"] for _, item in found], axis=1)[:, order].astype(bool)
    total = np.zeros(len(counts))
    weights = counts[:, owner]
    everything = weights.cumsum(axis=1)
    for hits, left_out in zip(hit & ~ignored, ignored, strict=True):
        # Precision falls between two hits, so the hits alone make the curve.
        at = np.flatnonzero(hits)
        if not len(at):
            continue
        true = weights[:, at].cumsum(axis=1)
        counted = (weights * ~left_out).cumsum(axis=1)[:, at] if left_out.any() else everything[:, at]
        with np.errstate(invalid="ignore", divide="ignore"):
            recall = true / objects[:, None]
            precision = np.where(counted > 0, true / counted, 0.0)
        highest = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        # How many of the thresholds each hit is the first to reach.
        reached = np.searchsorted(thresholds, recall.ravel(), side="right").reshape(recall.shape)
        total += (highest * np.diff(reached, axis=1, prepend=0)).sum(axis=1) / len(thresholds)
    with np.errstate(invalid="ignore"):
        return np.where(objects > 0, total / len(hit), np.nan)
