"""Arms of a comparison: what a student learns from, read off the arm's name and a few lines of YAML."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

FEATURES = ("fgd", "mgd", "pkd", "cwd")
INTERMEDIATE = "intermediate"
SOURCES = ("mean", "confidence", "sequential", "adapters", INTERMEDIATE)
GENERALIST = "generalist"
"""A teacher for comparison: of the anchor's kind, with all labels and the teachers' epochs together."""
OWN = "own"
"""The start of a student that has nothing from a teacher."""
AT = "@"
"""Between an arm's name and what it starts from: `fgd:mean@intermediate`."""
PARTS = ("intermediate", "regions", "centroids")
ALONE = "student"
"""The arm without a teacher, which every other is compared with."""
ENSEMBLE = "ensemble"
"""The teachers' fused detections, a row among the teachers in tables."""
METHOD = "mutineck"
"""The arm that the study is about."""
RESERVED = {
    **dict.fromkeys(SOURCES, "a source of arms"),
    OWN: "a start of arms",
    ALONE: "the student's row in tables of detectors",
    GENERALIST: "the control teacher of all labels, made where an arm asks for it",
    ENSEMBLE: "the teachers' fused detections in tables",
    "merged": "the intermediate teacher's maps in what is stored of a picture",
    "all": "all teachers together in the pictures of clusters",
}
"""What no teacher may be called, and what it means."""
TEACHER = "teacher:"
"""Prefix of a teacher's name where teachers and arms stand in one column; no arm begins so."""
FEATURE_WEIGHTS = {"fgd": ("temperature", "alpha", "beta", "gamma", "lambda", "cwd")} | dict.fromkeys(
    FEATURES[1:], ("peer",)
)
CENTROID_WEIGHTS = ("centroid", "centroid_loss", "centroid_distance", "centroid_cosine")
HEAD_WEIGHTS = ("logits", "logit_proposals")


def method_in(arms: Iterable[str]) -> str | None:
    """Return the method's arm: `mutineck`, else the first of it that names its start; None if none is given."""
    found = [arm for arm in arms if arm.partition(AT)[0] == METHOD]
    return METHOD if METHOD in found else next(iter(found), None)


class ArmSpec(BaseModel):
    """One arm: which feature loss, from whose maps, with which of the method's parts (`docs/method.md`).

    What is not said here, the arm's name says. Fields and defaults below are those of a name that says nothing.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, use_attribute_docstrings=True)

    feature: Literal["none", "fgd", "mgd", "pkd", "cwd"] = "none"
    """The loss by which the student's maps are compared; with `none` nobody teaches, and the fields about teaching are
    refused."""
    source: str = ""
    """Whose maps: a teacher's name, `mean`, `confidence`, `sequential`, `adapters`, `intermediate`, or `generalist`: a
    control of the anchor's kind that learns from all labels for as many epochs as the teachers together, trained where
    an arm asks for it, and no part of anything else."""
    regions: bool = False
    """Centre, boundary and background from stacked proposals, instead of ground-truth boxes (`fgd`); and where
    `distillation.logits` is above 0 and the source is `intermediate`, second stages are compared at the proposals. An
    arm that has no use for the proposals is refused."""
    centroids: bool = False
    """Pull the student's instance vectors toward class centroids."""
    start: str | None = None
    """What the student starts from: `own`, its first weights by the seed; or all but the backbone and a mask branch
    from a teacher (its name) or from `intermediate`, the anchor's neck under the intermediate teacher's head. One of
    another type or other strides than the student is refused. The name says it after an `@`: `student@intermediate`,
    `mutineck@own`. If null, `student.inherit` decides."""
    epochs: int | None = Field(None, ge=1)
    """Override of `student.schedule.epochs`."""
    weights: dict[str, float | tuple[int, ...] | Literal["attract", "contrast"]] = {}
    """Overrides of fields of `distillation`, e.g. `{alpha: 1.e-4}` or `{balance: 40}`: numbers, a list of `strides`, a
    `centroid_loss`; of those that the arm's losses have."""

    @property
    def taught(self) -> bool:
        """Whether the student learns from anybody beside the ground truth."""
        return self.feature != "none"

    @property
    def needs_intermediate(self) -> bool:
        """Whether the arm learns from the intermediate teacher's map."""
        return self.source == INTERMEDIATE

    @property
    def compares_heads(self) -> bool:
        """Whether `distillation.logits` means anything to the arm."""
        return self.regions and self.needs_intermediate

    @property
    def needs_proposals(self) -> bool:
        """Whether the arm asks what the teachers propose, and not for their maps alone."""
        by_omega = self.source == "adapters" and self.feature == "fgd"
        return self.regions or by_omega or self.source == "confidence"

    def teacher_names(self, teachers: Sequence[str]) -> tuple[str, ...]:
        """Return the single teachers whose networks run while this arm trains, the anchor first."""
        if not self.taught:
            return ()
        return (self.source,) if self.source in (*teachers, GENERALIST) else tuple(teachers)

    def unread(self, logits: float) -> str:
        """Return what the arm says and nothing would read, and why; '' if all of it is read.

        Args:
            logits: weight of second stages in this arm; 0 where the student has none to compare.
        """
        if not self.taught:
            if said := [name for name in ("source", "regions", "centroids", "weights") if getattr(self, name)]:
                return f"{' and '.join(said)} would not be read: `feature: none` teaches nothing. Name a feature"
            return ""
        if self.regions and self.feature != "fgd" and not (self.compares_heads and logits):
            return (
                f"`regions` would not be read: they are of `feature: fgd` (this is {self.feature}), or say where "
                "second stages are compared (`source: intermediate`, `logits` above 0, a two-stage student)"
            )
        if self.centroids and self.source == GENERALIST:
            return "`centroids`: the generalist is no part of the features, so it has none; leave them out"
        if self.regions and self.source == "adapters":
            return (
                "`regions` and `source: adapters` each say what counts as foreground (the stack, a teacher's omega for "
                "a target): leave `regions` out, or take `source: mean`"
            )
        read = {"strides", "warmup_epochs", "balance", *FEATURE_WEIGHTS[self.feature]}
        if self.centroids:
            read |= {*CENTROID_WEIGHTS}
        if self.compares_heads and (logits or self.weights.get("logits") == 0):
            read |= {*HEAD_WEIGHTS}
        if unread := [name for name in self.weights if name not in read]:
            return f"weights: {', '.join(unread)} would not be read: this arm's losses have {', '.join(sorted(read))}"
        return ""


