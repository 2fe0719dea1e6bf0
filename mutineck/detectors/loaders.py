"""A study's pictures with their ground truth, batch by batch, as detectors are measured on them."""

from __future__ import annotations

import numpy as np
from torch.utils.data import DataLoader, Subset

from mutineck.detection.evaluation import SplitDataset, collate
from mutineck.study.stage import Study

MOST_PICTURES = 500
"""Most pictures of a split that analyses read: COCO's 5000 would take an hour and show the same."""


def evaluation_loader(
    study: Study, split: str, *, batch: int | None = None, share: tuple[int, int] = (0, 1)
) -> DataLoader:
    """Return a loader of `Batch` over a split of the study's data set, in order of image id.

    Args:
        study: any stage of it, after `dataset`.
        split: `train`, `val` or `test`.
        batch: images a step; `evaluation.batch` if None.
        share: `(rank, processes)`: this process's part of the pictures.
    """
    annotations = study.need("dataset", f"{split}.json")
    data = study.dataset
    pictures = SplitDataset(annotations, data.pictures, data.categories, study.experiment.input, share)
    size = batch or study.experiment.evaluation.batch
    return DataLoader(pictures, size, collate_fn=collate, num_workers=study.experiment.resources.workers)


def some_pictures(study: Study, split: str, most: int = MOST_PICTURES) -> DataLoader:
    """Return a loader of `Batch` over at most so many pictures of a split, evenly over its ids."""
    whole = evaluation_loader(study, split)
    count = len(whole.dataset)  # type: ignore[arg-type]
    chosen = np.linspace(0, count - 1, min(most, count)).round().astype(int).tolist()
    return DataLoader(
        Subset(whole.dataset, chosen), whole.batch_size, collate_fn=whole.collate_fn, num_workers=whole.num_workers
    )
