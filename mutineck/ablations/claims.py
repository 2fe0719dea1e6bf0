"""Claims, written down before they are run (`experiments/claims.yaml`), and their verdicts by the kept studies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import yaml
from pydantic import Field, ValidationError

from mutineck.ablations.intervals import Interval, mean_interval, on_resamples, paired_differences
from mutineck.ablations.studies import StudyResults
from mutineck.ablations.table import DASH, to_markdown, with_interval
from mutineck.study.experiment import Experiment, explain_errors, load_series
from mutineck.system.errors import ExperimentError, unknown
from mutineck.system.records import Record, differences

MET, NOT_MET, NOT_SHOWN, NOT_RUN = "met", "not met", "not shown", "not run yet"


class Claim(Record):
    """One claim: a contrast of two arms, and how large it must be."""

    claim: str = Field(min_length=1)
    """The claim in one plain sentence."""
    study: str
    """Experiment that decides it, as `experiments/STUDY.yaml`; or a series of the same study with several sets of
    teachers (`teacher_seed`)."""
    arm: str
    """Arm that the claim is about."""
    against: str
    """Arm that it is compared with."""
    split: Literal["val", "test"] = "test"
    """Split that the study reports."""
    metric: Literal["bbox_mAP"] = "bbox_mAP"
    """What is compared; studies keep resamples of pictures of this one alone."""
    least_effect: float = Field(gt=0)
    """Smallest difference, in points of 0 to 100, at which the claim is worth making."""


@dataclass(frozen=True)
class Verdict:
    """What a kept study says of a claim.

    Attributes:
        claim: what was claimed.
        said: `met`: the whole interval is at or above the least effect; `not met`: it is below; `not shown`: it holds
            the least effect; `not run yet`.
        effect: the difference in 0..1; None if not run yet.
        over: what the interval is over: `3 seeds and pictures`.
    """

    claim: Claim
    said: str
    effect: Interval | None = None
    over: str = ""


def load_claims(file: Path) -> list[Claim]:
    """Read the claims, each checked against its experiment's arms and reported split.

    Raises:
        ExperimentError: no list, an unknown or missing field, no such experiment beside the file, or no such arm in it.
    """
    given = yaml.safe_load(file.read_text(encoding="utf-8"))
    if not isinstance(given, list):
        raise ExperimentError(f"{file}: expected a list of claims, got {type(given).__name__}")
    claims = []
    for number, fields in enumerate(given, start=1):
        where = f"{file}: claim {number}"
        try:
            claim = Claim.model_validate(fields)
        except ValidationError as error:
            raise ExperimentError(f"{where}:\n" + "\n".join(explain_errors(error, Claim))) from error
        experiment = file.parent / f"{claim.study}.yaml"
        if not experiment.is_file():
            there = sorted(path.stem for path in file.parent.glob("*.yaml") if path != file)
            raise ExperimentError(f"{where}: " + unknown("study", claim.study, there))
        if claim.arm == claim.against:
            raise ExperimentError(f"{where}: `arm` and `against` are both {claim.arm!r}; name two arms")
        studies = load_series(experiment)
        for study in studies:
            for arm in (claim.arm, claim.against):
                if arm not in study.arms:
                    raise ExperimentError(f"{where}: {study.name}: " + unknown("arm", arm, study.arms))
            if claim.split != (reported := study.evaluation.report):
                raise ExperimentError(f"{where}: split: {study.name} reports {reported}, not {claim.split}")
        if why := _no_sets(studies):
            raise ExperimentError(f"{where}: {claim.study}: {why}")
        claims.append(claim)
    return claims


def _no_sets(studies: Sequence[Experiment]) -> str:
    """Return why the studies of a series are not one study with several sets of teachers; '' if they are."""
    first = studies[0]
    own = {"name", "description", "seeds", "teacher_seed", "relative_to"}
    for number, study in enumerate(studies[1:], start=1):
        changed = differences(first.model_dump(mode="json", exclude=own), study.model_dump(mode="json", exclude=own))
        if change := next(changed, ""):
            return f"{study.name} is another study than {first.name}, so they are no sets of teachers: {change}"
        for other in studies[:number]:
            if study.teacher_seed == other.teacher_seed:
                return (
                    f"{study.name} and {other.name} have the same teacher_seed, {study.teacher_seed}: give each its own"
                )
            if shared := sorted({*study.seeds} & {*other.seeds}):
                return f"{study.name} and {other.name} share seeds {shared}: sets are independent by seeds of their own"
    return ""


def judge(claim: Claim, studies: Sequence[StudyResults]) -> Verdict:
    """Compare a claim with the results of its study, or of its sets of teachers; none if they are not all kept.

    Over several sets each counts by its mean over seeds: sets are drawn first, and hold what seeds add.
    """
    rows = [
        paired_differences(
            study.frame, claim.split, claim.metric, against={claim.arm: claim.against}, resampled=study.resampled
        )
        for study in studies
    ]
    if not rows or any(each.empty or not each.loc[0, "n"] for each in rows):
        return Verdict(claim, NOT_RUN)
    pictures = [_on_pictures(study, claim, int(each.loc[0, "n"])) for study, each in zip(studies, rows, strict=True)]
    drawn = [each for each in pictures if each is not None]
    known = len(drawn) == len(studies)
    if len(studies) > 1:
        differences_of_sets = [float(each.loc[0, "difference"]) for each in rows]
        effect = mean_interval(differences_of_sets, resampled=np.stack(drawn) if known else None)
        over = f"{effect.n} sets of teachers and their seeds" + (", and pictures" if known else " alone")
    else:
        row = rows[0].loc[0]
        effect = Interval(int(row["n"]), *(float(row[k]) for k in ("difference", "std", "low", "high", "detectable")))
        units = f"{effect.n} seed{'s' if effect.n > 1 else ''}"
        over = (
            "pictures, one seed" if known and effect.n == 1 else f"{units} and pictures" if known else f"{units} alone"
        )
    least = claim.least_effect / 100
    said = MET if effect.low >= least else NOT_MET if effect.high < least else NOT_SHOWN
    return Verdict(claim, said, effect, over)


def _on_pictures(study: StudyResults, claim: Claim, seeds: int) -> np.ndarray | None:
    """Return the mean difference over a study's seeds on each resample of the pictures `(R,)`; None if one lacks it."""
    arm, against = (on_resamples(study.resampled, name) for name in (claim.arm, claim.against))
    if arm is None or against is None:
        return None
    paired = (arm - against).dropna()
    return paired.to_numpy(dtype=float).mean(axis=0) if len(paired) == seeds else None


