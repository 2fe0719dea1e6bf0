"""Differences between arms over seeds: paired, with an interval that says how little few seeds can show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from scipy import stats

from mutineck.ablations.results import HEADLINE, TEACHER, scores
from mutineck.study.arms import ALONE


@dataclass(frozen=True)
class Interval:
    """A mean over seeds with its spread; what one seed cannot say is NaN.

    Attributes:
        n: number of seeds.
        mean: arithmetic mean.
        std: sample standard deviation (n - 1); NaN for n = 1.
        low, high: ends of the interval at the level asked for; NaN for n = 1.
    """

    n: int
    mean: float
    std: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """An arm against a baseline, seed by seed.

    Attributes:
        difference: arm minus baseline with Student's t interval over the seeds that both have.
        bootstrap_low, bootstrap_high: percentile bootstrap of the same mean; NaN for n < 3, where it means
            nothing.
        effect: Cohen's d of paired samples, mean / standard deviation of the differences; NaN if either
            cannot be had.
        p: two-sided p of the paired t-test; NaN for n = 1.
    """

    difference: Interval
    bootstrap_low: float
    bootstrap_high: float
    effect: float
    p: float


def mean_interval(values: np.ndarray | list[float], level: float = 0.95) -> Interval:
    """Return mean, sample standard deviation and t interval of values ``(n,)``; NaN values are left out."""
    given = np.asarray(values, dtype=float)
    given = given[~np.isnan(given)]
    n = len(given)
    if n == 0:
        return Interval(0, *[float("nan")] * 4)
    mean = float(given.mean())
    if n == 1:
        return Interval(1, mean, *[float("nan")] * 3)
    std = float(given.std(ddof=1))
    half = float(stats.t.ppf(0.5 + level / 2, n - 1)) * std / n**0.5
    return Interval(n, mean, std, mean - half, mean + half)


def compare(
    arm: pd.Series, baseline: pd.Series, *, level: float = 0.95, resamples: int = 9999, seed: int = 0
) -> Comparison:
    """Compare an arm with a baseline over the seeds that both have.

    Args:
        arm, baseline: values by seed (the index).
        level: of the intervals.
        resamples: bootstrap draws.
        seed: of the bootstrap.

    Raises:
        ValueError: the two share no seed.
    """
    paired = pd.concat([arm, baseline], axis=1, join="inner", keys=["arm", "baseline"]).dropna()
    if paired.empty:
        raise ValueError(f"no seed in common: {list(arm.index)} against {list(baseline.index)}")
    differences = (paired["arm"] - paired["baseline"]).to_numpy(dtype=float)
    interval = mean_interval(differences, level)
    nan = float("nan")
    if interval.n == 1 or np.ptp(differences) < 1e-12:
        # Equal differences have no spread to measure an effect by: t would be infinite, which says nothing.
        return Comparison(interval, nan, nan, nan, nan)
    low = high = nan
    if interval.n >= 3:
        drawn = stats.bootstrap(
            (differences,), np.mean, confidence_level=level, n_resamples=resamples, method="percentile",
            rng=np.random.default_rng(seed),
        ).confidence_interval  # fmt: skip
        low, high = float(drawn.low), float(drawn.high)
    return Comparison(
        interval, low, high, interval.mean / interval.std, float(stats.ttest_1samp(differences, 0).pvalue)
    )


def paired_differences(
    frame: pd.DataFrame, split: str, metric: str = HEADLINE, *, against: Mapping[str, str | None] | str = ALONE
) -> pd.DataFrame:
    """Return one row an arm: its paired difference over seeds to a baseline.

    Args:
        frame: tidy rows as `collect` returns them.
        split: where.
        metric: of what.
        against: the baseline, or each arm's own; an arm without one has no row.

    Returns:
        Columns arm, against, n, difference, std, low, high, bootstrap_low, bootstrap_high, effect, p; in the metric's
        own unit (0..1). Arms that share no seed with their baseline have n = 0. A baseline without results has no row.
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
            found = compare(values, by_arm[baseline])
        except ValueError:
            table.append(named | {"n": 0})
            continue
        parts = asdict(found)
        interval = parts.pop("difference")
        table.append(named | {"n": interval.pop("n"), "difference": interval.pop("mean"), **interval, **parts})
    return pd.DataFrame(table, columns=None if table else ["arm", "against", "n", "difference", "std", "low", "high"])
