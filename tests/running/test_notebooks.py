"""Running one notebook, and the rules that every notebook in `notebooks/` keeps."""

import ast
import re
import subprocess
import sys

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_notebook

from mutineck.running.job_run import notebook_of
from mutineck.running.notebooks import NotebookError, Progress, declared_parameters, execute, main
from mutineck.study.experiment import STAGES
from mutineck.study.experiment_file import repository
from mutineck.study.jobs import PARAMETERS
from mutineck.study.last_run import note_last_run
from mutineck.system.errors import ExperimentError
from mutineck.system.telling import tell

NOTEBOOKS = sorted((repository() / "notebooks").glob("*.ipynb"))
LONGEST_CELL = 12


def notebook_with(path, *sources, parameters="text = 'a'\nnumber = 1"):
    cells = [new_code_cell(parameters, metadata={"tags": ["parameters"]}), *map(new_code_cell, sources)]
    nbformat.write(new_notebook(cells=cells), path)
    return path


@pytest.mark.slow
def test_parameters_arrive_as_data_in_this_python(tmp_path):
    hostile = "'); import pathlib; pathlib.Path('hacked').touch() #\n\"\"\"\\{number}$(touch hacked)\u2028\x00é"
    source = "import os, sys, mutineck, pathlib\n"
    source += "pathlib.Path('seen').write_text(repr((text, number, sys.executable, mutineck.__file__)))"
    notebook = notebook_with(tmp_path / "n.ipynb", source, "print('said')")
    before = notebook.read_bytes()
    work = tmp_path / "work"
    work.mkdir()
    output = tmp_path / "a {folder}" / "deep" / "out.ipynb"
    parameters = {"text": hostile, "number": [1, {"x": None}]}
    assert execute(notebook, output, parameters, kernel_cwd=work, log=tmp_path / "log.txt") == output
    text, number, python, package = ast.literal_eval((work / "seen").read_text())
    assert (text, number) == (hostile, [1, {"x": None}])
    assert (python, package) == (sys.executable, str(repository() / "mutineck" / "__init__.py"))
    assert not list(tmp_path.rglob("hacked"))
    assert (tmp_path / "log.txt").read_text() == "said\n"
    assert [path.name for path in output.parent.iterdir()] == ["out.ipynb"]
    assert notebook.read_bytes() == before


@pytest.mark.slow
def test_a_stopped_notebook_says_what_its_cell_raised_and_is_kept_aside(tmp_path, capsys):
    notebook = notebook_with(tmp_path / "n.ipynb", "if number > 1:\n    raise ValueError('first\\nsecond')")
    output = tmp_path / "out.ipynb"
    with pytest.raises(
        NotebookError,
        match=r"^ValueError: first\nsecond\nraised by cell \[3\] of n.ipynb; .*out.failed.ipynb$",
    ):
        execute(notebook, output, {"number": 2})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["n.ipynb", "out.failed.ipynb"]
    # What was executed once does not carry its past on, and success clears the failure away.
    (tmp_path / "p.yaml").write_text(yaml.safe_dump({"number": 0}))
    failed = tmp_path / "out.failed.ipynb"
    assert "injected-parameters" in failed.read_text()
    again = failed.rename(tmp_path / "again.ipynb")
    failed.write_text("{}")
    execute(again, output, {"number": 0})
    tags = [cell.metadata.get("tags", []) for cell in nbformat.read(output, as_version=4).cells]
    assert tags.count(["injected-parameters"]) == 1
    assert not failed.exists()


@pytest.mark.slow
def test_a_kernel_that_dies_is_reported_with_the_remedy(tmp_path):
    notebook = notebook_with(tmp_path / "n.ipynb", "import os\nos.write(2, b'out of memory')\nos.kill(os.getpid(), 9)")
    with pytest.raises(NotebookError, match=r"did not survive(.|\n)*smaller batch(.|\n)*log.txt: out of memory"):
        execute(notebook, tmp_path / "out.ipynb", {}, log=tmp_path / "log.txt")
    assert (tmp_path / "out.failed.ipynb").is_file()


def test_no_grammar_is_built_to_read_a_notebook():
    # In a process of its own: here nbformat was imported first.
    code = "import sys; from mutineck.running.notebooks import read_notebook; read_notebook(sys.argv[1])"
    code += "; assert 'jsonschema' in sys.modules and sys.modules['rfc3987_syntax'] is None"
    subprocess.run([sys.executable, "-c", code, str(NOTEBOOKS[0])], cwd=repository(), check=True)


def test_a_misspelt_parameter_is_refused_before_anything_runs(tmp_path):
    notebook = notebook_with(tmp_path / "n.ipynb")
    with pytest.raises(ExperimentError, match=r"n\.ipynb: unknown parameter 'numbr'; did you mean 'number'"):
        execute(notebook, tmp_path / "sub" / "out.ipynb", {"numbr": 2})
    assert not (tmp_path / "sub").exists()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1\ny = open('z')", "default of parameter 'y' is no plain value"),
        ("x, y = 1, 2", "only assign plain values"),
        ("print(1)", "only assign plain values"),
    ],
    ids=["call", "tuple", "statement"],
)
def test_odd_parameter_cells_are_refused(source, message):
    notebook = new_notebook(cells=[new_code_cell(source, metadata={"tags": ["parameters"]})])
    with pytest.raises(ExperimentError, match=message):
        declared_parameters(notebook, "n.ipynb")


