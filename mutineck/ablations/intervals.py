"""Differences between arms over seeds and pictures: paired, with an interval that says how little few can show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from scipy import stats

from mutineck.ablations.results import HEADLINE, TEACHER, scores
from mutineck.study.arms import ALONE

POWER = 0.8


@dataclass(frozen=True)
class Interval:
    """A mean over seeds with its spread; what cannot be said is NaN.

    Attributes:
        n: number of seeds.
        mean: arithmetic mean.
        std: sample standard deviation (n - 1); NaN for n = 1.
        low, high: ends of the interval at the level asked for; NaN for n = 1 without resamples of the pictures.
        detectable: the smallest effect that had been seen as one, its interval beside 0, with a probability of 80 %.
    """

    n: int
    mean: float
    std: float
    low: float
    high: float
    detectable: float = math.nan


@dataclass(frozen=True)
class Comparison:
    """An arm against a baseline, seed by seed.

    Attributes:
        difference: arm minus baseline over the seeds that both have.
        effect: Cohen's d of paired samples, mean / standard deviation of the differences; NaN if either
            cannot be had.
        p: two-sided p of the paired t-test over seeds; NaN for n = 1.
    """

    difference: Interval
    effect: float
    p: float


def mean_interval(
    values: np.ndarray | list[float], level: float = 0.95, resampled: np.ndarray | None = None
) -> Interval:
    """Return mean, sample standard deviation and interval of values ``(n,)``, one a seed; NaN values are left out.

    Seeds and pictures are two samples that cross: every seed is measured on the same pictures. Each adds the variance
    of the mean that it causes: seeds ``std^2 / n`` with n - 1 degrees of freedom; pictures the variance of the mean
    over R resamples, with R - 1. Student's t has the degrees of freedom of their sum (Welch 1947, Satterthwaite 1946),
    since a percentile bootstrap over three to five seeds comes out far too narrow. What a seed does to some pictures
    alone counts in both, so the interval is a little too wide (Owen 2007, "The pigeonhole bootstrap").

    Args:
        values: on the whole split.
        level: of the interval.
        resampled: ``(n, R)``, the same on R resamples of the pictures, equal ones in all rows; None if they are not
            known: the interval is over seeds alone. With one seed it is over pictures alone.
    """
    given = np.asarray(values, dtype=float)
    known = ~np.isnan(given)
    n, nan = int(known.sum()), float("nan")
    if n == 0:
        return Interval(0, nan, nan, nan, nan)
    mean, std = float(given[known].mean()), float(given[known].std(ddof=1)) if n > 1 else nan
    # Variance of the mean, degrees of freedom.
    parts = [(std**2 / n, n - 1)] if n > 1 else []
    if resampled is not None:
        means = resampled[known].mean(axis=0)
        parts.append((float(np.nanvar(means, ddof=1)), int((~np.isnan(means)).sum()) - 1))
    variance = sum(part for part, _ in parts)
    if not parts:
        return Interval(n, mean, std, nan, nan)
    freedom = variance**2 / sum(part**2 / own for part, own in parts) if variance else n
    error, wide, power = variance**0.5, *(float(q) for q in stats.t.ppf([0.5 + level / 2, POWER], freedom))
    return Interval(n, mean, std, mean - wide * error, mean + wide * error, (wide + power) * error)


def compare(
    arm: pd.Series,
    baseline: pd.Series,
    *,
    level: float = 0.95,
    resampled: Sequence[pd.DataFrame | None] = (),
) -> Comparison:
    """Compare an arm with a baseline over the seeds that both have.

    Args:
        arm, baseline: values by seed (the index).
        level: of the interval.
        resampled: both on the same resamples of the pictures, as `on_resamples` returns them, for `mean_interval`; not
            used where one of them lacks a seed.

    Raises:
        ValueError: the two share no seed.
    """
    paired = pd.concat([arm, baseline], axis=1, join="inner", keys=["arm", "baseline"]).dropna()
    if paired.empty:
        raise ValueError(f"no seed in common: {list(arm.index)} against {list(baseline.index)}")
    differences = (paired["arm"] - paired["baseline"]).to_numpy(dtype=float)
    known = [each for each in resampled if each is not None and paired.index.isin(each.index).all()]
    drawn = [each.loc[paired.index].to_numpy(dtype=float) for each in known]
    pictures = drawn[0] - drawn[1] if len(drawn) == 2 else None
    interval = mean_interval(differences, level, pictures)
    if interval.n == 1 or np.ptp(differences) < 1e-12:
        # Equal differences have no spread to measure an effect by: t would be infinite, which says nothing.
        return Comparison(interval, math.nan, math.nan)
    return Comparison(interval, interval.mean / interval.std, float(stats.ttest_1samp(differences, 0).pvalue))


def on_resamples(resampled: pd.DataFrame | None, arm: str) -> pd.DataFrame | None:
    """Return an arm's values on resamples of the pictures, a row a seed, from a table by arm and seed; None without."""
    if resampled is None or arm not in resampled.index.get_level_values("arm"):
        return None
    return resampled.xs(arm, level="arm")


def paired_differences(
    frame: pd.DataFrame,
    split: str,
    metric: str = HEADLINE,
    *,
    against: Mapping[str, str | None] | str = ALONE,
    resampled: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Return one row an arm: its paired difference over seeds to a baseline.

    Args:
        frame: tidy rows as `collect` returns them.
        split: where.
        metric: of what.
        against: the baseline, or each arm's own; an arm without one has no row.
        resampled: the metric on resamples of the split's pictures, as `read_resampled` returns it.

    Returns:
        Columns arm, against, n, difference, std, low, high, detectable, effect, p; in the metric's own unit (0..1).
        Arms that share no seed with their baseline have n = 0. A baseline without results has no row.
    """
    rows = scores(frame, split, metric)
    rows = rows[~rows["arm"].str.startswith(TEACHER)]
    by_arm = {str(arm): group.set_index("seed")["value"] for arm, group in rows.groupby("arm", sort=False)}
    table = []
    for arm, values in by_arm.items():
        baseline = against if isinstance(against, str) else against.get(arm)
        if baseline is None or baseline == arm or baseline not in by_arm:
            continue
        named = {"arm": arm, "against": baseline}
        try:
            found = compare(
                values, by_arm[baseline], resampled=[on_resamples(resampled, each) for each in (arm, baseline)]
            )
        except ValueError:
            table.append(named | {"n": 0})
            continue
        parts = asdict(found)
        interval = parts.pop("difference")
        table.append(named | {"n": interval.pop("n"), "difference": interval.pop("mean"), **interval, **parts})
    return pd.DataFrame(table, columns=None if table else ["arm", "against", "n", "difference", "std", "low", "high"])
