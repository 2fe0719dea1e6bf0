"""Every figure by its name, and the function that draws it: what `mutineck figures EXPERIMENT NAME` looks into."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from mutineck.study.stage import Outcome, Study
from mutineck.system.errors import ExperimentError, unknown

if TYPE_CHECKING:
    from mutineck.figures.style import Drawing

SECTIONS = {
    "data": "The data",
    "teachers": "What the teachers know",
    "clusters": "How categories cluster",
    "teaching": "What is taught, and how it goes",
    "results": "What it achieves",
}
"""The report's sections, in order, with their titles."""

FIGURES = {
    "gallery": ("data", "mutineck.figures.gallery:gallery"),
    "categories": ("data", "mutineck.figures.gallery:categories"),
    "teacher_curves": ("teachers", "mutineck.figures.curves:teacher_curves"),
    "knowledge": ("teachers", "mutineck.figures.per_category:knowledge"),
    "embedding": ("clusters", "mutineck.figures.clusters:embedding"),
    "exemplars": ("clusters", "mutineck.figures.clusters:exemplars"),
    "cosines": ("clusters", "mutineck.figures.clusters:cosines"),
    "projections": ("clusters", "mutineck.figures.clusters:projections"),
    "curves": ("teaching", "mutineck.figures.curves:curves"),
    "teaching": ("teaching", "mutineck.figures.teaching:draw_teaching_of"),
    "who_teaches": ("teaching", "mutineck.figures.omega:who_teaches"),
    "weaker_wins": ("teaching", "mutineck.figures.omega:weaker_wins"),
    "loss_shares": ("teaching", "mutineck.figures.curves:loss_shares"),
    "arms": ("results", "mutineck.figures.arms:arms"),
    "gains": ("results", "mutineck.figures.per_category:gains"),
    "costs": ("results", "mutineck.figures.costs:costs"),
    "tightening": ("results", "mutineck.figures.students:tightening"),
    "responses": ("results", "mutineck.figures.responses:responses"),
    "detections": ("results", "mutineck.figures.detections:detections"),
    "precision": ("results", "mutineck.figures.precision:precision_recall"),
    "errors": ("results", "mutineck.figures.detection_errors:error_breakdown"),
    "confusion": ("results", "mutineck.figures.confusion:confusion"),
}
"""Figure's name -> the report's section and `module:function`, in order. A function takes a study, returns a
`Drawing`.
"""


@dataclass(frozen=True)
class Drawn:
    """What became of one figure: the PNG's path, or the reason why there is none; seconds it took."""

    name: str
    path: Path | None
    reason: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.name}: {self.path if self.path else f'skipped: {self.reason}'} ({self.seconds:.1f} s)"


def names() -> list[str]:
    """Return the names of all figures, in the report's order."""
    return list(FIGURES)


def draw(study: Study, names: Iterable[str] | None = None) -> list[Drawn]:
    """Draw figures from what is stored, write them under ``figures/``, print a line for each, and return the
    list.

    Args:
        study: any stage of the study.
        names: figures to draw; all of them if None.

    Raises:
        ExperimentError: a name that is no figure; the message has near matches.
    """
    wanted = list(FIGURES) if names is None else list(names)
    for name in wanted:
        if name not in FIGURES:
            raise ExperimentError(unknown("figure", name, FIGURES))
    drawn = []
    for name in wanted:
        drawn.append(_draw_one(study, name))
        print(drawn[-1], flush=True)
    return drawn


def draw_all(study: Study) -> Outcome[list[Drawn]]:
    """Draw every figure; one whose inputs are not there is reported as skipped, with the command that makes them."""
    from mutineck.ablations.table import read_inputs

    drawn = draw(study)
    return Outcome(
        drawn,
        reads=read_inputs(study),
        writes=[item.path for item in drawn if item.path],
        results={item.name: item.reason or "drawn" for item in drawn},
    )


def show(study: Study, *names: str) -> None:
    """Show stored figures in a notebook, each over its caption; one that is absent is named."""
    from IPython.display import Image, Markdown, display

    from mutineck.figures.style import read_index

    stored = {item["name"]: item for item in read_index(study)}
    for name in names:
        if name not in FIGURES:
            raise ExperimentError(unknown("figure", name, FIGURES))
        if name not in stored:
            print(f"{name}: not drawn yet; mutineck.figures.draw(study, [{name!r}]) says why")
            continue
        item = stored[name]
        display(Image(filename=str(study.path("figures", item["files"]["png"])), width=900, alt=item["alt"]))
        display(Markdown(f"**{item['title']}.** {item['caption']}"))


def section_of(name: str) -> tuple[str, int]:
    """Return the report's section of a figure and its place; one that is not registered comes last."""
    if name in FIGURES:
        return FIGURES[name][0], list(FIGURES).index(name)
    return "teaching", len(FIGURES)


def load(name: str) -> Callable[[Study], Drawing]:
    """Return the function that draws a figure."""
    module, function = FIGURES[name][1].split(":")
    return getattr(import_module(module), function)


def _draw_one(study: Study, name: str) -> Drawn:
    from mutineck.figures.style import save_figure

    started = time.perf_counter()
    try:
        drawing = load(name)(study)
    except FileNotFoundError as error:
        return Drawn(name, None, f"an input is missing: {error}", time.perf_counter() - started)
    path = save_figure(
        study,
        name,
        drawing.figure,
        drawing.data,
        title=drawing.title,
        caption=drawing.caption,
        alt=drawing.alt,
    )
    return Drawn(name, path, "", time.perf_counter() - started)
