"""How the trainings went: losses, their shares, and mAP on the validation split."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from mutineck.ablations.results import TEACHER, runs
from mutineck.figures.style import TWO_COLUMNS, Drawing, arm_colours, distinct_colours, in_words, new_figure
from mutineck.study.stage import Study
from mutineck.system.tables import read_table

SMOOTHING = 0.05
"""Share of a run's iterations that a loss is averaged over."""
MEASURED = "val/bbox_mAP"
LOSS, GRADIENT = "share/", "gradient/"
"""What terms of curves begin with that are shares: of the loss, and of the gradient at the student's maps."""


def read_curves(study: Study, *, teachers: bool = False) -> pd.DataFrame:
    """Return all stored curves as a frame of arm, seed, iteration, epoch, term, value (teachers: arm = the
    name).

    Raises:
        FileNotFoundError: there is none; the message names the command that makes them.
    """
    frames = []
    for arm, seed, job in runs(study):
        path = study.path(job.folder, "curves.csv")
        if arm.startswith(TEACHER) == teachers and path.is_file():
            frames.append(_read(path).assign(arm=arm.removeprefix(TEACHER), seed=-1 if seed is None else seed))
    if not frames:
        stage = "teachers" if teachers else "distillation"
        raise FileNotFoundError(f"{study.path(stage)}: no curves.csv there. Make them with: {study.command(stage)}")
    return pd.concat(frames, ignore_index=True)[["arm", "seed", "iteration", "epoch", "term", "value"]]


def curves(study: Study) -> Drawing:
    """Draw every arm's detection loss and validation mAP; seeds as a band around their mean."""
    data = read_curves(study)
    arms = list(study.experiment.arms)
    return _two_panels(data, arms, arm_colours(arms), "arm", _common_terms(data))


def teacher_curves(study: Study) -> Drawing:
    """Draw the loss and validation mAP of the teachers that this study trained."""
    data = read_curves(study, teachers=True)
    names = list(dict.fromkeys(data["arm"]))
    # One- and two-stage detectors have terms of the same name and different meaning: only their totals are
    # shown.
    return _two_panels(data, names, dict(zip(names, distinct_colours(len(names)), strict=True)), "teacher", ["loss"])


def loss_shares(study: Study) -> Drawing:
    """Draw, for each arm, the share that every loss term has of the gradient at the student's maps, over its first run.

    Of studies that did not measure it, the share of the loss.
    """
    data = read_curves(study)
    arms = [arm for arm in study.experiment.arms if arm in set(data["arm"])]
    found = {arm: _shares(data[data["arm"] == arm], GRADIENT) for arm in arms}
    measured = all(len(share) for share in found.values())
    shares = found if measured else {arm: _shares(data[data["arm"] == arm], LOSS) for arm in arms}
    kind = "gradient" if measured else "loss"
    order = list(dict.fromkeys(term for share in shares.values() for term in share.columns))
    colours = dict(zip(order, distinct_colours(len(order)), strict=True))
    columns = min(3, len(arms))
    rows = math.ceil(len(arms) / columns)
    figure = new_figure(TWO_COLUMNS, 1.55 * rows + 0.25 + 0.16 * math.ceil(len(order) / 4))
    axes = np.atleast_1d(figure.subplots(rows, columns, sharey=True)).ravel()
    for axis, arm in zip(axes, arms, strict=False):
        share = shares[arm]
        axis.stackplot(share.index, share.to_numpy().T, colors=[colours[term] for term in share.columns], linewidth=0)
        axis.set_title(arm)
        axis.margins(x=0)
        axis.set_ylim(0, 100)
    for axis in axes[len(arms) :]:
        axis.set_visible(False)
    for axis in axes[::columns]:
        axis.set_ylabel(f"share of {kind}, %")
    for axis in axes[max(0, len(arms) - columns) : len(arms)]:
        axis.set_xlabel("iteration")
    handles = [axis_handle(colours[term]) for term in order]
    figure.legend(handles, [term.removeprefix("loss_") for term in order], loc="outside lower center", ncols=4)
    long = pd.concat(
        [
            share.rename_axis(columns="term").stack().rename("percent").reset_index().assign(arm=arm)
            for arm, share in shares.items()
        ]
    )
    of = (
        "the norm of each loss term's gradient at the student's maps, as a share of the sum of all terms' norms"
        if measured
        else "each loss term in the total, smoothed; the gradient was not measured in every arm"
    )
    return Drawing(
        figure,
        long[["arm", "iteration", "term", "percent"]],
        "What drives the training",
        f"What each arm's training consists of (first seed): {of}. Distillation that swamps detection would show "
        f"here; the largest mean share of all distillation terms of an arm together is {_taught_share(shares)}.",
        f"Stacked areas of {len(order)} loss terms over iterations, one panel for each of the arms {in_words(arms)}.",
    )


