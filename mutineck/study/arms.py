"""Arms of a comparison: what a student learns from, read off the arm's name and a few lines of YAML."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

FEATURES = ("fgd", "mgd", "pkd", "cwd")
SOURCES = ("mean", "confidence", "sequential", "adapters", "intermediate")
PARTS = ("intermediate", "regions", "centroids")


class ArmSpec(BaseModel):
    """One arm: which feature loss, from whose maps, with which of the method's parts (`docs/method.md`).

    What is not said here, the arm's name says. Fields and defaults below are those of a name that says nothing.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, use_attribute_docstrings=True)

    feature: Literal["none", "fgd", "mgd", "pkd", "cwd"] = "none"
    """The loss by which the student's maps are compared; `none` teaches nothing, whatever else is set."""
    source: str = ""
    """Whose maps: a teacher's name, `mean`, `confidence`, `sequential`, `adapters`, or `intermediate`."""
    regions: bool = False
    """Centre, boundary and background from stacked proposals, instead of ground-truth boxes (`fgd` alone); and where
    `distillation.logits` is above 0 and the source is `intermediate`, second stages are compared at the proposals."""
    centroids: bool = False
    """Pull the student's instance vectors toward class centroids."""
    inherit: bool | None = None
    """Override of `student.inherit`."""
    epochs: int | None = Field(None, ge=1)
    """Override of `student.schedule.epochs`."""
    weights: dict[str, float | tuple[int, ...]] = {}
    """Overrides of fields of `distillation`, e.g. `{alpha: 1.e-4}`: numbers, or a list of `strides`."""

    @property
    def needs_intermediate(self) -> bool:
        """Whether the arm learns from the intermediate teacher's map."""
        return self.source == "intermediate"

    @property
    def compares_heads(self) -> bool:
        """Whether `distillation.logits` means anything to the arm."""
        return self.regions and self.needs_intermediate

    @property
    def needs_proposals(self) -> bool:
        """Whether the arm asks what the teachers propose, and not for their maps alone."""
        return self.regions or self.source in ("adapters", "confidence")

    def teacher_names(self, teachers: Sequence[str]) -> tuple[str, ...]:
        """Return the single teachers whose networks run while this arm trains, the anchor first."""
        if self.feature == "none" and not self.centroids:
            return ()
        return (self.source,) if self.source in teachers else tuple(teachers)


def resolve_arm(name: str, spec: Any, teachers: Sequence[str]) -> dict[str, Any]:
    """Complete an arm from its name.

    `student`; `LOSS:SOURCE` with LOSS one of fgd, mgd, pkd, cwd and SOURCE a teacher, `mean`, `confidence`,
    `sequential`, `adapters` or `intermediate`; `adapters` (= `fgd:adapters`); `mutineck`, and `mutineck-PART` for it
    less one part (intermediate, regions, centroids). What the YAML says wins over what the name says. Any other name
    is free, if its spec says `feature` and `source`.

    Raises:
        ValueError: the name says nothing and the spec neither, or a source that is no teacher.
    """
    if isinstance(spec, ArmSpec):
        spec = spec.model_dump()
    given: dict[str, Any] = dict(spec) if isinstance(spec, Mapping) else {}
    if spec is not None and not isinstance(spec, Mapping):
        raise ValueError(f"arm {name!r}: expected a mapping (or nothing), got {spec!r}")
    resolved = _from_name(name) | given
    known = [*teachers, *SOURCES]
    if "feature" not in resolved:
        hints = difflib.get_close_matches(name, ["student", "mutineck", "adapters", *(f"fgd:{s}" for s in known)], n=2)
        hint = f"; did you mean {' or '.join(map(repr, hints))}?" if hints else ""
        raise ValueError(f"arm {name!r} says nothing that is known{hint}; name a `feature` and a `source` in it")
    if resolved["feature"] != "none" and resolved.get("source") not in known:
        near = difflib.get_close_matches(str(resolved.get("source")), known, n=2)
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise ValueError(f"arm {name!r}: unknown source {resolved.get('source')!r}{hint} (known: {', '.join(known)})")
    return resolved


def _from_name(name: str) -> dict[str, Any]:
    if name == "student":
        return {"feature": "none"}
    if name == "adapters":
        return {"feature": "fgd", "source": "adapters"}
    if name == "mutineck" or name.removeprefix("mutineck-") in PARTS:
        part = name.removeprefix("mutineck").removeprefix("-")
        return {
            "feature": "fgd",
            # Without an intermediate teacher the single teachers' losses are averaged, each with its own centroids.
            "source": "mean" if part == "intermediate" else "intermediate",
            "regions": part != "regions",
            "centroids": part != "centroids",
        }
    loss, separator, source = name.partition(":")
    if separator and loss in FEATURES:
        return {"feature": loss, "source": source}
    return {}