@pytest.mark.parametrize("count", [0, 2])
def test_one_cell_is_tagged(count):
    notebook = new_notebook(cells=[new_code_cell("x = 1", metadata={"tags": ["parameters"]}) for _ in range(count)])
    with pytest.raises(ExperimentError, match=f"expected one cell tagged 'parameters', got {count}"):
        declared_parameters(notebook, "n.ipynb")


def test_annotated_parameters_are_seen():
    notebook = new_notebook(cells=[new_code_cell("x: int | None = None\ny = -1", metadata={"tags": ["parameters"]})])
    assert declared_parameters(notebook, "n.ipynb") == {"x": None, "y": -1}


def test_the_command_line_refuses_a_list_of_parameters(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("mutineck.running.notebooks.end_with_parent", lambda: None)
    (tmp_path / "p.yaml").write_text("[1]")
    assert main([str(notebook_with(tmp_path / "n.ipynb")), str(tmp_path / "o.ipynb"), str(tmp_path / "p.yaml")]) == 1
    assert "expected a mapping of parameters, got [1]" in capsys.readouterr().err


def test_progress_shows_little_and_keeps_all(tmp_path, capsys):
    progress = Progress("teachers a", tmp_path / "log" / "a.log", interval=0)
    progress.stream(shown=True).write("epoch 1\nepoch 2\n")
    progress.stream(shown=False).write("a warning\n")
    progress.stream(shown=False).write("\r10%|#")
    progress.interval = 1000
    progress.stream(shown=True).write("epoch 3\n")
    progress.close()
    assert capsys.readouterr().out.splitlines() == ["  teachers a: epoch 2", "  teachers a: 10%|#"]
    assert (tmp_path / "log" / "a.log").read_bytes() == b"epoch 1\nepoch 2\na warning\n\r10%|#epoch 3\n"


@pytest.mark.slow
def test_a_chapter_that_is_opened_after_a_run_reads_what_that_has_set(tmp_path):
    """Its first cells as they are, in a kernel of their own, where somebody has opened it in JupyterLab."""
    note_last_run(tmp_path / "smoke", ["clusters.k=7"])
    chapter = nbformat.read(repository() / "notebooks" / "04_clusters.ipynb", as_version=4)
    first = [cell for cell in chapter.cells if cell.cell_type == "code"][:2]
    opened = new_notebook(cells=[*first, new_code_cell("print('k', study.experiment.clusters.k)")])
    nbformat.write(opened, tmp_path / "n.ipynb")
    parameters = {"experiment": "experiments/smoke.yaml", "outputs": str(tmp_path)}
    execute(tmp_path / "n.ipynb", tmp_path / "out.ipynb", parameters, kernel_cwd=repository() / "notebooks")
    printed = [
        output.text for cell in nbformat.read(tmp_path / "out.ipynb", 4).cells for output in cell.get("outputs", [])
    ]
    assert "with --set clusters.k=7, as in the last run\n" in printed[0]
    assert printed[-1] == "k 7\n"


def test_what_is_told_is_shown_at_once(capsys):
    progress = Progress("dataset", interval=1000)
    tell("5 left out:\n  3 of one kind")
    progress.stream(shown=True).write("one\n" + capsys.readouterr().out + "two\n")
    progress.stream(shown=False).write("! a warning\n")
    assert capsys.readouterr().out.splitlines() == ["  dataset: 5 left out:", "  dataset:   3 of one kind"]


def test_there_is_a_notebook_for_each_stage():
    assert [path.name for path in NOTEBOOKS] == [notebook_of(stage) for stage in STAGES]


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def chapter(request):
    return request.param, nbformat.read(request.param, as_version=4)


def test_notebooks_are_committed_clean(chapter):
    _, notebook = chapter
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert (notebook.metadata.kernelspec.name, notebook.metadata.kernelspec.display_name) == (
        "python3",
        "Python 3",
    )
    assert "papermill" not in notebook.metadata
    for cell in notebook.cells:
        assert "papermill" not in cell.metadata and "execution" not in cell.metadata
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None


def test_notebooks_declare_what_their_stage_reads(chapter):
    path, notebook = chapter
    stage = path.stem.split("_", 1)[1]
    declared = declared_parameters(notebook, path)
    assert set(declared) == set(PARAMETERS[stage])
    assert declared["experiment"] == "experiments/shapes.yaml"
    first, second, *_, last = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    assert "experiment =" in first
    assert f'begin("{stage}", globals())' in second
    assert re.fullmatch(r"study\.finish\(\w+(, \w+)*\);", last), "a stage's functions return what they read and wrote"


def test_notebooks_hold_prose_and_no_logic(chapter):
    _, notebook = chapter
    previous = None
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert previous == "markdown", f"a sentence belongs before:\n{cell.source}"
            assert len(cell.source.splitlines()) <= LONGEST_CELL, cell.source
            kinds = {
                type(node) for node in ast.walk(ast.parse(cell.source.replace("%", "#", cell.source.startswith("%"))))
            }
            assert not kinds & {ast.ClassDef, ast.While, ast.AsyncFunctionDef}, cell.source
        previous = cell.cell_type
    assert notebook.cells[0].cell_type == "markdown" and notebook.cells[0].source.startswith("# ")


def test_notebooks_link_to_their_neighbours(chapter):
    path, notebook = chapter
    order = [notebook_of(stage) for stage in STAGES]
    position = order.index(path.name)
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    for neighbour in [*order[max(0, position - 1) : position], *order[position + 1 : position + 2]]:
        assert f"({neighbour})" in prose or f"(./{neighbour})" in prose