def axis_handle(colour: str) -> Artist:
    """Return a legend's colour patch."""
    from matplotlib.patches import Patch

    return Patch(color=colour)


def _two_panels(
    data: pd.DataFrame, names: Sequence[str], colours: dict[str, str], kind: str, common: list[str]
) -> Drawing:
    figure = new_figure(TWO_COLUMNS, 2.6)
    left, right = figure.subplots(1, 2)
    drawn, finals = [], {}
    for name in names:
        own = data[data["arm"] == name]
        if own.empty:
            continue
        loss = own[own["term"].isin(common)].groupby(["seed", "iteration"])["value"].sum().unstack("seed")
        width = max(1, round(SMOOTHING * len(loss)))
        _band(left, loss.rolling(width, min_periods=1, center=True).mean(), colours[name], name)
        measured = own[own["term"] == MEASURED].groupby(["seed", "epoch"])["value"].last().unstack("seed") * 100
        if not measured.empty:
            _band(right, measured, colours[name], name, marker="o")
            finals[name] = float(measured.mean(axis=1).iloc[-1])
        drawn.append(name)
    left.set_xlabel("iteration")
    left.set_ylabel("loss" if common == ["loss"] else "detection loss")
    top = np.nanquantile(np.concatenate([line.get_ydata() for line in left.lines]), 0.995) if left.lines else 1
    left.set_ylim(0, 1.1 * max(float(top), 1e-6))  # the first iterations would flatten all the rest
    right.set_xlabel("epoch")
    right.set_ylabel("mAP on the validation split, %")
    right.set_ylim(bottom=0)
    right.xaxis.get_major_locator().set_params(integer=True)
    for axis in (left, right):
        axis.grid(axis="y")
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(max(len(labels), 1), 5))
    seeds = data["seed"].nunique()
    band = f" Lines are means over {seeds} seeds, bands their range." if seeds > 1 else ""
    best = max(finals, key=finals.__getitem__) if finals else ""
    end = f" At the end {best} leads with {finals[best]:.1f} mAP." if best else ""
    terms = " Losses of different detectors are not comparable with each other."
    if common != ["loss"]:
        terms = f" The loss is the sum of the terms that every {kind} has: {in_words(common)}."
    return Drawing(
        figure,
        data,
        "How the students learnt" if kind == "arm" else "How the teachers learnt",
        f"Left: loss (moving average over {SMOOTHING:.0%} of the run). Right: mAP after each epoch.{terms}{band}{end}",
        f"Falling loss curves and rising mAP curves of {in_words(drawn)}.{end}",
    )


def _band(axis: Axes, values: pd.DataFrame, colour: str, label: str, marker: str = "") -> None:
    """Draw the mean over columns (seeds) and, if there are several, the range between the lowest and the
    highest.
    """
    axis.plot(values.index, values.mean(axis=1), color=colour, label=label, marker=marker, markersize=2.5)
    if values.shape[1] > 1:
        axis.fill_between(values.index, values.min(axis=1), values.max(axis=1), color=colour, alpha=0.18, linewidth=0)


def _common_terms(data: pd.DataFrame) -> list[str]:
    """Return the loss terms that all have: detection alone, so that all arms can be compared."""
    terms = data[data["term"].str.startswith("loss_") & ~data["term"].str.startswith("loss_kd_")]
    sets = [set(group) for _, group in terms.groupby("arm")["term"]]
    common = set.intersection(*sets) if sets else set()
    return [term for term in dict.fromkeys(terms["term"]) if term in common] or ["loss"]


def _shares(data: pd.DataFrame, prefix: str) -> pd.DataFrame:
    """Return one arm's terms in percent of their sum: iterations x terms, for its first seed; empty without any."""
    own = data[(data["seed"] == data["seed"].min()) & data["term"].str.startswith(prefix)]
    wide = (
        own.assign(term=own["term"].str.removeprefix(prefix))
        .pivot_table(index="iteration", columns="term", values="value", sort=False)
        .sort_index()
        .fillna(0.0)
        .clip(lower=0)
    )
    smooth = wide.rolling(max(1, round(SMOOTHING * len(wide))), min_periods=1, center=True).mean()
    return 100 * smooth.div(smooth.sum(axis=1).replace(0, np.nan), axis=0).fillna(0.0)


def _taught_share(shares: dict[str, pd.DataFrame]) -> str:
    taught = {
        arm: share[[t for t in share.columns if t.startswith("loss_kd")]].sum(axis=1).mean()
        for arm, share in shares.items()
    }
    arm = max(taught, key=lambda name: float(taught[name]))
    return f"{taught[arm]:.0f} % ({arm})" if taught[arm] > 0 else "0 %"


def _read(path: Path) -> pd.DataFrame:
    frame = read_table(path)
    absent = [column for column in ("iteration", "epoch", "term", "value") if column not in frame]
    if absent:
        raise ValueError(f"{path}: lacks the columns {', '.join(absent)}; run the stage that wrote it again")
    return frame