def resolve_arm(name: str, spec: Any, teachers: Sequence[str]) -> dict[str, Any]:
    """Complete an arm from its name.

    `student`; `LOSS:SOURCE` with LOSS one of fgd, mgd, pkd, cwd and SOURCE a teacher, `mean`, `confidence`,
    `sequential`, `adapters`, `intermediate` or `generalist`; `adapters` (= `fgd:adapters`); `mutineck`, and
    `mutineck-PART` for it less one part (intermediate, regions, centroids); any of them with `@START`. What the YAML
    says wins over what the name says, but for the start, which must not differ. Any other name is free, if its spec
    says `feature` and `source`.

    Raises:
        ValueError: the name says nothing and the spec neither, or a source or start that is no teacher.
    """
    if isinstance(spec, ArmSpec):
        spec = spec.model_dump()
    given: dict[str, Any] = dict(spec) if isinstance(spec, Mapping) else {}
    if spec is not None and not isinstance(spec, Mapping):
        raise ValueError(f"arm {name!r}: expected a mapping (or nothing), got {spec!r}")
    # An experiment.yaml from before there were starts.
    if given.get("inherit", False) is None:
        del given["inherit"]
    base, at, start = name.partition(AT)
    resolved = _from_name(base) | given
    if at and given.get("start") not in (None, start):
        raise ValueError(f"arm {name!r}: its name says that it starts from {start!r}, `start` says {given['start']!r}")
    if at:
        resolved["start"] = start
    starts = [OWN, *teachers, INTERMEDIATE, GENERALIST]
    if resolved.get("start") not in (None, *starts):
        near = difflib.get_close_matches(str(resolved["start"]), starts, n=2)
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise ValueError(f"arm {name!r}: unknown start {resolved['start']!r}{hint} (known: {', '.join(starts)})")
    if name == ALONE and resolved.get("start"):
        raise ValueError(f"arm {ALONE!r} starts from its own weights; call it {ALONE}{AT}{resolved['start']}")
    known = [*teachers, *SOURCES, GENERALIST]
    if "feature" not in resolved:
        hints = difflib.get_close_matches(name, [ALONE, METHOD, "adapters", *(f"fgd:{s}" for s in known)], n=2)
        hint = f"; did you mean {' or '.join(map(repr, hints))}?" if hints else ""
        raise ValueError(f"arm {name!r} has no part that is known{hint}; name a `feature` and a `source` in it")
    if resolved["feature"] != "none" and resolved.get("source") not in known:
        near = difflib.get_close_matches(str(resolved.get("source")), known, n=2)
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise ValueError(f"arm {name!r}: unknown source {resolved.get('source')!r}{hint} (known: {', '.join(known)})")
    return resolved


def _from_name(name: str) -> dict[str, Any]:
    if name == ALONE:
        return {"feature": "none"}
    if name == "adapters":
        return {"feature": "fgd", "source": "adapters"}
    if name == METHOD or name.removeprefix(f"{METHOD}-") in PARTS:
        part = name.removeprefix(METHOD).removeprefix("-")
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
