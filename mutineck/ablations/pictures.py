"""Every student's mAP on the same resamples of the reported split's pictures: what the choice of pictures adds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from mutineck.ablations.results import HEADLINE, TEACHER, runs, scores, why_not
from mutineck.detection.resampling import FEWEST_RESAMPLES, draw, mean_ap, resampled_ap
from mutineck.study.stage import Outcome, Study
from mutineck.system.files import atomic_path, read_json
from mutineck.system.tables import read_table

RESAMPLED = "resampled.csv"
KEYS = ["arm", "seed"]
TOLERANCE = 2e-5
"""Metrics and resamples are rounded to five places."""


def measure_pictures(study: Study) -> Outcome[pd.DataFrame]:
    """Measure bbox_mAP of every student that has results on resamples of the reported split's pictures.

    Resample b is the same pictures for every arm and seed, and in every study that reports as many, so differences of
    two students are paired. Writes `ablations/resampled.csv`.

    Returns:
        Found: a row an arm and seed: `arm`, `seed`, then mAP in 0..1 on the split itself (column `0`) and on 200
        resamples (`1` to `200`); NaN where a resample has no object.

    Raises:
        FileNotFoundError: a student's predictions are missing; the message names the command.
    """
    split = study.experiment.evaluation.report
    annotations, predictions = study.need("dataset", f"{split}.json"), f"predictions_{split}.json"
    counts = draw(len(read_json(annotations)["images"]))[: 1 + FEWEST_RESAMPLES]
    rows = []
    for arm, seed, job in runs(study):
        if seed is not None and not why_not(study, job):
            found = read_json(study.need(job.folder, predictions))
            values = mean_ap(resampled_ap(annotations, found, study.dataset.categories, counts))
            rows.append([arm, seed, *np.round(values, 5)])
    table = pd.DataFrame(rows, columns=[*KEYS, *map(str, range(len(counts)))])
    file = study.path("ablations", RESAMPLED)
    with atomic_path(file) as temporary:
        table.to_csv(temporary, index=False, float_format="%.5f", lineterminator="\n")
    return Outcome(table, writes=[file])


def read_resampled(path: Path, frame: pd.DataFrame, split: str) -> pd.DataFrame | None:
    """Read what `measure_pictures` wrote, as far as it is of these results: a student measured anew has none.

    Args:
        path: of the table.
        frame: tidy rows as `collect` returns them.
        split: the reported one.

    Returns:
        mAP by arm and seed (the index), a column a resample; None where there is no such table.
    """
    if not path.is_file():
        return None
    rows = scores(frame, split, HEADLINE)
    reached = rows[~rows["arm"].str.startswith(TEACHER)].set_index(KEYS)["value"]
    table = read_table(path).set_index(KEYS)
    own = np.array([reached.get(key, np.nan) for key in table.index], dtype=float)
    return table[np.abs(table["0"] - own) < TOLERANCE].drop(columns="0")
