"""Runs of a study on notebooks that do nothing but finish."""

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import nbformat
import psutil
import pytest
import yaml

from mutineck.running import snakemake_process, status, study_run
from mutineck.running.job_run import own_gpu, parameters, visible_gpus
from mutineck.study.checks import Check
from mutineck.study.experiment import load_experiment
from mutineck.study.jobs import MANIFEST, PARAMETERS, Job, items, jobs, needs
from mutineck.study.settings import settings_of, settings_text
from mutineck.study.stage import Study, write_experiment
from mutineck.study.staleness import inspect
from mutineck.system.errors import ExperimentError
from mutineck.system.files import read_json, write_json
from mutineck.system.processes import BusyError, exclusive
from mutineck.system.records import differences
from tests.stand_ins import EXPERIMENT, WORK, write_notebooks

HOSTILE = "it's $(touch hacked)"
"""Part of folders' names: no shell and no template may take it for anything else."""
TAUGHT = ("fgd-b", "fgd-mean", "mutineck", "mutineck-intermediate")
"""Arms of the tiny study whose students learn from teachers."""


@pytest.fixture(scope="module")
def experiment_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("experiments") / "tiny.yaml"
    path.write_text(yaml.safe_dump(EXPERIMENT, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def experiment(experiment_file):
    return load_experiment(experiment_file)


@pytest.fixture(scope="module")
def notebooks(tmp_path_factory):
    return write_notebooks(tmp_path_factory.mktemp(f"notebooks {{0}} {HOSTILE}"))


class Runner:
    """Runs the tiny study up to its teachers (three jobs), in one outputs folder for the module."""

    def __init__(self, experiment_file, notebooks, outputs):
        self.file, self.notebooks, self.outputs = experiment_file, notebooks, outputs
        self.root = outputs / "tiny"
        self.settled = ()  # the settings with which it was up to date last

    def __call__(self, *overrides, **options):
        self.forget()
        experiment = load_experiment(self.file, overrides)
        settings = {
            "until": "teachers",
            "cores": 2,
            "notebooks": self.notebooks,
            "overrides": overrides,
        } | options
        study_run.run_study(experiment, self.outputs, **settings)
        if not settings.get("dry_run"):
            self.settled = overrides

    def beside(self, *overrides):
        """Return these settings, and for the rest those that the study has."""
        fields = {setting.partition("=")[0] for setting in overrides}
        return (*(own for own in self.settled if own.partition("=")[0] not in fields), *overrides)

    def start(self, *overrides):
        """Start the same in a process of its own."""
        self.forget()
        command = [
            sys.executable,
            "-m",
            "mutineck",
            "run",
            str(self.file),
            "--outputs",
            str(self.outputs),
            "--until",
            "teachers",
        ]
        command += [
            "--notebooks",
            str(self.notebooks),
            *(word for item in overrides for word in ("--set", item)),
        ]
        environment = os.environ | {"PYTHONPATH": str(Path(study_run.__file__).parents[2])}
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def forget(self):
        (self.outputs / "ran").unlink(missing_ok=True)

    @property
    def ran(self):
        """What has run since, as `stage item`."""
        path = self.outputs / "ran"
        return sorted(path.read_text().splitlines()) if path.exists() else []

    def wait_for(self, line, seconds=60):
        deadline = time.monotonic() + seconds
        while line not in self.ran:
            assert time.monotonic() < deadline, f"{line} did not start; ran: {self.ran}"
            time.sleep(0.05)


@pytest.fixture(scope="module")
def finished(experiment_file, notebooks, tmp_path_factory):
    runner = Runner(experiment_file, notebooks, tmp_path_factory.mktemp(f"outputs {HOSTILE}"))
    runner(cores=3)
    assert not Path("hacked").exists() and not list(runner.outputs.rglob("hacked"))
    assert runner.ran == ["dataset None", "teachers a", "teachers b", "teachers intermediate"]
    return runner


@pytest.fixture
def study(finished):
    """The study, up to date with the settings that the test before has left, or stopped at its first teacher."""
    finished.forget()
    yield finished
    for name in ("nap", "fail"):
        (finished.outputs / name).unlink(missing_ok=True)


def processes_below(text):
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(text in word for word in process.info["cmdline"] or ()):
            found.append(process)
    return found


def wait_until_gone(text, seconds=10):
    deadline = time.monotonic() + seconds
    while found := processes_below(text):
        assert time.monotonic() < deadline, [process.cmdline() for process in found]
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("stage", "item", "expected"),
    [
        ("dataset", None, []),
        ("teachers", "b", ["dataset"]),
        ("teachers", "intermediate", ["dataset", "teachers a", "teachers b"]),
        ("features", None, ["dataset", "teachers a", "teachers b", "teachers intermediate"]),
        ("clusters", None, ["dataset", "features"]),
        ("distillation", "student/seed1", ["dataset"]),
        ("distillation", "fgd-b/seed0", ["dataset", "teachers b"]),
        ("distillation", "fgd-mean/seed0", ["dataset", "teachers a", "teachers b"]),
        (
            "distillation",
            "mutineck/seed0",
            ["dataset", "teachers a", "teachers b", "teachers intermediate", "clusters"],
        ),
        ("distillation", "mutineck-intermediate/seed0", ["dataset", "teachers a", "teachers b", "clusters"]),
    ],
    ids=str,
)
def test_needs(experiment, stage, item, expected):
    assert [str(job) for job in needs(experiment, Job(stage, item))] == expected


def test_every_job_comes_after_what_it_needs_and_figures_after_all(experiment):
    order = jobs(experiment)
    assert len(order) == len(set(order)) == 1 + 3 + 1 + 1 + 5 * 2 + 1 + 1
    for position, job in enumerate(order):
        assert set(needs(experiment, job)) <= set(order[:position])
    assert set(needs(experiment, Job("figures"))) == set(order) - {Job("figures")}


def test_no_intermediate_teacher_where_no_arm_learns_from_it():
    experiment = load_experiment("smoke", ["arms={student: , 'fgd:mean': }"])
    assert items(experiment, "teachers") == ["faster", "retina"]


def test_until_and_its_near_matches(experiment):
    assert jobs(experiment, "dataset") == [Job("dataset")]
    with pytest.raises(ExperimentError, match="did you mean 'teachers'"):
        jobs(experiment, "teacher")


@pytest.mark.parametrize("item", ["fgd-c/seed0", "fgd-b/seed7", None], ids=str)
def test_unknown_items_are_refused(experiment, item):
    with pytest.raises(ExperimentError, match="unknown item of distillation"):
        needs(experiment, Job("distillation", item))


def test_a_jobs_folder_names_it(experiment):
    assert all(Job.at(job.folder) == job for job in jobs(experiment))
    with pytest.raises(ExperimentError, match="unknown stage"):
        Job.at("fetures")


def test_a_notebooks_parameters(experiment, tmp_path):
    given = parameters(experiment, tmp_path / "tiny", Job("distillation", "fgd-mean/seed1"))
    assert (given["arm"], given["seed"], given["outputs"]) == ("fgd:mean", 1, str(tmp_path))
    for job in jobs(experiment):
        assert set(parameters(experiment, tmp_path, job)) == set(PARAMETERS[job.stage])


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("clusters.k=5", {"clusters"}),
        ("teachers.b.seed=3", {"teachers b"}),
        ("dataset.seed=3", {"dataset"}),
        ("arms.mutineck.weights.alpha=1", {"distillation mutineck/seed0", "distillation mutineck/seed1"}),
        ("resources.threads=7", set()),
        ("resources.cache=on", set()),
        (
            "resources.cache=off",
            {"teachers intermediate", *(f"distillation {arm}/seed{seed}" for arm in TAUGHT for seed in (0, 1))},
        ),
        ("description=other words", set()),
    ],
    # A set's own text differs between processes.
    ids=["clusters", "teacher", "dataset", "arm", "threads", "cache on", "cache off", "words"],
)
def test_a_setting_concerns_only_the_jobs_that_depend_on_it(experiment, experiment_file, override, changed):
    other = load_experiment(experiment_file, [override])
    assert {
        str(job) for job in jobs(experiment) if settings_text(experiment, job) != settings_text(other, job)
    } == changed


