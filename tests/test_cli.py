"""The command line: what it refuses and how, and that it answers fast."""

import io
import os
import signal
import subprocess
import sys

import pytest

from mutineck import cli
from mutineck.running import study_run
from mutineck.study.experiment import load_experiment
from mutineck.study.experiment_file import repository
from mutineck.study.jobs import Job, jobs
from mutineck.study.last_run import note_last_run
from mutineck.study.stage import Study, write_experiment
from mutineck.system.files import write_json
from mutineck.system.processes import STOPPING, exclusive

HEAVY = ("torch", "mmdet", "mmcv", "matplotlib", "pandas", "numpy", "snakemake", "papermill", "pydantic")


@pytest.mark.parametrize("module", ["mutineck", "mutineck.cli"])
def test_help_imports_nothing_heavy(module):
    code = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=repository())
    assert found.stdout.strip() == "[]"


def test_experiments_are_read_without_the_detector_framework():
    code = "import sys, mutineck.study.experiment, mutineck.running.status\n"
    code += f"print([name for name in {HEAVY[:7]!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=repository())
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["clean", "--help"]], ids=" ".join)
def test_help(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 0
    assert "mutineck" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "smok"], "did you mean 'smoke.yaml'"),
        (["run", "smoke", "--set", "clusters.kk=3"], "clusters.kk: unknown key 'kk'; did you mean 'k'"),
        (["run", "smoke", "--set", "seeds"], "expected field.path=value"),
        (["run", "smoke", "--until", "teacher"], "unknown stage 'teacher'; did you mean 'teachers'"),
        (["run", "smoke", "--force", "cluster"], "unknown stage 'cluster'; did you mean 'clusters'"),
        (["clean", "smoke"], "there is no such study"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_explained_without_a_traceback(arguments, message, capsys, tmp_path):
    command, experiment, *rest = arguments
    assert cli.main([command, experiment, "--outputs", str(tmp_path / "out"), *rest]) == cli.MISTAKE
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.startswith("mutineck: ")
    assert "Traceback" not in captured.err
    assert not (tmp_path / "out").exists()


def test_debug_shows_the_traceback(tmp_path):
    with pytest.raises(ValueError, match="unknown experiment"):
        cli.main(["status", "smok", "--debug"])


@pytest.mark.parametrize("cores", ["0", "-1", "many"])
def test_cores_are_counted(cores, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["run", "smoke", "--cores", cores])
    assert stop.value.code == 2
    assert f"argument --cores: expected a whole number above 0, got {cores!r}" in capsys.readouterr().err


def test_clean_names_the_studies_that_are_there(tmp_path, capsys):
    for name in ("one", "two"):
        write_experiment(load_experiment("smoke"), tmp_path / name)
    assert cli.main(["clean", "smoke", "--outputs", str(tmp_path)]) == cli.MISTAKE
    assert capsys.readouterr().err.endswith(f"there is no such study; in {tmp_path} there are one, two\n")


def test_status_of_nothing(tmp_path, capsys):
    assert cli.main(["status", "smoke", "--outputs", str(tmp_path)]) == 1
    text = capsys.readouterr().out
    assert "distillation mutineck/seed0" in text and "not run yet" in text
    total = len(jobs(load_experiment("smoke")))
    assert f"0 of {total} jobs done" in text
    assert list(tmp_path.iterdir()) == []


def test_status_remembers_what_the_last_run_was_given(tmp_path, capsys):
    note_last_run(tmp_path / "smoke", ["seeds=[0, 1]"])
    cli.main(["status", "smoke", "--outputs", str(tmp_path)])
    text = capsys.readouterr().out
    assert "with --set 'seeds=[0, 1]', as in the last run" in text
    assert "student/seed1" in text
    cli.main(["status", "smoke", "--outputs", str(tmp_path), "--set", "seeds=[5]"])
    text = capsys.readouterr().out
    assert "student/seed5" in text and "student/seed1" not in text, "what is given comes last"


def test_clean_keeps_what_the_last_run_made_whatever_else_is_given(tmp_path, capsys):
    # The name has to be given, for the folder; what else the run was given is remembered there.
    note_last_run(tmp_path / "mine", ["seeds=[0, 1]", "name=mine"])
    kept = tmp_path / "mine" / "distillation" / "student" / "seed1"
    kept.mkdir(parents=True)
    cleaned = ["clean", "smoke", "--outputs", str(tmp_path), "--set", "name=mine", "--yes"]
    assert cli.main(cleaned) == 0
    text = capsys.readouterr().out
    assert "with --set 'seeds=[0, 1]' --set name=mine, as in the last run" in text
    assert "nothing to remove" in text and kept.is_dir()


def test_clean_asks_first(tmp_path, capsys, monkeypatch):
    left = tmp_path / "smoke" / "teachers" / "gone"
    left.mkdir(parents=True)
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))  # no terminal: an answer does not count
    assert cli.main(["clean", "smoke", "--outputs", str(tmp_path)]) == 1
    assert left.is_dir() and f"{left}: the experiment has no such teacher" in capsys.readouterr().out
    assert cli.main(["clean", "smoke", "--outputs", str(tmp_path), "--yes"]) == 0
    assert not left.exists()
    assert cli.main(["clean", "smoke", "--outputs", str(tmp_path), "--yes"]) == 0
    assert "nothing to remove" in capsys.readouterr().out


