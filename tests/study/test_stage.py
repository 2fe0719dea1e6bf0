"""A stage as its notebook holds it."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from mutineck.study.experiment import load_experiment
from mutineck.study.experiment_file import repository
from mutineck.study.jobs import MANIFEST, PARAMETERS, Job
from mutineck.study.last_run import note_last_run
from mutineck.study.manifest import read_manifest
from mutineck.study.settings import settings_of
from mutineck.study.stage import Outcome, Study, begin, write_experiment
from mutineck.system import processes
from mutineck.system.errors import ExperimentError
from mutineck.system.files import sha256_file, sha256_path, write_text


def given(tmp_path, **more):
    return {"experiment": "smoke", "overrides": [], "outputs": str(tmp_path), **more}


@pytest.fixture
def study(tmp_path):
    return Study(experiment=load_experiment("smoke"), root=tmp_path / "smoke", job=Job("features"))


@pytest.mark.parametrize(
    ("stage", "more", "item"),
    [
        ("dataset", {}, None),
        ("teachers", {"teacher": "retina"}, "retina"),
        ("teachers", {"teacher": ""}, "faster"),
        ("teachers", {"teacher": "intermediate"}, "intermediate"),
        ("distillation", {"arm": "fgd:mean", "seed": 3}, "fgd-mean/seed3"),
        ("distillation", {"arm": "", "seed": 0}, "student/seed0"),
    ],
)
def test_begin(tmp_path, stage, more, item):
    study = begin(stage, given(tmp_path, **more))
    assert (study.stage, study.item, study.root) == (stage, item, tmp_path / "smoke")
    assert study.folder == tmp_path.joinpath("smoke", stage, *(item or "").split("/"))
    assert study.folder.is_dir()


@pytest.mark.parametrize(
    ("stage", "more", "message"),
    [
        ("dataset", {"seed": 1}, "notebook of the stage 'dataset': unknown parameter 'seed'"),
        ("distillation", {"arm": "student", "sead": 1}, "unknown parameter 'sead'; did you mean 'seed'"),
        ("teachers", {"teacher": "faser"}, "unknown teacher 'faser'; did you mean 'faster'"),
        ("distillation", {"arm": "fgd:men", "seed": 0}, "unknown arm 'fgd:men'; did you mean 'fgd:mean'"),
        ("distillation", {"arm": "student", "seed": "0"}, "expected a whole number, got '0'"),
        ("distillation", {"arm": "student", "seed": True}, "expected a whole number, got True"),
        ("dataset", {"overrides": "clusters.k=3"}, "expected a list of 'field.path=value'"),
    ],
)
def test_begin_refuses(tmp_path, stage, more, message):
    with pytest.raises(ExperimentError, match=message):
        begin(stage, given(tmp_path, **more))


def test_what_ipython_keeps_is_no_parameter(tmp_path):
    session = {
        "In": [""],
        "Out": {},
        "_i1": "x",
        "get_ipython": lambda: None,
        "exit": SimpleNamespace,
        "open": open,
        "json": json,
    }
    assert begin("dataset", given(tmp_path) | session).stage == "dataset"


def test_a_chapter_begins_again_in_a_live_session(tmp_path):
    """In JupyterLab the first cells are run again, and by then the notebook has names of its own."""
    session = given(tmp_path)
    session["study"] = begin("dataset", session)
    session |= {"rows": [1, 2], "overrides": ["dataset.shapes.images=40"]}
    assert begin("dataset", session).experiment.dataset.shapes.images == 40


def test_a_chapter_opens_the_study_as_it_was_last_run(tmp_path, capsys):
    note_last_run(tmp_path / "smoke", ["clusters.k=7", "seeds=[0, 3]"])
    study = begin("clusters", given(tmp_path))
    assert (study.experiment.clusters.k, study.experiment.seeds) == (7, (0, 3))
    assert "with --set clusters.k=7 --set 'seeds=[0, 3]', as in the last run" in capsys.readouterr().out
    assert "--set clusters.k=7 --set 'seeds=[0, 3]' --until dataset" in study.command("dataset")
    assert begin("clusters", given(tmp_path, overrides=["clusters.k=2"])).experiment.clusters.k == 2
    # The file in the study's folder says all of it, also what has been changed in it since.
    own = write_experiment(load_experiment("smoke", ["clusters.k=5"]), tmp_path / "smoke")
    assert begin("clusters", given(tmp_path, experiment=str(own))).experiment.clusters.k == 5


def test_begin_bounds_threads(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    begin("dataset", given(tmp_path, overrides=["resources.threads=2"]))
    import os

    assert os.environ["OMP_NUM_THREADS"] == "2"


def test_every_stage_has_parameters(tmp_path):
    for stage, names in PARAMETERS.items():
        assert names[:3] == ("experiment", "overrides", "outputs"), stage
    with pytest.raises(ExperimentError, match="unknown stage 'feature'; did you mean 'features'"):
        Study(load_experiment("smoke"), tmp_path, Job("feature"))


def test_need_names_the_command(study):
    with pytest.raises(FileNotFoundError, match=r"dataset/train.json is missing.*mutineck run smoke --until dataset"):
        study.need("dataset", "train.json")
    path = study.path("dataset", "train.json")
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    assert study.need("dataset", "train.json") == path


def test_the_command_for_what_is_missing_names_file_settings_and_outputs(tmp_path):
    (tmp_path / "own.yaml").write_text(f"base: {repository() / 'experiments' / 'smoke.yaml'}\nname: mine\n")
    more = {"experiment": str(tmp_path / "own.yaml"), "overrides": ["clusters.k=4"]}
    command = f"mutineck run {tmp_path / 'own.yaml'} --set clusters.k=4 --until dataset --outputs {tmp_path}"
    with pytest.raises(FileNotFoundError) as error:
        begin("features", given(tmp_path, **more)).at("clusters").need("dataset", "train.json")
    assert str(error.value).endswith(f"Make it with: {command}")
    # Where nobody knows the file, the study's folder holds the experiment.
    study = Study(load_experiment(tmp_path / "own.yaml"), tmp_path / "mine", Job("features"))
    write_experiment(study.experiment, study.root)
    assert study.command("dataset").startswith(f"mutineck run {tmp_path / 'mine' / 'experiment.yaml'} --until")
    assert load_experiment(tmp_path / "mine" / "experiment.yaml") == study.experiment


def test_finish(study, tmp_path, capsys):
    outside, inside = tmp_path / "photo.jpg", study.folder / "part.parquet"
    outside.write_bytes(b"a")
    inside.write_bytes(b"b")
    assert read_manifest(study.root, Job("features")) is None
    returned = study.finish(reads=[outside], writes=[inside], results={"rows": 3})
    manifest = read_manifest(study.root, Job("features"))
    assert manifest == returned
    assert manifest["settings"] == settings_of(study.experiment, Job("features"))
    assert manifest["writes"] == {"features/part.parquet": sha256_file(inside)}
    assert list(manifest["reads"]) == [str(outside)]
    assert manifest["results"] == {"rows": 3}
    assert {"revision", "versions", "seconds", "peak_memory_mib", "finished"} <= set(manifest)
    assert "features finished in" in capsys.readouterr().out


def test_what_a_stages_functions_return_is_its_manifest(study):
    files = [write_text(study.root / name, name) for name in ("dataset/train.json", "report.html", "features/a.csv")]
    first = Outcome(["a table"], reads=files[:1], writes=files[2:], results={"rows": 3, "left_out": 1})
    second = Outcome(None, writes=files[1:2], results={"mAP": 0.5})
    manifest = study.finish(first, second, results={"left_out": 2})
    assert manifest["reads"] == {"dataset/train.json": sha256_file(files[0])}
    assert list(manifest["writes"]) == ["features/a.csv", "report.html"]
    assert manifest["results"] == {"rows": 3, "left_out": 2, "mAP": 0.5}, "the later one counts"


def test_the_manifest_lists_all_that_lies_in_the_stages_folder(study):
    names = ["summary.csv", "big/part-0.parquet", "big/index.json", "whole/a", "whole/b/c"]
    for name in [*names, "notebook.ipynb", ".summary.csv.abcd1234", "tensorboard/events", "training/latest.pth"]:
        (study.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (study.folder / name).write_text(name)
    written = study.finish(writes=[study.folder / "big" / "part-0.parquet"])["writes"]
    assert list(written) == [
        f"features/{name}" for name in ("big/index.json", "big/part-0.parquet", "summary.csv", "whole/")
    ]
    assert all(sha256_path(study.root / name) == digest for name, digest in written.items())
    (study.folder / "whole" / "b" / "c").write_text("changed")
    assert sha256_path(study.folder / "whole") != written["features/whole/"]


@pytest.mark.parametrize(
    "wrong", [{"writes": ["nothing.json"]}, {"results": {"loss": float("nan")}}], ids=["file", "number"]
)
def test_what_is_not_finished_leaves_no_manifest(study, wrong):
    with pytest.raises((FileNotFoundError, ValueError)):
        study.finish(**wrong)
    assert not (study.folder / MANIFEST).exists()


def test_two_notebooks_do_not_share_a_stage(tmp_path, monkeypatch):
    code = "import json, sys; from mutineck.study.stage import begin\n"
    code += "begin('features', json.loads(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, json.dumps(given(tmp_path))]
    monkeypatch.setattr(processes, "PATIENCE", 0.2)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=repository()) as other:
        lines = iter(other.stdout.readline, "")
        assert next(line for line in lines if line == "held\n")
        holder = rf"features is in use by process {other.pid} \(the notebook of features, since"
        with pytest.raises(processes.BusyError, match=holder):
            begin("features", given(tmp_path))
        begin("clusters", given(tmp_path))
        other.kill()
    assert begin("features", given(tmp_path)).folder == begin("features", given(tmp_path)).folder
