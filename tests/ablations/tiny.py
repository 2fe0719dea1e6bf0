"""What stands for a finished run in tests of what reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mutineck.study.jobs import MANIFEST, Job
from mutineck.study.settings import settings_of
from mutineck.study.stage import Study
from mutineck.system.files import write_json


def write_manifest(study: Study, folder: Path, **fields: Any) -> None:
    """Write a manifest into a run's folder that says it was made with the study's settings."""
    job = Job.at(folder.relative_to(study.root).as_posix())
    write_json(folder / MANIFEST, {"settings": settings_of(study.experiment, job), **fields})
