"""Who teaches what: each teacher's weight omega and best proposal for every target of a split."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch

from mutineck.ablations.detectors import OMEGA
from mutineck.detection.evaluation import device_of
from mutineck.detectors.folders import load_frozen
from mutineck.detectors.loaders import MOST_PICTURES, some_pictures
from mutineck.study.experiment import CHOOSING
from mutineck.study.stage import Outcome, Study
from mutineck.system.tables import write_table
from mutineck.teachers.regions import RegionSettings, match_batch


@torch.no_grad()
def measure_omega(study: Study, *, pictures: int = MOST_PICTURES) -> Outcome[pd.DataFrame]:
    """Weigh the teachers for every target of the validation split, crowd left out; write `ablations/omega.csv`.

    Args:
        study: any stage of it; its teachers must be there.
        pictures: most pictures that are read.

    Returns:
        Found: a row for each target and teacher: `image_id`, `annotation_id`, `category`, `teacher`, `omega` (sum 1
        over a target's teachers), `quality` q in [0, 1] (0 without a proposal), and the best proposal `x1`, `y1`,
        `x2`, `y2` in pixels of the original picture (NaN without one).

    Raises:
        FileNotFoundError: a teacher or the data set is missing; the message names the command.
    """
    device = device_of(study.experiment.resources.device)
    categories = study.dataset.categories
    teachers = [load_frozen(study, teacher.name) for teacher in study.experiment.teachers]
    settings = RegionSettings(**study.experiment.distillation.regions.model_dump())
    rows: list[dict[str, Any]] = []
    for batch in some_pictures(study, CHOOSING, pictures):
        image = batch.image.to(device)
        found = [teacher.maps_and_proposals(image, batch.metas)[1] for teacher in teachers]
        keep = [~crowd for crowd in batch.crowd]
        boxes = [b[k].to(device) for b, k in zip(batch.boxes, keep, strict=True)]
        labels = [c[k].to(device) for c, k in zip(batch.labels, keep, strict=True)]
        targets = match_batch([list(row) for row in zip(*found, strict=True)], boxes, labels, settings)
        weights, quality = targets.weights.cpu().numpy(), targets.quality.cpu().numpy()  # (N, J, n)
        best = targets.proposals[..., 0, :].cpu().numpy()  # (N, J, n, 4): proposals come best first
        for i, (image_id, meta) in enumerate(zip(batch.image_ids, batch.metas, strict=True)):
            ids = batch.annotation_ids[i][keep[i]].tolist()
            for j, (annotation, label) in enumerate(zip(ids, labels[i].tolist(), strict=True)):
                for n, teacher in enumerate(teachers):
                    box = best[i, j, n] / np.asarray(meta["scale_factor"], np.float32)
                    corners = dict(zip(("x1", "y1", "x2", "y2"), map(float, box), strict=True))
                    rows.append(
                        {
                            "image_id": image_id,
                            "annotation_id": annotation,
                            "category": categories[label],
                            "teacher": teacher.name,
                            "omega": float(weights[i, j, n]),
                            "quality": float(quality[i, j, n]),
                        }
                        | (corners if quality[i, j, n] > 0 else dict.fromkeys(corners, np.nan))
                    )
    columns = ["image_id", "annotation_id", "category", "teacher", "omega", "quality", "x1", "y1", "x2", "y2"]
    table = pd.DataFrame(rows, columns=columns)
    return Outcome(table, writes=[write_table(table, study.path("ablations", OMEGA))])