@pytest.mark.parametrize("answer", ["y", "n", ""], ids=["yes", "no", "nothing"])
def test_clean_removes_what_was_agreed_to(answer, tmp_path, monkeypatch):
    left = tmp_path / "smoke" / "teachers" / "gone"
    left.mkdir(parents=True)
    terminal = io.StringIO(f"{answer}\n")
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stdin", terminal)
    assert cli.main(["clean", "smoke", "--outputs", str(tmp_path)]) == int(answer != "y")
    assert left.is_dir() == (answer != "y")


def test_run_hands_everything_on(tmp_path, monkeypatch, capsys):
    received = {}

    def run(experiment, outputs, **options):
        received.update(options, name=experiment.name, k=experiment.clusters.k, outputs=outputs)
        return outputs / experiment.name

    monkeypatch.setattr(study_run, "run_study", run)
    arguments = [
        "run",
        "smoke",
        "--set",
        "clusters.k=4",
        "--until",
        "clusters",
        "--cores",
        "3",
        "--force",
        "features",
    ]
    assert cli.main([*arguments, "--outputs", str(tmp_path)]) == 0
    assert (received["name"], received["k"], received["outputs"]) == ("smoke", 4, tmp_path)
    assert (received["until"], received["cores"], received["force"]) == ("clusters", 3, ["features"])
    settings = f"--set clusters.k=4 --outputs {tmp_path} --until clusters --cores 3"
    assert received["again"] == f"mutineck run smoke {settings}", "all but what was forced once"


def test_the_studys_own_file_holds_what_was_set_and_the_last_run_stays_known(tmp_path, monkeypatch):
    received = []
    monkeypatch.setattr(
        study_run, "run_study", lambda experiment, outputs, **more: received.append(more["overrides"]) or outputs
    )
    root = tmp_path / "smoke"
    write_experiment(load_experiment("smoke", ["seeds=[0, 1]"]), root)
    note_last_run(root, ["seeds=[0, 1]"])
    for file in (str(root / "experiment.yaml"), "smoke"):
        assert cli.main(["run", file, "--outputs", str(tmp_path), "--set", "clusters.k=4"]) == 0
    assert received == [["seeds=[0, 1]", "clusters.k=4"], ["clusters.k=4"]]


@pytest.mark.parametrize(
    ("words", "until"),
    [(["compare"], ""), (["search", "--trials", "1"], " --until clusters")],
    ids=["compare", "search"],
)
def test_a_study_that_has_not_been_run_is_told_by_its_file(words, until, tmp_path, capsys):
    file = tmp_path / "own.yaml"
    file.write_text(f"base: {repository() / 'experiments' / 'smoke.yaml'}\nname: mine\n")
    assert cli.main([*words, str(file), "--outputs", str(tmp_path / "out")]) == cli.MISTAKE
    command = f"mutineck run {file}{until} --outputs {tmp_path / 'out'}\n"
    assert capsys.readouterr().err.endswith(f"make it with: {command}")


def test_results_of_another_revision_are_not_reused_silently(tmp_path, monkeypatch, capsys):
    study = Study(load_experiment("smoke"), tmp_path / "smoke", Job("dataset"))
    manifest = study.finish()
    (study.folder / "notebook.ipynb").write_text("{}")
    monkeypatch.setattr(study_run, "run_study", lambda experiment, outputs, **_: outputs / experiment.name)
    monkeypatch.setattr("mutineck.study.staleness.revision", lambda: {"git": "1" * 40, "dirty": False})
    for number, said in (("1", False), ("0", True)):
        write_json(study.folder / "manifest.json", manifest | {"revision": {"git": number * 40, "dirty": False}})
        assert cli.main(["run", "smoke", "--until", "dataset", "--outputs", str(tmp_path)]) == 0
        assert ("1 jobs were made by another revision (mutineck status" in capsys.readouterr().out) == said


def test_figures_are_not_drawn_while_a_run_writes_nor_the_other_way_round(tmp_path, capsys):
    with exclusive(tmp_path / "smoke", "mutineck figures smoke"):
        assert cli.main(["run", "smoke", "--outputs", str(tmp_path)]) == cli.MISTAKE
    assert f"in use by process {os.getpid()} (mutineck figures smoke" in capsys.readouterr().err
    with exclusive(tmp_path / "smoke", "mutineck run smoke"):
        assert cli.main(["figures", "smoke", "--outputs", str(tmp_path)]) == cli.MISTAKE
    assert f"in use by process {os.getpid()} (mutineck run smoke" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        pytest.param(study_run.Interrupted("stopped by SIGTERM", 15), 143, "stopped by SIGTERM", id="SIGTERM"),
        pytest.param(signal.SIGTERM, 143, "Go on with the same command", id="SIGTERM before anything runs"),
        pytest.param(signal.SIGINT, 130, "Go on with the same command", id="SIGINT before anything runs"),
    ],
)
def test_a_stopped_run_exits_as_a_shell_expects(error, status, said, monkeypatch, capsys, tmp_path):
    def run(*_, **__):
        if isinstance(error, Exception):
            raise error
        signal.raise_signal(error)

    monkeypatch.setattr(study_run, "run_study", run)
    # A shell that runs the tests in the background ignores SIGINT for all its children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    before = [signal.getsignal(number) for number in STOPPING]
    assert cli.main(["run", "smoke", "--outputs", str(tmp_path)]) == status
    assert said in capsys.readouterr().err
    assert [signal.getsignal(number) for number in STOPPING] == before


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path):
    command = [sys.executable, "-m", "mutineck", "status", "smoke", "--outputs", str(tmp_path)]
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (128 + signal.SIGPIPE, "")
