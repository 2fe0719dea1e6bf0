"""The report holds everything in itself, tells what is not there, and fits a telephone."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest

from mutineck.ablations.table import write_tables
from mutineck.figures import draw_all
from mutineck.figures.report import LIMIT, duration, render_notebooks, write_report
from mutineck.study.checks import Check
from mutineck.study.jobs import Job
from mutineck.study.stage import Study
from tests.figures.tiny import make_experiment

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page(HTMLParser):
    """Collects what a page would fetch, its pictures, links and targets."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.texts_for_pictures: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in ("img", "script", "iframe", "source", "video"):
            self.sources += [given["src"] or ""] if "src" in given else []
        if tag == "link":
            self.sources.append(given["href"] or "")
        if tag == "a":
            self.links.append(given["href"] or "")
        if tag == "img":
            self.texts_for_pictures.append(given.get("alt") or "")
        if "id" in given:
            self.ids.add(given["id"] or "")


@pytest.fixture(scope="module")
def report(finished: Study) -> Path:
    draw_all(finished)
    notebook = nbformat.v4.new_notebook()
    output = nbformat.v4.new_output("stream", text="read me\n")
    shown = [
        nbformat.v4.new_output("display_data", {"image/png": "iVBORw0KGgo="}, metadata={"image/png": own})
        for own in ({}, {"alt": "of its own"})
    ]
    notebook.cells = [
        nbformat.v4.new_markdown_cell("# A chapter with $x^2$"),
        nbformat.v4.new_code_cell("print('read me')", outputs=[output, *shown]),
    ]
    nbformat.write(notebook, finished.path("distillation", "mutineck", "seed0", "notebook.ipynb"))
    return write_report(finished).found


def test_everything_is_inside(report: Path) -> None:
    text = report.read_text()
    page = Page(text)
    assert len(page.texts_for_pictures) >= 12
    assert all(page.texts_for_pictures), "a picture without a text for those who do not see it"
    assert all(source.startswith("data:") for source in page.sources)
    assert not re.search(r"url\(\s*['\"]?http|@import", text)
    assert len(text.encode()) < LIMIT


def test_links_lead_somewhere(report: Path) -> None:
    page = Page(report.read_text())
    assert page.links
    for link in page.links:
        if link.startswith("#"):
            assert link[1:] in page.ids
        else:
            assert (report.parent / link).is_file()


def test_numbers_are_those_of_the_table(report: Path, finished: Study) -> None:
    from mutineck.ablations.results import collect
    from mutineck.ablations.table import readable, summarise

    table = readable(summarise(collect(finished), finished.experiment, "test"))
    text = report.read_text()
    for cell in table["mAP"]:
        assert cell in text


def test_a_weaker_intermediate_teacher_stands_in_the_headline_and_below_the_tables(
    finished: Study, tmp_path: Path
) -> None:
    study = Study(finished.experiment, shutil.copytree(finished.root, tmp_path / "tiny"), Job("ablations"))
    check = Check(0.287, "faster", -0.006, -0.021, 0.01, 40, 1000)
    study.at("teachers", "intermediate").finish(results={"check": check._asdict()})
    said = "The intermediate teacher is 0.6 mAP below the best teacher, faster, on val [-2.1, +1.0]"
    lead = re.search(r'<p class="lead">(.*?)</p>', write_report(study).found.read_text())
    assert lead is not None and said in lead[1]
    *_, markdown, latex = write_tables(study).found
    assert said in markdown.read_text() and said in latex.read_text()


def test_notebooks_become_pages_that_fetch_nothing_and_whose_pictures_have_a_text(report: Path) -> None:
    text = (report.parent / "notebooks" / "distillation-mutineck-seed0.html").read_text()
    assert "read me" in text
    assert Page(text).texts_for_pictures == ["A chapter with $x^2$", "of its own"]
    assert all(source.startswith("data:") for source in Page(text).sources)
    assert "cdnjs" not in text


def test_the_running_notebook_has_no_page(finished: Study, tmp_path: Path) -> None:
    root = shutil.copytree(finished.root, tmp_path / "tiny")
    for stage in ("figures", "ablations"):
        (root / stage).mkdir(exist_ok=True)
        nbformat.write(nbformat.v4.new_notebook(), root / stage / "notebook.ipynb")
    links = render_notebooks(Study(finished.experiment, root, Job("figures")))
    assert "ablations" in links and "figures" not in links


def test_unfinished_study_is_reported_as_such(tmp_path: Path) -> None:
    study = Study(make_experiment(), tmp_path / "tiny", Job("figures"))
    text = write_report(study).found.read_text()
    assert "The stage dataset has not run" in text
    assert "No arm has results yet" in text


def test_where_test_is_val_the_report_says_that_its_numbers_are_validations(finished: Study, tmp_path: Path) -> None:
    said = "test has no annotations of its own and holds the same pictures as val"
    study = Study(finished.experiment, shutil.copytree(finished.root, tmp_path / "tiny"), Job("figures"))
    assert said not in write_report(study).found.read_text().lower()
    shutil.copy(study.path("dataset", "val.json"), study.path("dataset", "test.json"))
    text = write_report(study).found.read_text()
    assert f"Here {said}: these are validation numbers." in text
    assert text.lower().count(said) == 2


def test_a_part_without_figures_says_how_they_are_drawn(tmp_path: Path) -> None:
    text = write_report(Study(make_experiment(name="mine"), tmp_path / "mine", Job("figures"))).found.read_text()
    assert "<code>mutineck figures mine</code>" in text


def test_names_cannot_inject_markup(tmp_path: Path) -> None:
    hostile = make_experiment(description="<script>alert(1)</script>")
    text = write_report(Study(hostile, tmp_path / "tiny", Job("figures"))).found.read_text()
    assert "<script>" not in text


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (7620, "2 h 07 min")],
)
def test_duration(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.skipif(BROWSER is None, reason="no chromium here: `apt-get install chromium` lets this test run")
@pytest.mark.parametrize("width", [390, 1440])
def test_a_browser_finds_nothing_sticking_out_fetched_or_complained_of(
    report: Path, tmp_path: Path, width: int
) -> None:
    # An iframe has exactly the width asked for, while a headless window has a least width of its own.
    probe = tmp_path / "probe.html"
    probe.write_text(
        f'<iframe id="f" src="{report.resolve().as_uri()}" '
        f'style="width:{width}px;height:800px;border:0"></iframe>'
        '<pre id="result">pending</pre><script>const f = document.getElementById("f"); f.onload = () => {'
        "const root = f.contentDocument.documentElement;"
        'const fetched = f.contentWindow.performance.getEntriesByType("resource").map(e => e.name)'
        '.filter(name => !name.startsWith("data:"));'
        'document.getElementById("result").textContent = '
        "`${root.scrollWidth} of ${root.clientWidth}, fetched: ${fetched.join()}`; };</script>"
    )
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += [
        "--allow-file-access-from-files",
        "--virtual-time-budget=8000",
        "--enable-logging=stderr",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--dump-dom",
        probe.as_uri(),
    ]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'<pre id="result">(\d+) of (\d+), fetched: (.*)</pre>', done.stdout)
    assert found, f"the page did not load: {done.stdout[-300:]} {done.stderr[-300:]}"
    scroll, client = int(found[1]), int(found[2])
    assert client == width
    assert scroll <= client
    assert found[3] == "", "the report asks for other files"
    assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line]
