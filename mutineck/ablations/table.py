"""The table of arms: mean and spread over seeds, and gains over the same start untaught and over the student alone."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd

from mutineck.ablations.intervals import mean_interval, paired_differences
from mutineck.ablations.pictures import RESAMPLED, read_resampled
from mutineck.ablations.results import HEADLINE, METRICS_FILE, TEACHER, collect, missing, part_known, runs, scores
from mutineck.study.arms import ALONE, ENSEMBLE
from mutineck.study.checks import remarks
from mutineck.study.experiment import Experiment
from mutineck.study.stage import Outcome, Study
from mutineck.study.starts import untaught
from mutineck.system.files import write_text

METRICS = {
    HEADLINE: "mAP",
    "bbox_mAP_50": "AP50",
    "bbox_mAP_75": "AP75",
    "bbox_mAP_s": "AP small",
    "bbox_mAP_m": "AP medium",
    "bbox_mAP_l": "AP large",
    "segm_mAP": "mask mAP",
}
GAIN_NOTE = (
    "gains over the arm that starts alike, learns for as long and is not taught (where the study has it), then over "
    "the student alone; paired by seed, with 95 % intervals over seeds and pictures."
)
GAINS = {"taught": "over the same start", "gain": "over the student"}
DASH = "–"


def comparisons(
    frame: pd.DataFrame, experiment: Experiment, split: str, resampled: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Return each arm's paired differences as `paired_differences` does: to the same start untaught, then to `student`.

    Where the two are one arm, it is said once.
    """
    found = [
        paired_differences(frame, split, against=given, resampled=resampled) for given in (untaught(experiment), ALONE)
    ]
    rows = pd.concat([each for each in found if len(each)] or found[:1], ignore_index=True)
    return rows.drop_duplicates(["arm", "against"], ignore_index=True)


