"""Running a detector over a split, and measuring it as COCO does."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mutineck.detection.configs import pipelines
from mutineck.detection.labelled import on_labelled_pictures
from mutineck.detection.prepare import prepare
from mutineck.detection.protocols import Detector, Metas
from mutineck.detection.specs import InputSpec
from mutineck.system.files import read_json

SUMMARY = ("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l")
"""COCO's first six numbers, for boxes and for masks."""
MOST_DETECTIONS = 100


@dataclass(frozen=True)
class Batch:
    """Some pictures of a split, without augmentation, with all their annotations.

    Attributes:
        image: `(N, 3, H, W)` float32, normalised and padded.
        metas: mmdet's `img_metas`.
        boxes: for each image `(n, 4)` as `(x_min, y_min, x_max, y_max)`, pixels of the network's input.
        labels: for each image `(n,)` int64, indices into the data set's categories.
        annotation_ids: for each image `(n,)` int64.
        image_ids: N ids.
        crowd: for each image `(n,)` bool.
    """

    image: Tensor
    metas: Metas
    boxes: list[Tensor]
    labels: list[Tensor]
    annotation_ids: list[Tensor]
    image_ids: list[int]
    crowd: list[Tensor]


class SplitDataset(Dataset):
    """Pictures and annotations of a COCO file, through mmdet's test pipeline.

    Args:
        annotations: COCO JSON.
        pictures: folder that its file names are relative to.
        categories: names, in label order.
        spec: the network's input.
        share: `(rank, processes)`: this process's part of the pictures.
    """

    def __init__(
        self,
        annotations: Path,
        pictures: Path,
        categories: Sequence[str],
        spec: InputSpec,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        prepare()
        from mmdet.datasets.pipelines import Compose

        content = read_json(annotations)
        names = {c["id"]: c["name"] for c in content["categories"]}
        labels = {number: list(categories).index(name) for number, name in names.items() if name in categories}
        self.images = sorted(content["images"], key=lambda image: image["id"])[share[0] :: share[1]]
        self.pictures = pictures
        self.annotations: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in self.images}
        for annotation in content["annotations"]:
            if annotation["image_id"] in self.annotations and annotation["category_id"] in labels:
                self.annotations[annotation["image_id"]].append(
                    annotation | {"label": labels[annotation["category_id"]]}
                )
        self._pipeline = Compose(pipelines(spec)[1])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = self.images[index]
        item = self._pipeline(
            {
                "img_info": {"filename": image["file_name"], "file_name": image["file_name"], **image},
                "img_prefix": str(self.pictures),
                "bbox_fields": [],
            }
        )
        meta = item["img_metas"][0].data
        rows = self.annotations[image["id"]]
        corners = np.array([row["bbox"] for row in rows], dtype=np.float32).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        height, width = meta["img_shape"][:2]
        corners *= np.asarray(meta["scale_factor"], dtype=np.float32)
        corners = corners.clip(0, np.array([width, height, width, height], dtype=np.float32))
        return {
            "image": item["img"][0].data,
            "meta": meta,
            "boxes": torch.from_numpy(corners),
            "labels": torch.tensor([row["label"] for row in rows], dtype=torch.int64),
            "annotation_ids": torch.tensor([row["id"] for row in rows], dtype=torch.int64),
            "crowd": torch.tensor([bool(row.get("iscrowd", 0)) for row in rows], dtype=torch.bool),
            "image_id": image["id"],
        }


def collate(items: list[dict[str, Any]]) -> Batch:
    """Pad pictures to the largest of the batch, with zeros at right and bottom."""
    height = max(item["image"].shape[1] for item in items)
    width = max(item["image"].shape[2] for item in items)
    image = items[0]["image"].new_zeros(len(items), 3, height, width)
    for row, item in zip(image, items, strict=True):
        row[:, : item["image"].shape[1], : item["image"].shape[2]] = item["image"]
    for item in items:
        item["meta"]["batch_input_shape"] = (height, width)
    return Batch(
        image=image,
        metas=[item["meta"] for item in items],
        boxes=[item["boxes"] for item in items],
        labels=[item["labels"] for item in items],
        annotation_ids=[item["annotation_ids"] for item in items],
        image_ids=[item["image_id"] for item in items],
        crowd=[item["crowd"] for item in items],
    )


def device_of(choice: str) -> torch.device:
    """Return the device for `auto`, `cpu` or `cuda`."""
    if choice == "auto":
        choice = "cuda" if torch.cuda.is_available() else "cpu"
    # Under torchrun each process of a machine has a GPU of its own.
    return torch.device(choice, int(os.environ.get("LOCAL_RANK", "0"))) if choice == "cuda" else torch.device(choice)


