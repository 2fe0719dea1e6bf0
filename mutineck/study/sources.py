"""Settings of data that is not labelled for everything: several sources, or labels that an experiment hides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Literal

from pydantic import Field, model_validator

from mutineck.system.records import Record

SOURCE_NAME = r"^[A-Za-z0-9][A-Za-z0-9_]*$"


class SourceSpec(Record):
    """One of several folders of pictures, labelled for its own categories: all others are unknown there, not absent."""

    name: str = Field(pattern=SOURCE_NAME)
    """What tables, messages and `teachers[].source` call it."""
    root: str
    """Its folder."""
    format: Literal["auto", "voc", "coco", "yolo", "pictures"] = "auto"
    """As `dataset.format`; of `pictures` no labels are read."""
    categories: tuple[str, ...] | None = None
    """Categories that its pictures are labelled for; if null, all that its labels have."""
    aliases: dict[str, str] = Field({})
    """Name in its files -> category, over `dataset.aliases`."""
    split: tuple[float, float, float] | None = None
    """Its shares of train, val and test; if null, `dataset.split`, and all of `pictures` are trained on where another
    source has labels."""
    voc_offset: int | None = Field(None, ge=0, le=1)
    """As `dataset.voc_offset`, which counts if null."""

    @model_validator(mode="after")
    def _pictures_have_no_labels(self) -> SourceSpec:
        if self.format == "pictures" and (self.categories or self.aliases):
            raise ValueError(
                f"source {self.name!r}: of `pictures` no labels are read: leave `categories` and `aliases` out"
            )
        return self


class PartSpec(Record):
    """Pictures of a data set as one team would have left them: labelled for some categories."""

    name: str = Field(pattern=SOURCE_NAME)
    """What `teachers[].source` calls it."""
    categories: tuple[str, ...] | None = None
    """Categories that its pictures stay labelled for; all if null, none if empty."""
    share: float = Field(1.0, gt=0)
    """Its size, relative to the other parts' shares."""


class HideSpec(Record):
    """Labels that an experiment hides, so that what is made in their place can be measured."""

    parts: tuple[PartSpec, ...] = Field(min_length=1)
    """Parts that the pictures are divided into, each with its share of every category."""
    splits: tuple[Literal["train", "val", "test"], ...] = ("train",)
    """Splits in which labels are hidden; the others stay complete."""
    seed: int = 0
    """Chooses one of the many equally good divisions."""

    @model_validator(mode="after")
    def _names_differ(self) -> HideSpec:
        refuse_twins("dataset.hide.parts", [part.name for part in self.parts])
        return self


def refuse_twins(field: str, names: Iterable[str]) -> None:
    """Refuse names that stand twice in a list.

    Raises:
        ValueError: one does.
    """
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"{field}: names must differ, and {', '.join(twice)} stands there twice")
