"""The report of a run: one HTML file that needs nothing beside it, and its notebooks as pages to read."""

from __future__ import annotations

import base64
import io
from collections import Counter
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from jinja2 import DictLoader, Environment, StrictUndefined
from PIL import Image

from mutineck.ablations.intervals import paired_differences
from mutineck.ablations.pictures import RESAMPLED, read_resampled
from mutineck.ablations.results import collect, missing, scores, shown_arm
from mutineck.ablations.table import comparisons, readable, summarise
from mutineck.dataset.stage import TEST_IS_VAL, repeats_val
from mutineck.figures.registry import SECTIONS, section_of
from mutineck.figures.style import read_index
from mutineck.running.notebooks import read_notebook
from mutineck.study.arms import ALONE, OWN, ArmSpec
from mutineck.study.checks import remarks
from mutineck.study.experiment import STAGES, Experiment
from mutineck.study.experiment_file import RELATIVE_TO
from mutineck.study.jobs import MANIFEST, NOTEBOOK, Job
from mutineck.study.stage import Outcome, Study
from mutineck.study.starts import cannot_start, default_donor, start_of, untaught_like
from mutineck.system.files import read_json, write_text

LIMIT = 15_000_000
"""Bytes that a report stays under."""
OFFLINE = """{% extends 'lab/index.html.j2' %}
{% block html_head_js_requirejs %}{% endblock %}
{% block html_head_js_mathjax %}{% endblock %}
{% block html_head_js_mermaidjs %}{% endblock %}
{% block data_png scoped %}
{{ super() | replace("<img", '<img alt="' ~ (output | get_metadata("alt", "image/png") | escape_html) ~ '"') }}
{% endblock %}
"""
"""nbconvert's page without the scripts that it would fetch from the network, and with the texts of pictures."""


def write_report(study: Study) -> Outcome[Path]:
    """Write ``report.html``, which is what is found, from what is stored, and every executed notebook under
    ``notebooks/``.

    A part whose stage has not run is named in the report as not there yet.
    """
    pages = render_notebooks(study)
    for quality in (88, 70, 45, 25):
        page = _page(study, pages, quality)
        if len(page.encode()) < LIMIT:
            break
    report = write_text(study.path("report.html"), page)
    return Outcome(report, writes=[report])


def render_notebooks(study: Study) -> dict[str, str]:
    """Write every executed notebook as a page under ``notebooks/``; return stage/item -> link from the
    report.

    A page that is newer than its notebook is left as it is. The notebook that writes the report is still running,
    so what lies in its folder is an earlier run's: it has no page.
    """
    links = {}
    for path in sorted(study.root.glob(f"*/**/{NOTEBOOK}")):
        part = path.parent.relative_to(study.root).as_posix()
        if part.split("/")[0] not in STAGES[:-1]:
            continue
        target = study.path(Job.at(part).page)
        if not target.is_file() or target.stat().st_mtime < path.stat().st_mtime:
            write_text(target, notebook_page(path, title=f"{study.experiment.name}: {part}"))
        links[part] = target.relative_to(study.root).as_posix()
    return links


def notebook_page(path: Path, *, title: str) -> str:
    """Return an executed notebook as one HTML page that fetches nothing."""
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(extra_loaders=[DictLoader({"offline.html.j2": OFFLINE})], template_file="offline.html.j2")
    notebook = read_notebook(path)
    notebook.metadata["title"] = title
    _describe_pictures(notebook)
    page, _ = exporter.from_notebook_node(notebook, resources={"metadata": {"name": title}})
    return page


def _describe_pictures(notebook: Any) -> None:
    """Give each picture that has no text of its own the prose before its cell, for those who do not see it."""
    prose = notebook.metadata["title"]
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            prose = cell.source.strip("# \n")
        for output in cell.get("outputs", ()):
            if "image/png" in output.get("data", ()):
                output.metadata.setdefault("alt", prose)


def manifests(study: Study) -> list[dict[str, Any]]:
    """Return the manifests of everything that is finished, in the order of the stages."""
    found = [read_json(path) for stage in STAGES for path in sorted(study.path(stage).glob(f"**/{MANIFEST}"))]
    return sorted(found, key=lambda item: (STAGES.index(item["stage"]), item["finished"]))


def embedded(path: Path, quality: int) -> dict[str, Any]:
    """Return a picture as a WebP data URL with its width and height in pixels."""
    with Image.open(path) as picture:
        buffer = io.BytesIO()
        picture.convert("RGB").save(buffer, "WEBP", quality=quality, method=4)
        width, height = picture.size
    return {
        "url": "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode(),
        "width": width,
        "height": height,
    }


def _page(study: Study, pages: dict[str, str], quality: int) -> str:
    experiment = study.experiment
    done = manifests(study)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["duration"] = duration
    template = environment.from_string(files("mutineck.figures").joinpath("report.html.j2").read_text("utf-8"))
    return template.render(
        experiment=experiment,
        data=_data(study),
        arms=_arms(study),
        results=_results(study),
        figures=_figures(study, quality),
        sections=SECTIONS,
        manifests=done,
        seconds=sum(item["seconds"] for item in done),
        finished=max((item["finished"] for item in done), default=""),
        revisions=sorted({_revision(item) for item in done}),
        versions=done[-1]["versions"] if done else {},
        notebooks=pages,
        settings=yaml.safe_dump(
            experiment.model_dump(mode="json", by_alias=True, exclude={RELATIVE_TO}),
            sort_keys=False,
            allow_unicode=True,
        ),
    )


