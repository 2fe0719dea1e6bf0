"""Several studies in a few tables for people, as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mutineck.ablations.results import TEACHER, scores
from mutineck.ablations.studies import StudyResults, additions, contrasts, parts, teachers_of
from mutineck.ablations.table import DASH, to_markdown, with_interval, with_spread
from mutineck.study.arms import ALONE, METHOD, PARTS, method_in
from mutineck.study.experiment import INTERMEDIATE
from mutineck.system.files import write_text

BEST_SINGLE = "best single"
UNTAUGHT = "same start untaught"
COLUMNS = (UNTAUGHT, ALONE, "student_long", BEST_SINGLE, "fgd:mean", "fgd:confidence", METHOD)
"""What is shown of every study, first the arm that starts as the method does and is not taught, if that is not the
student alone. `best single` is the one of its `fgd:TEACHER` with the highest mean on the reported split: a choice that
knows the outcome, and so is hard to beat."""
FEWEST_STUDIES = 4
"""Over fewer studies a t interval says more about how few they are than about a part."""


def overview(studies: Sequence[StudyResults]) -> str:
    """Return the tables: values, paired differences, parts, further teachers, minutes of a training."""
    table = contrasts(studies)
    sections = [
        "mAP in percent, mean ± standard deviation over seeds:",
        _arms(studies, table, _value, extra=_of_study),
        *(f"{study.name}: {' '.join(study.remarks)}" for study in studies if study.remarks),
        f"`{METHOD}` less each of them, paired by seed, with 95 % interval (bold where it lies above 0), over pictures "
        "too where the study has kept resamples of them:",
        _arms(studies, table, lambda row, _: _difference(row), without=METHOD),
    ]
    if lines := _part_lines(table):
        sections += [
            "What taking out a part of the method costs: by study, paired by seed; then the mean over studies, with "
            f"its interval over them where there are {FEWEST_STUDIES}:",
            _markdown(lines),
        ]
    added = additions(studies)
    if len(added):
        sections += [
            f"What further teachers change for `{METHOD}`, paired by seed with the study without them:",
            _markdown(
                {"study": row["study"], "without": row["without"], "more": row["teachers"], "change": _difference(row)}
                for row in added.to_dict("records")
            ),
        ]
    minutes = _arms(studies, table, lambda row, _: _minutes(row["seconds"]))
    sections += ["Minutes of one training, the median over seeds:", minutes]
    return "\n\n".join(section.rstrip("\n") for section in sections) + "\n"


def write_comparison(studies: Sequence[StudyResults], folder: Path) -> list[Path]:
    """Write `comparison.md`, and the numbers behind it as `comparison.csv`, `parts.csv` and `additions.csv`."""
    table = contrasts(studies)
    tables = {"comparison": table, "parts": parts(table), "additions": additions(studies)}
    text = write_text(folder / "comparison.md", overview(studies))
    csv = {name: rows.to_csv(index=False, lineterminator="\n") for name, rows in tables.items()}
    return [text, *(write_text(folder / f"{name}.csv", content) for name, content in csv.items())]


def _arms(
    studies: Sequence[StudyResults],
    table: pd.DataFrame,
    cell: Callable[[dict[str, Any], str], str],
    *,
    without: str = "",
    extra: Callable[[StudyResults], dict[str, str]] = lambda _: {},
) -> str:
    """Return a table of studies by arms; `cell` writes an arm's row of `contrasts` under a column's title."""
    lines = []
    for study in studies:
        rows = rows_by_arm(table, study)
        shown = {column: rows[arm] for column, arm in shown_arms(study, rows).items() if column != without}
        lines.append({"study": study.name} | {c: cell(row, c) for c, row in shown.items()} | extra(study))
    known = [column for column in COLUMNS if any(column in line for line in lines)]
    return _markdown(lines, ["study", *known, *(column for column in lines[0] if column not in ("study", *COLUMNS))])


def rows_by_arm(table: pd.DataFrame, study: StudyResults) -> dict[str, dict[str, Any]]:
    """Return a study's rows of `contrasts` by arm."""
    return {row["arm"]: row for row in table[table["study"] == study.name].to_dict("records")}


def shown_arms(study: StudyResults, rows: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Return the arm behind each column of the tables that a study has; `rows` are those of `rows_by_arm`."""
    method = method_in(rows) or METHOD
    # Where the method's arm names its start, taught arms are those that name the same.
    start = method.removeprefix(METHOD)
    singles = [arm for name in teachers_of(study) if (arm := f"fgd:{name}{start}") in rows]
    own = {UNTAUGHT: study.untaught.get(method, "")} | {column: column + start for column in COLUMNS[-3:]}
    found = {column: arm for column in COLUMNS if (arm := own.get(column, column)) in rows}
    if found.get(UNTAUGHT) == ALONE:
        del found[UNTAUGHT]
    return found | ({BEST_SINGLE: max(singles, key=lambda arm: rows[arm]["mean"])} if singles else {})


def _of_study(study: StudyResults) -> dict[str, str]:
    rows = scores(study.frame, study.split)
    merged = rows[rows["arm"] == TEACHER + INTERMEDIATE]["value"]
    students = rows[~rows["arm"].str.startswith(TEACHER)]
    return {
        "intermediate teacher": DASH if merged.empty else with_spread(float(merged.iloc[0]), float("nan")),
        "seeds": str(students["seed"].nunique()),
    }


def _part_lines(table: pd.DataFrame) -> list[dict[str, str]]:
    """Return a line for each study that takes out parts, and one for all of them, if there are several."""
    lines = []
    for name, rows in table.groupby("study", sort=False):
        costs = rows[rows["difference"].notna()].set_index("arm").to_dict("index")
        found = {part: _difference(costs[arm]) for part in PARTS if (arm := f"{METHOD}-{part}") in costs}
        lines += [{"study": str(name)} | found] if found else []
    if len(lines) > 1:
        means = {row["part"]: _mean_cost(row) for row in parts(table).to_dict("records") if row["studies"]}
        lines.append({"study": "mean"} | means)
    return lines


def _value(row: dict[str, Any], column: str) -> str:
    which = "" if row["arm"] == column else f" ({row['arm'].removeprefix('fgd:')})"
    return with_spread(row["mean"], row["std"]) + which


def _difference(row: dict[str, Any]) -> str:
    text = with_interval(row["difference"], row["low"], row["high"])
    return f"**{text}**" if row["low"] > 0 else text


def _mean_cost(row: dict[str, Any]) -> str:
    return _difference(row) if row["studies"] >= FEWEST_STUDIES else f"{100 * row['difference']:+.1f}"


def _minutes(seconds: float) -> str:
    return DASH if pd.isna(seconds) else f"{seconds / 60:.1f}"


def _markdown(rows: Any, columns: Sequence[str] | None = None) -> str:
    table = pd.DataFrame(list(rows))
    return to_markdown(table.reindex(columns=columns or list(table.columns)).fillna(DASH))