def short_table(verdicts: Iterable[Verdict]) -> str:
    """Return a row a claim: what is claimed, the difference, what is said of it."""
    return _markdown(
        {"claim": each.claim.claim, "at least": f"+{each.claim.least_effect:g}", "difference, mAP": _difference(each)}
        | {"verdict": f"**{each.said}**"}
        for each in verdicts
    )


def long_table(verdicts: Iterable[Verdict]) -> str:
    """Return a row a claim, with its contrast, what the interval is over, and what the study could have seen.

    The smallest effect is said where the interval holds zero.
    """
    return _markdown(
        {
            "claim": each.claim.claim,
            "study": each.claim.study,
            "contrast": f"`{each.claim.arm}` less `{each.claim.against}`, {each.claim.split}",
            "at least": f"+{each.claim.least_effect:g}",
            "difference, mAP": _difference(each),
            "interval over": each.over or DASH,
            "smallest effect seen": _detectable(each.effect),
            "verdict": f"**{each.said}**",
        }
        for each in verdicts
    )


def _difference(verdict: Verdict) -> str:
    effect = verdict.effect
    return DASH if effect is None else with_interval(effect.mean, effect.low, effect.high)


def _detectable(effect: Interval | None) -> str:
    return f"{100 * effect.detectable:.1f}" if effect and effect.low <= 0 <= effect.high else DASH


def _markdown(rows: Iterable[dict[str, str]]) -> str:
    return to_markdown(pd.DataFrame(list(rows)))