def duration(seconds: float) -> str:
    """Return seconds for people: ``12 s``, ``3 min 05 s``, ``2 h 07 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _data(study: Study) -> dict[str, Any] | None:
    try:
        data = study.dataset
    except FileNotFoundError:
        return None
    defects = study.path("dataset", "defects.json")
    counted: Counter[tuple[str, str]] = Counter()
    if defects.is_file():
        counted.update((item["reason"], item["action"]) for item in read_json(defects))
    return {
        "categories": data.categories,
        "splits": data.splits,
        "measured": [said for split in study.experiment.evaluation.measured if (said := data.measured_on(split))],
        "doubled": TEST_IS_VAL if repeats_val(study) else "",
        "defects": [{"reason": reason, "action": action, "count": n} for (reason, action), n in counted.most_common()],
    }


def _arms(study: Study) -> list[dict[str, str]]:
    rows = []
    for name, spec in study.experiment.arms.items():
        parts = [part for part, given in (("regions", spec.regions), ("centroids", spec.centroids)) if given]
        rows.append(
            {
                "arm": name,
                "feature loss": spec.feature.upper() if spec.taught else "none",
                "learns from": spec.source or "ground truth alone",
                "further parts": ", ".join(parts) or "–",
                "starts from": _start(study.experiment, spec),
                "own weights": ", ".join(f"{key} {value}" for key, value in spec.weights.items()) or "–",
            }
        )
    return rows


def _start(experiment: Experiment, arm: ArmSpec) -> str:
    """Return what an arm's student starts from, and why not from its teacher where `student.inherit` would have it."""
    start, donor = start_of(experiment, arm), default_donor(experiment, arm)
    why = cannot_start(experiment, donor) if arm.start is None else ""
    return f"{start} ({why})" if why else start


def _results(study: Study) -> dict[str, Any] | None:
    try:
        frame = collect(study)
    except FileNotFoundError:
        return None
    split = study.experiment.evaluation.report
    resampled = read_resampled(study.path("ablations", RESAMPLED), frame, split)
    table = readable(summarise(frame, study.experiment, split, resampled))
    return {
        "table": table,
        "split": split,
        "missing": missing(study),
        "statistics": _statistics(comparisons(frame, study.experiment, split, resampled)),
        "headline": " ".join([_headline(frame, study.experiment, resampled), *remarks(study.experiment, study.root)]),
    }


def _headline(frame: pd.DataFrame, experiment: Experiment, resampled: pd.DataFrame | None) -> str:
    split = experiment.evaluation.report
    rows = scores(frame, split)
    arm = shown_arm(frame, experiment)
    means = rows.dropna(subset=["value"]).groupby("arm")["value"].mean()
    like = untaught_like(experiment, arm) if arm else None
    against = like if like in means.index else ALONE
    if arm is None or arm not in means.index or against not in means.index:
        return "Not enough is finished yet to compare a taught student with one that is not taught."
    alone = f"; alone it reaches {100 * means[ALONE]:.1f}" if ALONE in means.index else ""
    text = f"Taught by {arm}, the student reaches {100 * means[arm]:.1f} mAP{alone}."
    if like in means.index and like != ALONE:
        text += f" Started alike and not taught ({like}), it reaches {100 * means[like]:.1f}."
    elif start_of(experiment, experiment.arm(arm)) != OWN:
        text += " Part of that may be its start: no untaught arm of this study starts alike."
    row = paired_differences(frame, split, against={arm: against}, resampled=resampled).iloc[0]
    if not row["n"] or pd.isna(row["low"]):
        return f"{text} One seed: how much of the difference is chance cannot be said."
    low, high = 100 * row["low"], 100 * row["high"]
    sign = (
        "the interval leaves out zero"
        if low > 0 or high < 0
        else f"the interval holds zero: this may be chance, and an effect below {100 * row['detectable']:.1f} had most "
        "likely not been seen"
    )
    over = f"Over {int(row['n'])} seeds" if row["n"] > 1 else "Of one seed, over pictures alone,"
    gain = f"{100 * row['difference']:+.1f} [{low:+.1f}, {high:+.1f}]"
    return f"{text} {over} the gain over {against} is {gain}; {sign}."


def _statistics(differences: pd.DataFrame) -> list[dict[str, str]]:
    def number(value: Any, form: str, factor: float = 1.0) -> str:
        return "–" if value is None or pd.isna(value) else format(factor * float(value), form)

    rows = []
    for row in differences.to_dict("records"):
        interval = [number(row.get(key), "+.1f", 100) for key in ("low", "high")]
        rows.append(
            {
                "arm": row["arm"],
                "against": row["against"],
                "seeds": str(int(row["n"])),
                "gain": number(row.get("difference"), "+.1f", 100),
                "95 % interval": _pair(interval),
                "smallest effect seen": number(row.get("detectable"), ".1f", 100),
                "effect (d)": number(row.get("effect"), ".2f"),
                "p": number(row.get("p"), ".3f"),
            }
        )
    return rows


def _pair(ends: list[str]) -> str:
    return "–" if "–" in ends else f"{ends[0]} to {ends[1]}"


def _figures(study: Study, quality: int) -> dict[str, list[dict[str, Any]]]:
    """Return the drawn figures by section, in the registry's order, with their pictures embedded."""
    by_section: dict[str, list[dict[str, Any]]] = {section: [] for section in SECTIONS}
    for item in sorted(read_index(study), key=lambda item: section_of(item["name"])[1]):
        picture = embedded(study.path("figures", item["files"]["png"]), quality)
        by_section[section_of(item["name"])[0]].append(item | picture)
    return by_section


def _revision(manifest: dict[str, Any]) -> str:
    revision = manifest.get("revision") or {}
    git = revision.get("git")
    return "not under git" if not git else git[:10] + (" with local changes" if revision.get("dirty") else "")