def summarise(
    frame: pd.DataFrame, experiment: Experiment, split: str, resampled: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Return one row a teacher and arm, in the experiment's order, for one split.

    Columns: arm, part (of the categories, where a teacher does not know all), n (seeds), for each metric METRIC and
    METRIC_std; then in mAP, paired by seed, with 95 % intervals: taught, taught_low, taught_high (over the same start
    untaught) and gain, gain_low, gain_high (over the student alone). Values in 0..1; NaN for what cannot be said or is
    missing. An arm without results has n = 0. Intervals are over seeds, and over pictures where `resampled` is given
    (`read_resampled`).
    """
    teachers = [TEACHER + name for name in experiment.all_teachers]
    teachers += [TEACHER + ENSEMBLE] * bool((frame["arm"] == TEACHER + ENSEMBLE).any())
    names = [*teachers, *experiment.arms]
    contrasts = {
        column: {
            row["arm"]: row
            for row in paired_differences(frame, split, against=given, resampled=resampled).to_dict("records")
        }
        for column, given in (("taught", untaught(experiment)), ("gain", ALONE))
    }
    rows = []
    for name in names:
        row: dict[str, object] = {"arm": name, "part": part_known(frame, name, split).strip(" ()"), "n": 0}
        for metric in METRICS:
            values = scores(frame, split, metric)
            interval = mean_interval(values.loc[values["arm"] == name, "value"].to_numpy(dtype=float))
            row |= {metric: interval.mean, f"{metric}_std": interval.std}
            if metric == HEADLINE:
                row["n"] = interval.n
        for column, found in contrasts.items():
            own = found.get(name, {})
            row |= {
                f"{column}{end}": own.get(key, math.nan)
                for end, key in (("", "difference"), ("_low", "low"), ("_high", "high"))
            }
        rows.append(row)
    return pd.DataFrame(rows)


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table as text for people: percent, ``mean ± std``, gain with its interval, a dash for what
    is unknown.
    """
    shown = pd.DataFrame({"arm": [_label(*row) for row in zip(table["arm"], table["part"], strict=True)]})
    for metric, title in METRICS.items():
        if table[metric].notna().any():
            shown[title] = [with_spread(*pair) for pair in zip(table[metric], table[f"{metric}_std"], strict=True)]
    shown["n"] = [
        (DASH if n else "missing") if arm.startswith(TEACHER) else str(n) if n else "missing"
        for arm, n in zip(table["arm"], table["n"], strict=True)
    ]
    for column, title in GAINS.items():
        gains = zip(table[column], table[f"{column}_low"], table[f"{column}_high"], strict=True)
        shown[title] = [with_interval(*row) for row in gains]
    return shown


def with_spread(mean: float, std: float) -> str:
    """Return ``mean ± std`` in percent; a dash for what is unknown, no spread where one seed has none."""
    if math.isnan(mean):
        return DASH
    return f"{100 * mean:.1f}" if math.isnan(std) else f"{100 * mean:.1f} ± {100 * std:.1f}"


def with_interval(difference: float, low: float, high: float) -> str:
    """Return ``difference [low, high]`` in points of percent; a dash for what is unknown."""
    if math.isnan(difference):
        return DASH
    interval = DASH if math.isnan(low) else f"{100 * low:+.1f}, {100 * high:+.1f}"
    return f"{100 * difference:+.1f} [{interval}]"


def to_markdown(shown: pd.DataFrame) -> str:
    """Return a readable table as GitHub-flavoured Markdown: first column to the left, the others to the right."""
    cells = shown.astype(str).map(lambda cell: cell.replace("|", "\\|"))
    alignment = ["left", *["right"] * (len(shown.columns) - 1)]
    return cells.to_markdown(index=False, disable_numparse=True, colalign=alignment) + "\n"


def to_latex(shown: pd.DataFrame, *, caption: str, label: str = "tab:arms") -> str:
    """Return a readable table as a LaTeX float for booktabs."""
    return (
        shown.map(lambda cell: _tex(str(cell)))
        .rename(columns=_tex)
        .to_latex(
            index=False,
            column_format="l" + "r" * (len(shown.columns) - 1),
            caption=_tex(caption),
            label=label,
            position="tb",
        )
    )


def write_tables(study: Study) -> Outcome[list[Path]]:
    """Write ``ablations/results.csv``, ``statistics.csv`` and ``table.{csv,md,tex}``; found are their paths.

    Raises:
        FileNotFoundError: no run has results yet.
    """
    frame = collect(study)
    split = study.experiment.evaluation.report
    resampled = read_resampled(study.path("ablations", RESAMPLED), frame, split)
    table = summarise(frame, study.experiment, split, resampled)
    shown = readable(table)
    folder = study.path("ablations")
    note = f"Split {split}, percent; mean ± standard deviation over seeds; {GAIN_NOTE}"
    note = " ".join([note, *remarks(study.experiment, study.root)])
    absent = missing(study)
    gap = f"\nMissing: {', '.join(absent)}.\n" if absent else ""
    statistics = comparisons(frame, study.experiment, split, resampled)
    files = {
        "results.csv": frame.to_csv(index=False, lineterminator="\n"),
        "statistics.csv": statistics.to_csv(index=False, lineterminator="\n"),
        "table.csv": table.to_csv(index=False, lineterminator="\n"),
        "table.md": f"{to_markdown(shown)}\n{note}\n{gap}",
        "table.tex": to_latex(shown, caption=f"{study.experiment.name}: {note}"),
    }
    paths = [write_text(folder / name, content) for name, content in files.items()]
    return Outcome(paths, read_inputs(study), paths, {"rows": len(frame), "missing": absent})


def read_inputs(study: Study) -> list[Path]:
    """Return the metrics and predictions that exist: what the tables depend on."""
    names = METRICS_FILE, f"predictions_{study.experiment.evaluation.report}.json"
    return [path for *_, job in runs(study) for name in names if (path := study.path(job.folder, name)).is_file()]


def _label(arm: str, part: str) -> str:
    kind = f"teacher, {part}" if part else "teacher"
    return f"{arm.removeprefix(TEACHER)} ({kind})" if arm.startswith(TEACHER) else arm


def _tex(text: str) -> str:
    escapes = {"\\": r"\textbackslash{}", "±": r"$\pm$", "–": "--"} | {sign: "\\" + sign for sign in "&%_#$"}
    return "".join(escapes.get(letter, letter) for letter in text)
