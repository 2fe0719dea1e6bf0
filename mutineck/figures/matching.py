"""Which detection found which target: COCO's greedy matching, kept so that drawings and breakdowns can look
at it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from mutineck.figures.split_data import Split

RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class ImageMatch:
    """Detections and targets of one picture; detections in falling score.

    Attributes:
        image_id: the picture.
        boxes, labels, scores: detections, ``(m, 4)`` as x, y, w, h, ``(m,)``, ``(m,)``.
        target_boxes, target_labels, crowd: targets, ``(n, 4)``, ``(n,)``, ``(n,)``.
        iou: ``(m, n)``; for a crowd target the share of the detection that lies in it.
        found: ``(m,)`` index of the target that a detection matched, -1 if none.
        ignored: ``(m,)`` whether a detection fell into a crowd, and counts neither as right nor as wrong.
    """

    image_id: int
    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    target_boxes: np.ndarray
    target_labels: np.ndarray
    crowd: np.ndarray
    iou: np.ndarray
    found: np.ndarray
    ignored: np.ndarray

    @property
    def matched(self) -> np.ndarray:
        """``(m,)`` whether a detection is right."""
        return (self.found >= 0) & ~self.ignored

    @property
    def false(self) -> np.ndarray:
        """``(m,)`` whether a detection is wrong."""
        return (self.found < 0) & ~self.ignored

    @property
    def missed(self) -> np.ndarray:
        """``(n,)`` whether a target that counts was not found."""
        missed = ~self.crowd
        missed[self.found[self.matched]] = False
        return missed

    def f1(self) -> float:
        """Return 2 TP / (2 TP + FP + FN); 1 for a picture without targets and without detections."""
        right, wrong, missed = int(self.matched.sum()), int(self.false.sum()), int(self.missed.sum())
        return 1.0 if right + wrong + missed == 0 else 2 * right / (2 * right + wrong + missed)


def match(
    image_id: int,
    detections: tuple[np.ndarray, np.ndarray, np.ndarray],
    targets: tuple[np.ndarray, np.ndarray, np.ndarray],
    *,
    iou: float = 0.5,
    by_category: bool = True,
) -> ImageMatch:
    """Match one picture's detections to its targets as COCO's evaluation does.

    In falling score, each detection takes the free target of its category with the highest IoU of at least
    ``iou``; a crowd target only if no other fits, and any number of detections may share it.

    Args:
        image_id: the picture.
        detections: boxes ``(m, 4)`` as x, y, w, h, labels ``(m,)``, scores ``(m,)``.
        targets: boxes ``(n, 4)`` as x, y, w, h, labels ``(n,)``, crowd flags ``(n,)``.
        iou: least overlap.
        by_category: whether a detection must name the target's category (a confusion matrix lets it err).
    """
    boxes, labels, scores = detections
    order = np.argsort(-scores, kind="stable")
    boxes, labels, scores = boxes[order].reshape(-1, 4), labels[order], scores[order]
    target_boxes, target_labels, crowd = targets
    overlap = np.zeros((len(boxes), len(target_boxes)))
    if overlap.size:
        overlap = np.asarray(coco_mask.iou(boxes, target_boxes.astype(float), crowd.astype(np.uint8)))
    found = np.full(len(boxes), -1)
    free = np.ones(len(target_boxes), dtype=bool)
    for i in range(len(boxes)):
        fits = overlap[i] >= min(iou, 1 - 1e-10)
        if by_category:
            fits &= target_labels == labels[i]
        for choice in (fits & free & ~crowd, fits & crowd):
            if choice.any():
                # Of equal overlaps COCO's loop keeps the last.
                best = len(choice) - 1 - int(np.where(choice, overlap[i], -1)[::-1].argmax())
                found[i] = best
                free[best] = crowd[best]
                break
    ignored = (found >= 0) & crowd[found] if len(target_boxes) else np.zeros(len(boxes), dtype=bool)
    return ImageMatch(
        image_id,
        boxes,
        labels,
        scores,
        target_boxes,
        target_labels,
        crowd,
        overlap,
        np.where(ignored, -1, found),
        ignored,
    )


def match_split(
    split: Split,
    predictions: dict[int, list[dict[str, Any]]],
    *,
    minimum_score: float = 0.0,
    iou: float = 0.5,
    by_category: bool = True,
    images: Iterable[int] | None = None,
) -> Iterator[ImageMatch]:
    """Match a split's stored predictions, picture by picture in the file's order (or those of ``images``)."""
    for image_id in split.images if images is None else images:
        items = [item for item in predictions.get(image_id, []) if item["score"] >= minimum_score]
        boxes = np.array([item["bbox"] for item in items], dtype=float).reshape(-1, 4)
        labels = np.array([split.label_of[item["category_id"]] for item in items], dtype=int)
        scores = np.array([item["score"] for item in items], dtype=float)
        targets = split.targets(image_id)
        yield match(image_id, (boxes, labels, scores), targets, iou=iou, by_category=by_category)


def best_threshold(matches: Iterable[ImageMatch]) -> float:
    """Return the score at which the detections' F1 over all pictures is highest; 0 if there are none.

    Matching goes by falling score, so leaving out low scores afterwards is the same as before.
    """
    matches = list(matches)
    scores = np.concatenate([m.scores[~m.ignored] for m in matches] or [np.zeros(0)])
    right = np.concatenate([m.matched[~m.ignored] for m in matches] or [np.zeros(0, dtype=bool)])
    if not len(scores):
        return 0.0
    order = np.argsort(-scores, kind="stable")
    found = np.cumsum(right[order])
    f1 = 2 * found / (np.arange(1, len(scores) + 1) + sum(int((~m.crowd).sum()) for m in matches))
    return float(scores[order][int(f1.argmax())])


def average_precision(scores: np.ndarray, right: np.ndarray, targets: int) -> float:
    """Return COCO's 101-point average precision of detections ``(m,)``, of which ``right`` found a target.

    NaN if there are no targets.
    """
    if targets == 0:
        return float("nan")
    order = np.argsort(-scores, kind="mergesort")
    found = np.cumsum(right[order])
    precision = found / np.arange(1, len(found) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    position = np.searchsorted(found / targets, RECALLS, side="left")
    return float(np.append(envelope, 0.0)[np.minimum(position, len(envelope))].mean())
