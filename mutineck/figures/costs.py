"""What an AP costs: weights, multiply-adds and time of teachers and students."""

from __future__ import annotations

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
    colours = arm_colours(study.experiment.arms)
    teachers = [name for name in table.index if name != ALONE]
    figure = new_figure(TWO_COLUMNS, 2.75 + 0.14 * (-(-(len(teachers) + len(arms)) // 5)))
    axes = figure.subplots(1, len(AXES), sharey=True)
    for axis, (field, (unit, label)) in zip(axes, AXES.items(), strict=True):
        for row in data.to_dict("records"):
            student = row["detector"] == ALONE
            axis.plot(
                row[field] / unit,
                row["mAP"],
                marker="o" if student else _marker(teachers, row["detector"]),
                color=colours[row["arm"]] if student else "black",
                markerfacecolor=colours[row["arm"]]
                if student
                else "white"
                if row["detector"] == INTERMEDIATE
                else "black",
                markersize=5.5 if student else 6.5,
                linestyle="",
                clip_on=False,
                zorder=3,
            )
        axis.set_xlabel(label)
        axis.set_xlim(0, 1.12 * float(data[field].max()) / unit)
        axis.xaxis.set_major_locator(MaxNLocator(5))
        axis.grid(visible=True)
    axes[0].set_ylabel(f"mAP on {split}, %")
    axes[0].set_ylim(0, max(1.0, 1.12 * float(data["mAP"].max())))
    handles = [
        Line2D(
            [],
            [],
            ls="",
            marker=_marker(teachers, name),
            color="black",
            mfc="white" if name == INTERMEDIATE else "black",
            label=name if name == INTERMEDIATE else f"teacher {name}{part_known(frame, TEACHER + name, split)}",
        )
        for name in teachers
    ]
    handles += [Line2D([], [], ls="", marker="o", color=colours[arm], label=arm) for arm in arms]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(5, len(handles)), handletextpad=0.2)
    how = table.iloc[0]
    story = ""
    if ALONE in table.index and teachers:
        student, first = table.loc[ALONE], table.loc[teachers[0]]
        story = (
            f"A student has {100 * student['parameters'] / first['parameters']:.0f} % of the weights of {teachers[0]} "
            f"and takes {100 * student['milliseconds'] / first['milliseconds']:.0f} % of its time, however taught."
        )
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


def _marker(teachers: list[str], name: str) -> str:
    return MARKERS[1:][teachers.index(name) % (len(MARKERS) - 1)]