@torch.no_grad()
def predict(
    model: Detector,
    loader: DataLoader | Sequence[Batch],
    category_ids: Sequence[int | None],
    *,
    device: torch.device,
    prepare_image: Callable[[Tensor], Tensor] | None = None,
) -> list[dict[str, Any]]:
    """Run a detector over a loader of `Batch`.

    Args:
        model: an mmdet detector; put into eval mode, and back into the mode it was in.
        loader: of `Batch`.
        category_ids: the COCO id of each of the detector's labels, None where detections are to be dropped.
        device: where to run.
        prepare_image: applied to each batch, for a detector that expects another normalisation.

    Returns:
        COCO results: `image_id`, `category_id`, `bbox` as `(x, y, width, height)` in pixels of the original picture,
        `score`; of a detector with a mask branch also `segmentation`, run-length encoded.
    """
    training = model.training
    model.to(device).eval()
    rows: list[dict[str, Any]] = []
    for batch in loader:
        image = batch.image.to(device)
        results = model.simple_test(prepare_image(image) if prepare_image else image, batch.metas, rescale=True)
        for image_id, result in zip(batch.image_ids, results, strict=True):
            boxes, masks = result if isinstance(result, tuple) else (result, None)
            rows += _result_rows(image_id, boxes, masks, category_ids)
    model.train(training)
    return rows


def _result_rows(
    image_id: int,
    boxes: Sequence[np.ndarray],
    masks: Sequence[Sequence[np.ndarray]] | None,
    category_ids: Sequence[int | None],
) -> Iterator[dict[str, Any]]:
    for label, category_id in enumerate(category_ids):
        if category_id is None:
            continue
        for index, (x_min, y_min, x_max, y_max, score) in enumerate(boxes[label].astype(float).tolist()):
            box = [round(value, 2) for value in (x_min, y_min, x_max - x_min, y_max - y_min)]
            row = {"image_id": image_id, "category_id": category_id, "bbox": box, "score": round(score, 5)}
            yield row if masks is None else row | {"segmentation": _run_lengths(masks[label][index])}


def _run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """Return a mask `(height, width)` as COCO's compressed run-length encoding, JSON-able."""
    from pycocotools import mask as coder

    found = coder.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(found["size"]), "counts": found["counts"].decode("ascii")}


def measure(
    annotations: Path, predictions: list[dict[str, Any]], categories: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """Measure predictions as COCO does, on all categories or on some.

    Args:
        annotations: COCO JSON.
        predictions: COCO results.
        categories: names to measure on; all of the file's if None.

    Returns:
        Rows `metric` (`bbox_mAP` and so on, `segm_mAP` and so on where predictions and annotations have masks, `AP` of
        boxes by category), `category` (empty for a mean over categories), `value` in [0, 1]; a mean over nothing (for
        instance large boxes where there are none) is left out.
    """
    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        chosen = [c for c in truth.loadCats(truth.getCatIds()) if categories is None or c["name"] in categories]
        ids = [c["id"] for c in chosen]
        boxes = _evaluated(truth, predictions, ids, "bbox")
        rows = _summary(boxes, "bbox")
        if predictions and "segmentation" in predictions[0] and all(a.get("segmentation") for a in truth.anns.values()):
            rows += _summary(_evaluated(truth, predictions, ids, "segm"), "segm")
    precision = boxes.eval["precision"]  # (IoU, recall, category, area, detections)
    for category in chosen:
        # pycocotools sorts categories by id, whatever their order in the file.
        values = precision[:, :, boxes.params.catIds.index(category["id"]), 0, -1]
        if (values > -1).any():
            rows.append(_row("AP", category["name"], values[values > -1].mean()))
    return rows


def coco_evaluation(truth: Any, predictions: Sequence[dict[str, Any]], ids: list[int], kind: str) -> Any:
    """Return a `COCOeval` of predictions on the categories with these ids, not run yet.

    A category is measured on the pictures that are labelled for it (`mutineck.detection.labelled`), as LVIS does it:
    what is found of it in another picture is neither right nor wrong.

    Args:
        truth: pycocotools' `COCO`.
        predictions: COCO results.
        ids: of the categories.
        kind: `bbox` or `segm`.

    Raises:
        ValueError: the truth has an object of a category that its picture is not labelled for.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    predictions = on_labelled_pictures(truth.dataset, predictions)
    # Copies, since pycocotools writes into what it is given; and without what is not measured: given both, it takes an
    # object for small or large by its box where masks are measured.
    unmeasured = "segmentation" if kind == "bbox" else "bbox"
    results = [{key: value for key, value in row.items() if key != unmeasured} for row in predictions]
    # An empty list is what it cannot load.
    evaluation = COCOeval(truth, truth.loadRes(results) if results else COCO(), kind)
    evaluation.params.catIds = ids
    evaluation.params.maxDets = [1, 10, MOST_DETECTIONS]
    return evaluation


def _evaluated(truth: Any, predictions: Sequence[dict[str, Any]], ids: list[int], kind: str) -> Any:
    evaluation = coco_evaluation(truth, predictions, ids, kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation


def _summary(evaluation: Any, kind: str) -> list[dict[str, Any]]:
    named = zip(SUMMARY, evaluation.stats[:6], strict=True)
    return [_row(f"{kind}_{name}", "", value) for name, value in named if value > -1]


def _row(metric: str, category: str, value: float) -> dict[str, Any]:
    return {"metric": metric, "category": category, "value": round(float(value), 5)}


def category_ids(annotations: Path, categories: Sequence[str]) -> list[int]:
    """Return the COCO ids of category names, in the order of the names."""
    ids = {c["name"]: c["id"] for c in read_json(annotations)["categories"]}
    return [ids[name] for name in categories]
