"""What a study's last run was given beside its experiment's file: later commands, and notebooks, go on with it."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from mutineck.study.experiment import Experiment, load_experiment
from mutineck.study.experiment_file import find_file
from mutineck.system.files import read_json, write_json

LAST_RUN = "log/last_run.json"
"""In the study's folder."""


class Remembered(NamedTuple):
    """An experiment as its study was last run.

    Attributes:
        experiment: of its file as it is now, with what the last run had set, and last what is set now.
        root: the study's folder, `outputs/EXPERIMENT`.
        overrides: all that is set, the last run's items first.
    """

    experiment: Experiment
    root: Path
    overrides: list[str]


def note_last_run(root: Path, overrides: Iterable[str]) -> None:
    """Keep what a run has set."""
    write_json(root / LAST_RUN, {"overrides": list(overrides)})


def last_overrides(root: Path) -> list[str]:
    """Return what the last run in a study's folder had set; nothing if there was none."""
    path = root / LAST_RUN
    return list(read_json(path)["overrides"]) if path.is_file() else []


def is_of_study(file: str | Path, root: Path) -> bool:
    """Whether an experiment's file is the one in its study's folder, which says all that was set."""
    return find_file(file).parent == root.resolve()


def load_as_last_run(file: str | Path, overrides: Sequence[str], outputs: Path) -> Remembered:
    """Read an experiment with what the last run of its study had set, and say so.

    A run that has set another `name` has another folder: it is found if the name is set here, too.

    Args:
        file: as for `load_experiment`.
        overrides: set now; they win over the last run's.
        outputs: folder that holds the study's folder.

    Raises:
        ExperimentError: as for `load_experiment`.
    """
    experiment = load_experiment(file, overrides)
    root = outputs / experiment.name
    remembered = [] if is_of_study(file, root) else last_overrides(root)
    if remembered:
        print(f"with {' '.join(f'--set {shlex.quote(item)}' for item in remembered)}, as in the last run")
        experiment = load_experiment(file, [*remembered, *overrides])
    return Remembered(experiment, root, [*remembered, *overrides])
