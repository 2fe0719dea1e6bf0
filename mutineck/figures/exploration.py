"""Everything about one picture in one call, and a chooser of pictures where a notebook can show one."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from mutineck.ablations.detectors import Detectors, detectors
from mutineck.figures.detections import LINES, draw_match, threshold
from mutineck.figures.gallery import LONGEST, cased, draw_targets, show_pixels
from mutineck.figures.matching import match_split
from mutineck.figures.responses import draw_response
from mutineck.figures.split_data import Split, prediction_file
from mutineck.figures.students import title_of
from mutineck.figures.style import TWO_COLUMNS, StudyFigure, category_colours, distinct_colours, hide_axes, new_figure
from mutineck.figures.teaching import BACKGROUND, BOUNDARY, CENTRE, draw_proposals, region_picture, visible
from mutineck.study.stage import Study
from mutineck.system.errors import ExperimentError, unknown
from mutineck.system.files import read_json

SPLITS = ("test", "val", "train")
COLUMNS = 4
LEVELS = 3
"""Finest levels whose regions are shown."""
MOST_NAMES = 14
"""Up to so many targets have their names on their bars."""
SHADE = 0.75
"""Opacity of bars that have writing on them."""
REGIONS = ("centre", "boundary", "background")


@dataclass(frozen=True)
class Choice:
    """Which picture `explain` shows: at most one of the first four, each as there."""

    image: int | str | None = None
    index: int | None = None
    category: str | None = None
    defect: str | None = None
    split: str | None = None


def explain(
    study: Study,
    image: int | str | None = None,
    *,
    index: int | None = None,
    category: str | None = None,
    defect: str | None = None,
    split: str | None = None,
) -> StudyFigure:
    """Show everything about one picture: what is annotated, what each detector finds, what the teachers would teach.

    Detections are the stored ones; proposals, weights and regions are computed now, in a few seconds, and are left out
    with a line in the picture where the teachers' weights are not there.

    Args:
        study: any stage of it.
        image: the picture's id or file name.
        index: its place in the split, from 0; negative from the end.
        category: take the picture with most targets of this category.
        defect: take the first picture in whose files a defect of this reason (or part of one) was repaired.
        split: `train`, `val` or `test`; if None the reported one, or whichever has the picture.

    Raises:
        ExperimentError: more than one way of choosing, or no such picture, category, defect or split.
        FileNotFoundError: the data set is not there; the message names the command.
    """
    chosen, picture = choose(study, Choice(image, index, category, defect, split))
    return _draw(study, chosen, picture)


def choose(study: Study, choice: Choice) -> tuple[Split, int]:
    """Return the split and id of the picture that a choice names; the one with most targets if it names none.

    Raises:
        ExperimentError: as `explain`.
    """
    ways = asdict(choice)
    image, index, category, defect, split = ways.values()
    given = [way for way, value in ways.items() if value is not None and way != "split"]
    if len(given) > 1:
        raise ExperimentError(f"choose a picture by one of image, index, category, defect; got {', '.join(given)}")
    report = study.experiment.evaluation.report
    known = [name for name in SPLITS if study.path("dataset", f"{name}.json").is_file()]
    if split is not None and known and split not in known:
        raise ExperimentError(unknown("split", split, known))
    order = [split] if split else [report, *(name for name in known if name != report)]
    if image is not None or defect is not None:
        for name in order:
            candidate = Split(study, name)
            found = _with_defect(study, candidate, defect) if defect is not None else _named(candidate, image)
            if found is not None:
                return candidate, found
        raise ExperimentError(_nothing(study, image, defect, order))
    candidate = Split(study, order[0])
    ids = sorted(candidate.images)
    if index is not None:
        if not -len(ids) <= index < len(ids):
            raise ExperimentError(f"split {order[0]!r} has pictures 0 to {len(ids) - 1}, got index {index}")
        return candidate, ids[index]
    if category is not None and category not in candidate.categories:
        raise ExperimentError(unknown("category", category, candidate.categories))
    label = None if category is None else candidate.categories.index(category)
    counts = {}
    for i in ids:
        labels = candidate.targets(i)[1]
        counts[i] = len(labels) if label is None else int((labels == label).sum())
    best = max(ids, key=lambda i: counts[i])
    if label is not None and not counts[best]:
        raise ExperimentError(f"no picture of the split {order[0]!r} shows {category!r}; name another with split=")
    return candidate, best


def explore(study: Study, *, widgets: bool | None = None) -> Any:
    """Return a chooser over the study's pictures; where no front-end could show it, the picture `explain` shows first.

    Args:
        study: any stage of it.
        widgets: whether to use widgets; found out if None (a kernel that JupyterLab or Colab started has a front-end,
            a headless run has none).
    """
    live = widgets if widgets is not None else "JPY_SESSION_NAME" in os.environ or "google.colab" in sys.modules
    if not live:
        return explain(study)
    import ipywidgets
    from IPython.display import display

    names = [name for name in SPLITS if study.path("dataset", f"{name}.json").is_file()]
    splits = {name: Split(study, name) for name in names}
    split = ipywidgets.Dropdown(options=names, description="split")
    category = ipywidgets.Dropdown(options=["any", *splits[names[0]].categories], description="category")
    index = ipywidgets.IntSlider(description="picture", continuous_update=False)

    def matching() -> list[int]:
        chosen = splits[split.value]
        every = sorted(chosen.images)
        if category.value == "any":
            return every
        label = chosen.categories.index(category.value)
        return [i for i in every if label in chosen.targets(i)[1]]

    def bound(_: Any = None) -> None:
        index.max = max(0, len(matching()) - 1)

    def shown(split: str, category: str, index: int) -> None:
        ids = matching()
        display(explain(study, ids[min(index, len(ids) - 1)], split=split) if ids else f"no {category} in {split}")

    for control in (split, category):
        control.observe(bound, "value")
    bound()
    output = ipywidgets.interactive_output(shown, {"split": split, "category": category, "index": index})
    return ipywidgets.VBox([ipywidgets.HBox([split, category, index]), output])


def _named(split: Split, image: int | str | None) -> int | None:
    if isinstance(image, str):
        return next((i for i, record in split.images.items() if image in _names(record)), None)
    return image if image in split.images else None


def _names(record: Mapping[str, Any]) -> tuple[str, ...]:
    path = Path(record["file_name"])
    return record["file_name"], path.name, path.stem


def _with_defect(study: Study, split: Split, reason: str | None) -> int | None:
    stems = {Path(str(item["file"])).stem for item in _defects(study) if reason and reason in str(item["reason"])}
    return next((i for i in sorted(split.images) if Path(split.images[i]["file_name"]).stem in stems), None)


def _defects(study: Study) -> list[dict[str, Any]]:
    path = study.path("dataset", "defects.json")
    return read_json(path) if path.is_file() else []


def _nothing(study: Study, image: int | str | None, defect: str | None, splits: list[str]) -> str:
    if defect is None:
        return f"no picture {image!r} in the split{'s' * (len(splits) > 1)} {', '.join(splits)}"
    reasons = sorted({str(item["reason"]) for item in _defects(study)})
    return f"no picture that was kept has such a defect; {unknown('defect', defect, reasons)}"


def _draw(study: Study, split: Split, image: int) -> StudyFigure:
    found = _found(study, split)
    observed, reason = _looked(study, split, image)
    levels = [int(stride) for stride in observed["strides"]][:LEVELS] if observed else []
    panels = 1 + len(found) + (3 + len(levels) if observed else 0)
    record = split.images[image]
    rows = -(-panels // COLUMNS)
    width = TWO_COLUMNS / COLUMNS
    height = min(record["height"] / record["width"], 1.2) * width + 0.33
    figure = new_figure(TWO_COLUMNS, rows * height + 0.75)
    axes = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for axis in axes[panels:]:
        axis.set_visible(False)
    hide_axes(axes[:panels])
    colours = category_colours(split.categories)
    targets = draw_targets(axes[0], split, image, colours)
    axes[0].set_title(f"targets ({len(targets)})")
    pixels, factor = split.pixels(image, LONGEST)
    for axis, (title, name, cut) in zip(axes[1:], found, strict=False):
        show_pixels(axis, pixels)
        predictions = split.predictions(prediction_file(study, name, split.name))
        (match,) = match_split(split, predictions, minimum_score=cut, images=[image])
        draw_match(axis, match, factor)
        axis.set_title(title)
        axis.set_xlabel(f"F1 {match.f1():.2f}, scores from {cut:.2f}", fontsize=6.5, labelpad=2)
    if observed:
        _teaching(axes[1 + len(found) : panels], observed, levels, split)
    present = list(dict.fromkeys(row["category"] for row in targets))
    handles: list[Any] = [Patch(color=colours[name], label=name) for name in present]
    handles += [
        Line2D([], [], color=colour, linestyle=dashes, label=label, path_effects=cased(colour, 1.2))
        for label, (colour, dashes) in LINES.items()
        if found
    ]
    if observed:
        handles += [Patch(color=c, label=n) for c, n in zip((CENTRE, BOUNDARY, BACKGROUND), REGIONS, strict=True)]
        handles += [Patch(color=c, label=f"teacher {n}", alpha=SHADE) for n, c in _teacher_colours(observed).items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(7, max(1, len(handles))), handlelength=1.6)
    missing = "" if found else f" No detections are stored for {split.name}."
    figure.suptitle(f"{record['file_name']} (id {image}, {split.name}).{missing}{reason}", fontsize=8)
    return figure


def _teacher_colours(observed: Mapping[str, np.ndarray]) -> dict[str, str]:
    teachers = [str(name) for name in observed["teachers"]]
    return dict(zip(teachers, distinct_colours(len(teachers)), strict=True))


def _teaching(axes: Any, observed: Mapping[str, np.ndarray], strides: list[int], split: Split) -> None:
    """Draw stacked proposals, centre response, regions of some levels, and the weights of each target."""
    colours = _teacher_colours(observed)
    proposals, response, *levels, weights = axes
    draw_proposals(proposals, observed, list(colours), colours)
    draw_response(response, observed, strides[0])
    response.set_title(f"centre response, stride {strides[0]}")
    height, width = observed["picture"].shape[:2]
    for axis, stride in zip(levels, strides, strict=True):
        axis.imshow(visible(region_picture(observed, stride), observed, stride), interpolation="nearest")
        axis.set_title(f"regions, stride {stride}")
    weights.set_title("omega of each target")
    weights.set_box_aspect(height / width)
    _weights(weights, observed["omega"], [split.categories[int(label)] for label in observed["labels"]], colours)


def _weights(axis: Axes, omega: np.ndarray, names: list[str], colours: Mapping[str, str]) -> None:
    """Draw a bar of weights for each target, its name inside: labels beside it would push the pictures apart."""
    left = np.zeros(len(omega))
    rows = np.arange(len(omega))
    for n, colour in enumerate(colours.values()):
        axis.barh(rows, omega[:, n], left=left, color=colour, height=0.86, alpha=SHADE)
        left += omega[:, n]
    if len(rows) <= MOST_NAMES:
        for row, name in enumerate(names):
            axis.text(0.02, row, name, va="center", fontsize=6)
    axis.set_xlim(0, 1)
    axis.invert_yaxis()
    if not len(rows):
        axis.text(0.5, 0.5, "no target", ha="center", va="center", transform=axis.transAxes)


def _found(study: Study, split: Split) -> list[tuple[str, str, float]]:
    """Return title, name and score threshold of each detector whose detections on the split are stored."""
    try:
        shown = detectors(study)
    except FileNotFoundError:
        return []
    found = []
    for name in shown.all:
        try:
            prediction_file(study, name, split.name)
            found.append((title_of(name, _kind(shown, name)), name, threshold(study, name)))
        except FileNotFoundError:
            continue
    return found


def _kind(shown: Detectors, name: str) -> str:
    if name in shown.teachers:
        return "teacher"
    return {shown.alone: "alone", shown.taught: "taught"}.get(name, "intermediate")


def _looked(study: Study, split: Split, image: int) -> tuple[dict[str, np.ndarray] | None, str]:
    """Return what the teachers say about a picture, or why they cannot be asked."""
    names = [teacher.name for teacher in study.experiment.teachers]
    try:
        for name in names:
            study.need("teachers", name, "checkpoint.pth")
    except FileNotFoundError:
        return None, " The teachers' weights are not there: no proposals."
    from mutineck.distillation.observation import inspect_image

    return inspect_image(study, names, merged=False, split=split.name, image=image), ""
