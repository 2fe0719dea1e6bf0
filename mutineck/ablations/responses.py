"""Where every detector's maps respond on one picture, student before and after teaching, stored to be drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mutineck.ablations.detectors import RESPONSES, detectors
from mutineck.distillation.observation import inspect_image
from mutineck.study.experiment import CHOOSING
from mutineck.study.stage import Outcome, Study
from mutineck.system.files import atomic_path


def measure_responses(study: Study, *, image: int | None = None) -> Outcome[Path]:
    """Compute the maps of teachers, intermediate teacher and students for one picture of the validation split; write
    `ablations/responses.npz`, which is what is found.

    Args:
        study: any stage of it; teachers and students must be there.
        image: id of the picture; the one with most targets if None.

    Raises:
        FileNotFoundError: a detector is missing; the message names the command.
        ExperimentError: the split has no such picture.
    """
    shown = detectors(study)
    observed = inspect_image(
        study,
        shown.teachers,
        merged=shown.intermediate is not None,
        students=shown.students,
        split=CHOOSING,
        image=image,
    )
    path = study.path("ablations", RESPONSES)
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, **observed)  # type: ignore[arg-type]
    return Outcome(path, writes=[path])
