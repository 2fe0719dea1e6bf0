"""What no training picture is labelled for: a category that nobody could learn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mutineck.dataset.records import DatasetError
from mutineck.detection.labelled import pictures_labelled
from mutineck.study.experiment import TeacherSpec


def refuse_unknown(teachers: Iterable[TeacherSpec], train: Mapping[str, Any]) -> None:
    """Refuse a category that no training picture is labelled for and no teacher knows.

    A teacher that is trained here knows what pictures are labelled for; what a given one knows, `categories` or its
    checkpoint say.

    Raises:
        DatasetError: there is one.
    """
    missing = [name for name, count in pictures_labelled(train).items() if not count]
    known: set[str] = set()
    for teacher in teachers:
        if teacher.detector is None and teacher.categories is None:
            return  # its checkpoint says, which the teachers' stage reads
        if teacher.detector is None:
            known |= {teacher.aliases.get(name, name) for name in teacher.categories or ()}
    if lost := [name for name in missing if name not in known]:
        raise DatasetError(
            f"dataset.categories: no training picture is labelled for {', '.join(lost)}, and no teacher knows it: "
            "label some, name a teacher that knows it (`teachers[].categories`, `aliases`), or leave it out of "
            "dataset.categories"
        )
