"""The pictures of a split that everything is looked at on."""

from __future__ import annotations

import numpy as np
from torch.utils.data import DataLoader, Subset

from mutineck.detection.evaluation import evaluation_loader
from mutineck.study.stage import Study

MOST_PICTURES = 500
"""Most pictures of a split that are looked at: COCO's 5000 would take an hour and show the same."""


def some_pictures(study: Study, split: str, most: int = MOST_PICTURES) -> DataLoader:
    """Return a loader of `Batch` over at most so many pictures of a split, evenly over its ids."""
    whole = evaluation_loader(study, split)
    count = len(whole.dataset)  # type: ignore[arg-type]
    chosen = np.linspace(0, count - 1, min(most, count)).round().astype(int).tolist()
    return DataLoader(
        Subset(whole.dataset, chosen), whole.batch_size, collate_fn=whole.collate_fn, num_workers=whole.num_workers
    )