@pytest.mark.parametrize(
    ("order", "changed"),
    [
        (["b", "a"], {"fgd-mean", "mutineck", "mutineck-intermediate"}),
        (["a", "b", "c"], {"fgd-mean", "mutineck", "mutineck-intermediate"}),
        (["b"], {"fgd-mean", "mutineck", "mutineck-intermediate"}),
    ],
    ids=["turned round", "one more", "one less"],
)
def test_other_teachers_concern_the_arms_that_learn_from_them(experiment, experiment_file, order, changed):
    detector = "detector: {family: faster_rcnn}"
    other = load_experiment(
        experiment_file, [f"teachers=[{', '.join(f'{{name: {name}, {detector}}}' for name in order)}]"]
    )
    stale = {
        item.split("/")[0]
        for item in items(experiment, "distillation")
        if settings_of(experiment, Job("distillation", item)) != settings_of(other, Job("distillation", item))
    }
    assert stale == changed, "not the student by itself, and not those of `b` alone"


@pytest.mark.parametrize(("chosen", "expected"), [("", []), ("-1", []), ("0,2", ["0", "2"])], ids=repr)
def test_visible_gpus(monkeypatch, chosen, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert visible_gpus() == expected


def test_two_jobs_do_not_share_a_gpu(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    with own_gpu(["4", "5"], tmp_path) as first, own_gpu(["4", "5"], tmp_path) as second:
        assert (first, second) == ("4", "5")
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "5"
    with own_gpu(["4", "5"], tmp_path) as third:
        assert third == "4"
    with own_gpu([], tmp_path) as none:
        assert none is None


def test_jobs_share_a_gpu_where_they_may_and_the_idlest_first(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    with contextlib.ExitStack() as held:
        taken = [held.enter_context(own_gpu(["4", "5"], tmp_path, share=2)) for _ in range(4)]
        assert taken == ["4", "5", "4", "5"]
        monkeypatch.setattr("time.sleep", mock.Mock(side_effect=TimeoutError))
        with pytest.raises(TimeoutError), own_gpu(["4", "5"], tmp_path, share=2):  # a fifth waits
            pass


def test_a_folder_that_snakemake_would_misread_is_refused(experiment, tmp_path):
    with pytest.raises(ExperimentError, match=r"a\{0\}.*reads braces in a path as wildcards.* \(--outputs\)"):
        study_run.run_study(experiment, tmp_path / "a{0}")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_has_one_user_at_a_time(tmp_path):
    holder = f"process {os.getpid()} \\(mutineck run tiny"
    with (
        exclusive(tmp_path, "mutineck run tiny"),
        pytest.raises(BusyError, match=holder),
        exclusive(tmp_path, "another"),
    ):
        pytest.fail("two held the same folder")
    with exclusive(tmp_path, "again"):
        pass


def test_the_resolved_experiment_reads_back_and_is_written_once(experiment, tmp_path):
    path = write_experiment(experiment, tmp_path)
    before = path.stat().st_mtime_ns
    assert load_experiment(path) == experiment
    write_experiment(experiment, tmp_path)
    assert path.stat().st_mtime_ns == before


def test_differences_name_the_field():
    before, now = {"a": {"b": 1, "c": [2]}, "d": 0}, {"a": {"b": 1, "c": [3]}, "e": None}
    assert list(differences(before, now)) == [
        "a.c: [2] -> [3]",
        "d: 0 -> nothing",
        "e: nothing -> null",
    ]


def finish(experiment, root):
    """Make a study look finished."""
    for job in jobs(experiment):
        done = Study(experiment, root, job)
        for teacher in items(experiment, "teachers") if job.stage == "features" else ():
            write_json(done.folder / teacher / "index.json", {})
        write_json(done.folder / "notebook.ipynb", {})
        done.finish()


@pytest.mark.parametrize(
    "override",
    [
        "arms={student: , 'fgd:b': , 'fgd:mean': , mutineck-intermediate: }",
        "arms={student: }",
        "arms={student: , mutineck: {source: mean}}",
        "arms={student: , 'fgd:b': , 'fgd:mean': {centroids: true}}",
        "teachers=[{name: b, detector: {family: faster_rcnn}}, {name: a, detector: {family: faster_rcnn}}]",
        "teachers=[{name: b, detector: {family: faster_rcnn}}]",
        "seeds=[1]",
    ],
)
def test_what_would_run_for_other_inputs_is_stale(experiment, experiment_file, tmp_path, override):
    finish(experiment, tmp_path)
    other = load_experiment(experiment_file, [override])
    done = {state.job for state in inspect(other, tmp_path) if state.done}
    assert {job for job in done if needs(other, job) != needs(experiment, job)} == set()
    assert Job("dataset") in done


def test_what_a_finished_job_lists_is_not_left_over(experiment, experiment_file, tmp_path):
    finish(experiment, tmp_path)
    without = load_experiment(experiment_file, ["arms={student: , 'fgd:mean': }"])
    stale = dict(status.removable(without, tmp_path))
    change = 'settings changed: teachers: ["a", "b", "intermediate"] -> ["a", "b"]'
    assert stale[tmp_path / "features"] == change
    assert tmp_path / "features/intermediate" not in stale, "it goes with the folder"
    finish(without, tmp_path)
    left = {path.relative_to(tmp_path).as_posix() for path, _ in status.removable(without, tmp_path)}
    assert "teachers/intermediate" in left and "features/intermediate" not in left
    write_json(tmp_path / "features/c/index.json", {})
    for job in ("features", "clusters"):
        (tmp_path / job / "manifest.json").write_text("{")  # damaged: it is run again, and lists nothing
    assert tmp_path / "features/c" in dict(status.removable(without, tmp_path))


@pytest.mark.slow
def test_a_finished_study_is_up_to_date(study, capfd):
    study(*study.settled)
    assert study.ran == []
    assert "nothing to do" in capfd.readouterr().out
    states = inspect(load_experiment(study.file, study.settled), study.root)
    assert [state.done for state in states[:4]] == [True] * 4
    assert states[4].reasons == ("not run yet",)
    for state in states[:4]:
        notebook = nbformat.read(study.root / state.job.outputs[1], as_version=4)
        assert all(cell.execution_count for cell in notebook.cells)


@pytest.mark.slow
def test_a_changed_setting_runs_its_dependents_alone(study, capfd):
    settings = study.beside("teachers.b.seed=1")
    study(*settings, dry_run=True)
    assert study.ran == []
    assert "settings changed" in capfd.readouterr().out
    changed = load_experiment(study.file, settings)
    stale = {str(state.job): state.reasons for state in inspect(changed, study.root)[:4] if not state.done}
    assert stale["teachers b"] == ("settings changed: teacher.seed: 0 -> 1",)
    assert stale["teachers intermediate"] == ("teachers b has to be run first",)
    study(*settings)
    assert study.ran == sorted(stale) == ["teachers b", "teachers intermediate"]


@pytest.mark.slow
def test_a_changed_setting_is_noticed_where_snakemake_has_no_memory(study, capfd):
    # As in a folder that was copied without its hidden files.
    shutil.rmtree(study.root / ".snakemake")
    settings = study.beside("teachers.b.seed=3")
    study(*settings, dry_run=True)
    assert study.ran == []
    assert "teachers b: settings changed (mutineck status says which)" in capfd.readouterr().out
    study(*settings)
    assert study.ran == ["teachers b", "teachers intermediate"]
    study(*settings)
    assert "nothing to do" in capfd.readouterr().out


@pytest.mark.slow
def test_a_check_that_changes_is_applied_to_what_is_finished_and_trains_nothing(study, capfd):
    path = study.root / "teachers" / "intermediate" / MANIFEST
    check = Check(0.25, "a", -0.05, -0.07, -0.03, 40, 1000)
    write_json(path, read_json(path) | {"results": {"check": check._asdict()}})
    stopping = study.beside("checks.on_weak=stop")
    with pytest.raises(
        study_run.StudyFailed, match=r"teachers intermediate stopped: .* 5\.0 mAP below the best teacher, a"
    ):
        study(*stopping)
    study(*stopping, dry_run=True)
    assert "teachers intermediate stopped: The intermediate teacher is 5.0 mAP below" in capfd.readouterr().out
    study(*study.beside("checks.on_weak=stop", "intermediate.gate=0.03"))
    assert study.ran == [] and "nothing to do" in capfd.readouterr().out


@pytest.mark.slow
def test_a_finished_job_that_has_lost_a_file_is_run_again(study, capfd):
    experiment = load_experiment(study.file, study.settled)
    path = study.root / "teachers" / "b" / "result.bin"
    path.write_text("")
    manifest = read_json(study.root / "teachers/b/manifest.json")
    write_json(study.root / "teachers/b/manifest.json", manifest | {"writes": {"teachers/b/result.bin": "0"}})
    assert inspect(experiment, study.root)[2].reasons == ()
    path.unlink()
    states = inspect(experiment, study.root)
    assert states[2].reasons == ("teachers/b/result.bin is gone",)
    study(*study.settled, dry_run=True)
    text = capfd.readouterr().out
    assert study.ran == [] and "nothing to do" not in text
    assert "[1/2] teachers b: teachers/b/result.bin is gone\n[2/2] teachers intermediate: " in text
    (study.root / "dataset/manifest.json").write_text("{")
    (state, *_) = inspect(experiment, study.root)
    assert state.reasons[0].startswith("its manifest cannot be read: ")
    study(*study.settled)
    assert "teachers b: teachers/b/result.bin is gone; it is run again" in capfd.readouterr().out
    assert study.ran == ["dataset None", "teachers a", "teachers b", "teachers intermediate"]


@pytest.mark.slow
def test_a_file_outside_the_study_that_has_changed_is_noticed_and_done_again(experiment_file, tmp_path, capfd):
    (tmp_path / "notebooks").mkdir()
    end = "study.finish(reads=[study.root.parent / 'mine.pth'] if study.item == 'a' else [])"
    outputs = tmp_path / "outputs"
    weights = outputs / "mine.pth"
    weights.parent.mkdir()
    weights.write_text("good")
    study = Runner(experiment_file, write_notebooks(tmp_path / "notebooks", end=end), outputs)
    study()
    weights.write_text("better")
    study(dry_run=True)
    assert study.ran == [] and f"[1/2] teachers a: input changed: {weights}\n[2/2]" in capfd.readouterr().out
    study()
    assert study.ran == ["teachers a", "teachers intermediate"]
    assert f"teachers a: input changed: {weights}; it is run again" in capfd.readouterr().out
    weights.unlink()
    study()
    assert study.ran == [] and "nothing to do" in capfd.readouterr().out


@pytest.mark.slow
def test_data_that_moved_or_are_made_again_train_nothing_and_data_that_changed_do(experiment_file, tmp_path, capfd):
    (tmp_path / "notebooks").mkdir()
    work = (
        WORK
        + """
from mutineck.study.dataset import Dataset
if study.stage == "dataset":
    Dataset(("cat",), outputs, content={"train": (outputs / "data").read_text()}).write(study.root)
"""
    )
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    (outputs / "data").write_text("these")
    study = Runner(experiment_file, write_notebooks(tmp_path / "notebooks", work), outputs)
    everything = ["dataset None", "teachers a", "teachers b", "teachers intermediate"]
    here, there, elsewhere = (["dataset.format=voc", f"dataset.root={tmp_path / name}"] for name in "abc")
    study(*here)
    assert study.ran == everything
    moved = inspect(load_experiment(study.file, there), study.root)
    assert [state.done for state in moved[:4]] == [False, True, True, True]
    assert "stays, if the data set comes out with the same content" in moved[1].note
    study(*there, dry_run=True)
    assert study.ran == [] and "what comes after the data set stays, if" in capfd.readouterr().out
    study(*there)
    assert study.ran == ["dataset None"], "the same data elsewhere"
    assert "nothing to do" in capfd.readouterr().out
    study(*there, force=["dataset"])
    assert study.ran == ["dataset None"], "the same data made again"
    shutil.rmtree(study.root / "dataset")
    study(*there, "teachers.b.seed=3")
    assert study.ran == ["dataset None", "teachers b", "teachers intermediate"]
    (outputs / "data").write_text("others")
    study(*elsewhere, "teachers.b.seed=3")
    assert study.ran == everything
    assert "teachers a: the data set has changed: train; it is run again" in capfd.readouterr().out
    (outputs / "data").write_text("yet others")
    study(*elsewhere, "teachers.b.seed=3", force=["dataset"], until="dataset")
    (state, teacher, *_) = inspect(load_experiment(study.file, [*elsewhere, "teachers.b.seed=3"]), study.root)
    assert state.done and teacher.reasons == ("the data set has changed: train",)
    study(*elsewhere, "teachers.b.seed=3")
    assert study.ran == everything[1:], "also where another run has made the data set"


@pytest.mark.slow
def test_a_failing_job_says_why_and_leaves_the_rest(study, capfd):
    settings = study.beside("teachers.a.seed=2", "teachers.b.seed=2")
    (study.outputs / "fail").write_text("a")
    with pytest.raises(study_run.StudyFailed) as error:
        study(*settings)
    assert str(error.value).startswith(
        "teachers a stopped: ValueError: the picture 7.jpg is empty\nraised by cell [4] of 02_"
    )
    assert study.ran == ["teachers a", "teachers b"]
    assert (study.root / "teachers/a/notebook.failed.ipynb").is_file()
    assert not (study.root / "teachers/a/manifest.json").exists()
    (study.outputs / "fail").unlink()
    study(*settings)
    assert study.ran == ["teachers a", "teachers intermediate"]
    assert not (study.root / "teachers/a/notebook.failed.ipynb").exists()


def test_errors_of_an_earlier_run_are_not_repeated(tmp_path):
    first, second = Job("teachers", "a"), Job("distillation", "student/seed0")
    (tmp_path / "log").mkdir()
    for job, text in ((first, "the disk is slow"), (second, "of last week")):
        (tmp_path / job.error).write_text(text)
    started = time.time()
    os.utime(tmp_path / second.error, (started - 600, started - 600))
    (tmp_path / "log" / "s.log").write_text("")
    run = study_run.StudyRun(load_experiment("smoke"), tmp_path, [first, second])
    text = run.explain_failure(tmp_path / "log" / "s.log", started, 1)
    assert "teachers a stopped: the disk is slow" in text and "of last week" not in text


@pytest.mark.slow
def test_a_killed_run_leaves_nothing_finished_and_goes_on(study, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(study_run.Interrupted):
        patch.setattr(snakemake_process, "_wait", lambda *_: signal.SIGTERM)
        study(*study.settled, force=["teachers"])
    settings = study.beside("teachers.a.seed=3")
    (study.outputs / "nap").write_text("30")
    process = study.start(*settings)
    study.wait_for("teachers a")
    with pytest.raises(BusyError, match=f"process {process.pid} "):
        study(*settings)
    process.kill()
    process.communicate()
    wait_until_gone(str(study.notebooks))
    assert not (study.root / "teachers/a/manifest.json").exists()
    (study.outputs / "nap").unlink()
    study(*settings)
    assert study.ran == ["teachers a", "teachers b", "teachers intermediate"], "what was forced stays to be done"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_a_stopped_run_ends_soon_and_says_how_to_go_on(study, number):
    # A shell that runs the tests in the background ignores SIGINT for all its children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    (study.outputs / "nap").write_text("30")
    settings = study.beside(f"teachers.a.seed={int(number) + 10}")
    process = study.start(*settings)
    study.wait_for("teachers a")
    process.send_signal(number)
    text, _ = process.communicate(timeout=10)
    assert process.returncode == 128 + number
    given = " ".join(f"--set {setting}" for setting in settings)
    assert f"Go on with: mutineck run {study.file} {given} --outputs {shlex.quote(str(study.outputs))}" in text
    assert processes_below(str(study.notebooks)) == []
    assert inspect(load_experiment(study.file, settings), study.root)[1].reasons == ("started, not finished",)


@pytest.mark.slow
def test_what_may_be_removed(study):
    without = load_experiment(study.file, ["teachers=[{name: a, detector: {family: fcos}}]", "arms={student: }"])
    left = ["teachers/.curves.abcd1234.csv", "features/b/part.parquet", "log/teachers-c.log", "mine/notes.txt"]
    for name in [*left, "cache/key.safetensors", "dataset/of an earlier revision"]:
        (study.root / name).parent.mkdir(exist_ok=True, parents=True)
        (study.root / name).write_text("")
    found = {path.relative_to(study.root).as_posix(): why for path, why in status.removable(without, study.root)}
    assert found["teachers/b"] == found["teachers/intermediate"] == "the experiment has no such teacher"
    assert found["features/b"] == "the experiment has no such teacher"
    assert found["teachers/.curves.abcd1234.csv"] == "left by a process that did not end well"
    assert found["log/teachers-c.log"] == found["mine/notes.txt"] == "it belongs to no job of the experiment"
    assert not any(path.startswith(("dataset", "cache", "experiment")) for path in found)
