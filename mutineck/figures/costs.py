"""What an AP costs: weights, multiply-adds and time of teachers and students."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from mutineck.ablations.detectors import COSTS
from mutineck.ablations.results import TEACHER, collect, part_known, scores
from mutineck.figures.style import MARKERS, TWO_COLUMNS, Drawing, arm_colours, new_figure
from mutineck.study.arms import ALONE
from mutineck.study.experiment import INTERMEDIATE
from mutineck.study.stage import Study
from mutineck.system.tables import read_table

AXES = {"parameters": (1e6, "parameters, millions"), "multiply_adds": (1e9, "multiply-adds, billions"), "milliseconds":
        (1.0, "time a picture, ms")}  # fmt: skip


def costs(study: Study) -> Drawing:
    """Draw mAP against parameters, multiply-adds and measured time, teachers black, students in their arms' colours."""
    table = read_table(study.need("ablations", COSTS)).set_index("detector")
    split = study.experiment.evaluation.report
    frame = collect(study)
    reached = 100 * scores(frame, split).groupby("arm", sort=False)["value"].mean()
    arms = [arm for arm in study.experiment.arms if arm in reached.index]
    rows = [
        {"detector": name, "arm": arm, "mAP": reached[arm]} | table.loc[name].to_dict()
        for name in table.index
        for arm in (arms if name == ALONE else [TEACHER + name])
        if arm in reached.index
    ]
    data = pd.DataFrame(rows)
    measured = table.loc[ALONE].get("onnx_milliseconds") if ALONE in table.index else None
    exported = 0.0 if measured is None or pd.isna(measured) else float(measured)
    colours = arm_colours(study.experiment.arms)
    teachers = [name for name in table.index if name != ALONE]
    marks = _teacher_marks(teachers)
    labels = {
        TEACHER + name: name if name == INTERMEDIATE else f"teacher {name}{part_known(frame, TEACHER + name, split)}"
        for name in teachers
    }
    marks |= {arm: {"marker": "o", "color": colours[arm]} for arm in arms}
    figure = new_figure(TWO_COLUMNS, 2.75 + 0.14 * (-(-(len(teachers) + len(arms)) // 5)))
    axes = figure.subplots(1, len(AXES), sharey=True)
    for axis, (field, (unit, label)) in zip(axes, AXES.items(), strict=True):
        for row in data.to_dict("records"):
            size = 5.5 if row["detector"] == ALONE else 6.5
            place = (row[field] / unit, row["mAP"])
            axis.plot(*place, markersize=size, linestyle="", clip_on=False, zorder=3, **marks[row["arm"]])
            if field == "milliseconds" and row["detector"] == ALONE and exported:
                axis.plot(exported, row["mAP"], mfc="none", mec=colours[row["arm"]], marker="o", ms=5.5, ls="")
        axis.set_xlabel(label)
        axis.set_xlim(0, 1.12 * float(data[field].max()) / unit)
        axis.xaxis.set_major_locator(MaxNLocator(5))
        axis.grid(visible=True)
    axes[0].set_ylabel(f"mAP on {split}, %")
    axes[0].set_ylim(0, max(1.0, 1.12 * float(data["mAP"].max())))
    handles = [Line2D([], [], ls="", label=labels.get(name, name), **mark) for name, mark in marks.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(5, len(handles)), handletextpad=0.2)
    how = table.iloc[0]
    story = _story(table, teachers)
    if exported:
        story += f" Open circles: the student exported to ONNX, {exported:.3g} ms in onnxruntime."
    return Drawing(
        figure,
        data,
        "What an AP costs",
        f"mAP (means over seeds) against weights, multiply-adds and the median time of {int(how['passes'])} passes of "
        f"one picture of {int(how['width'])} x {int(how['height'])} to its detections, on {how['device']} with "
        f"{int(how['threads'])} thread{'s' if how['threads'] > 1 else ''}. {story} The intermediate teacher counts the "
        "backbones and necks of all its teachers. Times hold for the machine that measured them.",
        f"Three scatter plots of mAP over cost for {len(teachers)} teachers and {len(arms)} arms. {story}",
    )


def _teacher_marks(teachers: list[str]) -> dict[str, dict[str, Any]]:
    """Return how each teacher's points are drawn, by its name in tables: black, the intermediate one hollow."""
    return {
        TEACHER + name: {
            "marker": MARKERS[1:][position % (len(MARKERS) - 1)],
            "color": "black",
            "markerfacecolor": "white" if name == INTERMEDIATE else "black",
        }
        for position, name in enumerate(teachers)
    }


def _story(table: pd.DataFrame, teachers: list[str]) -> str:
    """Return how a student's weights and time compare with the first teacher's; nothing without both."""
    if ALONE not in table.index or not teachers:
        return ""
    student, first = table.loc[ALONE], table.loc[teachers[0]]
    return (
        f"A student has {100 * student['parameters'] / first['parameters']:.0f} % of the weights of {teachers[0]} "
        f"and takes {100 * student['milliseconds'] / first['milliseconds']:.0f} % of its time, however taught."
    )
