"""The comparison at a glance: every arm's mAP, each seed as a point, teachers as lines."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import pandas as pd
import seaborn

from mutineck.ablations.intervals import mean_interval
from mutineck.ablations.results import TEACHER, collect, missing, part_known, scores
from mutineck.figures.style import DASHES, TWO_COLUMNS, Drawing, arm_colours, in_words, new_figure
from mutineck.study.arms import ALONE
from mutineck.study.experiment import Experiment
from mutineck.study.stage import Study
from mutineck.study.starts import untaught_like


def _interval(values: pd.Series) -> tuple[float, float]:
    found = mean_interval(values.to_numpy(dtype=float))
    return found.low, found.high


def arms(study: Study) -> Drawing:
    """Draw mAP of every arm (points are seeds, the bar their mean, the whisker its 95 % t interval) and
    teacher (lines).
    """
    experiment = study.experiment
    split = experiment.evaluation.report
    frame = collect(study)
    rows = scores(frame, split)
    rows = rows.assign(percent=100 * rows["value"])
    names = list(experiment.arms)
    colours = arm_colours(names)
    figure = new_figure(TWO_COLUMNS, 0.9 + 0.27 * len(names))
    axis = figure.subplots()
    means = {}
    several = False
    for position, name in enumerate(names):
        interval = mean_interval(rows.loc[rows["arm"] == name, "percent"].dropna().to_numpy(dtype=float))
        if not interval.n:
            continue
        means[name] = interval.mean
        several |= interval.n > 1
        # In a column beside the axis, where no bar and no teacher's line runs through the number.
        axis.text(1.01, position, f"{interval.mean:.1f}", transform=axis.get_yaxis_transform(), va="center", fontsize=7)
    shown = rows[rows["arm"].isin(names)].dropna(subset=["percent"])
    places = {"data": shown, "x": "percent", "y": "arm", "order": names, "ax": axis, "legend": False}
    seaborn.barplot(**places, hue="arm", palette=colours, width=0.62, alpha=0.85, saturation=1, errorbar=_interval,
                    capsize=0.2, err_kws={"color": "black", "linewidth": 0.8, "zorder": 3})  # fmt: skip
    if several:
        seaborn.stripplot(**places, jitter=False, color="white", edgecolor="black", size=3, linewidth=0.6, zorder=4)
    teachers = rows[rows["arm"].str.startswith(TEACHER)].dropna(subset=["percent"])
    for dashes, arm, value in zip(itertools.cycle(DASHES), teachers["arm"], teachers["percent"], strict=False):
        name = f"{arm.removeprefix(TEACHER)} {value:.1f}{part_known(frame, arm, split)}"
        axis.axvline(value, color="#444444", linewidth=1, linestyle=dashes, label=name, zorder=2)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.set_xlim(0, 1.1 * max([1.0, *rows["percent"].dropna()]))
    axis.tick_params(axis="y", length=0)
    axis.set_ylabel("")
    axis.set_xlabel(f"mAP on the {split} split, %")
    if len(teachers):
        legend = figure.legend(loc="outside upper center", ncols=5, title="teachers", handlelength=3)
        legend.get_title().set_fontsize(7)
    gain = _gain(experiment, means)
    spread = (
        "Points are seeds, whiskers 95 % t intervals of the mean." if several else "One seed: no interval can be given."
    )
    absent = missing(study)
    gap = f" Not there yet: {', '.join(absent)}." if absent else ""
    return Drawing(
        figure,
        rows[["arm", "seed", "split", "metric", "value"]],
        "What every way of teaching achieves",
        f"mAP of the student taught in {len(means)} ways; dashed lines are the teachers. {spread}{gain}{gap}",
        f"Horizontal bars of mAP for the arms {in_words(list(means))}.{gain}",
    )


def _gain(experiment: Experiment, means: Mapping[str, float]) -> str:
    """Return where the best taught arm stands beside its start untaught and the student alone; empty without them."""
    taught = [name for name in means if experiment.arm(name).taught]
    if ALONE not in means or not taught:
        return ""
    best = max(taught, key=means.__getitem__)
    like = untaught_like(experiment, best)
    started = f"its start untaught at {means[like]:.1f}, " if like and like in means and like != ALONE else ""
    return (
        f" The best taught arm, {best}, stands at {means[best]:.1f}; {started}the student alone at {means[ALONE]:.1f}."
    )
