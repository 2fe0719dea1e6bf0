"""Where jobs run: profiles by name and by folder, what a cluster is asked for, and arms side by side."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from unittest import mock

import pytest

from mutineck.running import snakemake_process, study_run
from mutineck.running.job_run import GPU_STAGES, cores, own_gpu, resources
from mutineck.running.profiles import Profile, find_profile
from mutineck.study.experiment import STAGES, Experiment
from mutineck.study.jobs import jobs
from mutineck.study.settings import settings_text
from mutineck.system.errors import ExperimentError
from mutineck.system.files import read_json
from tests.stand_ins import EXPERIMENT, write_notebooks

ASKING = {"threads": 3, "workers": 2, "memory_gib": 10, "hours": 36}


def experiment(**given: object) -> Experiment:
    return Experiment.model_validate({**EXPERIMENT, "resources": given})


@pytest.mark.parametrize(
    ("name", "executor", "remote", "wants_gpus"),
    [("local", "local", False, False), ("gpus", "local", False, True), ("slurm", "slurm", True, True)],
)
def test_our_profiles_are_found_by_name(name: str, executor: str, remote: bool, wants_gpus: bool) -> None:
    found = find_profile(name)
    assert (found.executor, found.remote, found.wants_gpus) == (executor, remote, wants_gpus)


def test_a_users_own_profile_is_found_by_folder_and_by_file(tmp_path: Path) -> None:
    folder = tmp_path / "ours"
    folder.mkdir()
    file = folder / "config.yaml"
    file.write_text("executor: cluster-generic\njobs: 3\nconfig: [gpus=2]\n")
    assert find_profile(str(folder)) == find_profile(str(file))
    found = find_profile(str(folder))
    assert (found.executor, found.options["jobs"], found.wants_gpus) == ("cluster-generic", 3, True)
    with pytest.raises(ExperimentError, match=r"-m pip install snakemake-executor-plugin-cluster-generic$"):
        found.check([])


def test_a_misspelt_profile_is_refused_with_near_matches() -> None:
    with pytest.raises(ExperimentError, match=r"unknown profile 'slrum'; did you mean 'slurm'\?.* gpus, local, slurm"):
        find_profile("slrum")


@pytest.mark.parametrize(
    ("text", "message"),
    [("- executor\n", "expected options of Snakemake"), ("cores: [2\n", "not valid YAML")],
    ids=["a list", "no YAML"],
)
def test_a_profile_that_holds_no_options_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ExperimentError, match=f"config.yaml: {message}"):
        find_profile(str(tmp_path))


def test_gpus_are_not_replaced_by_the_cpu_unasked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ExperimentError, match=r"none was found .* Without --profile"):
        study_run.run_study(experiment(), tmp_path, profile="gpus")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(ExperimentError, match="none was found"):
        study_run.run_study(experiment(device="cpu"), tmp_path, profile="gpus")
    assert list(tmp_path.iterdir()) == []


def test_what_a_job_asks_for_is_the_experiments_and_the_stages() -> None:
    asking = experiment(**ASKING)
    assert {cores(asking, stage) for stage in GPU_STAGES} == {5} and cores(asking, "clusters") == 3
    assert resources(asking, "teachers", gpus=True) == {"gpu": 1, "mem_mb": 10738, "runtime": 2160}
    assert [resources(asking, stage, gpus=True)["gpu"] for stage in STAGES] == [0, 1, 1, 0, 1, 1, 1]
    assert resources(asking, "teachers", gpus=False)["gpu"] == 0
    assert resources(experiment(device="cpu"), "teachers", gpus=True)["gpu"] == 0


def test_jobs_that_share_a_gpu_are_as_many_as_there_are_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    asked = mock.Mock(side_effect=KeyboardInterrupt)
    monkeypatch.setattr(study_run, "run_snakemake", asked)
    with pytest.raises(KeyboardInterrupt):
        study_run.run_study(experiment(jobs_per_gpu=3), tmp_path, profile="gpus")
    command = asked.call_args.args[0]
    assert command[command.index("--resources") + 1] == "gpu=6"
    assert "jobs_per_gpu" not in settings_text(experiment(jobs_per_gpu=3), jobs(experiment())[1]), (
        "a result depends on it"
    )


def test_gpus_are_told_apart_within_an_allocation_of_slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each allocation calls its first GPU 0: the lock of one must not hold another up."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with own_gpu(["0"]):
        monkeypatch.setenv("SLURM_JOB_ID", "8")
        with own_gpu(["0"]) as second:
            assert second == "0"


def arguments(profile: Profile, *, cores: int | None = None, dry_run: bool = False) -> list[str]:
    return snakemake_process.snakemake_arguments(Path("root"), Path("c.json"), [], cores, 2, dry_run, [], profile)


def test_the_command_line_leaves_to_the_profile_what_it_says() -> None:
    slurm = Profile(Path("p.yaml"), {"executor": "slurm", "jobs": 9})
    assert "--cores" not in arguments(slurm) and "--resources" not in arguments(slurm)
    ours = arguments(Profile(Path("p.yaml"), {}))
    assert ours[ours.index("--resources") + 1] == "gpu=2" and "--cores" in ours
    told = arguments(slurm, cores=4)
    assert told[told.index("--cores") + 1] == "4"


@pytest.mark.slow
def test_the_grid_as_slurm_would_get_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # as on a login node
    asking = experiment(**ASKING)
    study_run.run_study(asking, tmp_path, profile="slurm", dry_run=True)
    lines = capfd.readouterr().out.splitlines()
    if find_profile("slurm").missing:
        assert lines.pop(0).endswith("-m pip install snakemake-executor-plugin-slurm")
    expected = Counter()
    for job in jobs(asking):
        gpu = "1 GPU, " if job.stage in GPU_STAGES else ""
        expected[f"{job} ({cores(asking, job.stage)} cores, {gpu}10738 MB, 2160 min)"] += 1
    assert Counter(re.sub(r"^\[\d+/\d+\] (.*?\)).*", r"\1", line) for line in lines) == expected
    assert len(lines) == 18


TOGETHER = """
import os, time
folder = study.root.parent / "running"
folder.mkdir(exist_ok=True)
if study.stage == "teachers":
    (folder / study.item).touch()
    limit = time.time() + 60
    while len(list(folder.iterdir())) < 2 and time.time() < limit:
        time.sleep(0.05)
"""
TOLD = 'study.finish(results={"gpu": os.environ.get("CUDA_VISIBLE_DEVICES"), "beside": len(list(folder.iterdir()))})'


@pytest.mark.slow
def test_jobs_run_side_by_side_each_on_a_gpu_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # where GPUs are locked
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    notebooks = tmp_path / "notebooks"
    notebooks.mkdir()
    write_notebooks(notebooks, TOGETHER, TOLD)
    grid = experiment().model_copy(update={"arms": {"student": experiment().arm("student")}})
    root = study_run.run_study(grid, tmp_path, profile="gpus", cores=2, until="teachers", notebooks=notebooks)
    found = [read_json(root / "teachers" / name / "manifest.json")["results"] for name in "ab"]
    assert [each["beside"] for each in found] == [2, 2]
    assert {each["gpu"] for each in found} == {"5", "7"}


CANCELLED = """
import signal, sys, time
sys.argv = ["snakemake_process", "--profile", sys.argv[1]]
from mutineck.running import snakemake_process
import snakemake.cli

def waiting(arguments):
    signal.signal(signal.SIGTERM, lambda *_: None)  # Snakemake's scheduler takes SIGTERM for itself
    print("started", flush=True)
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        time.sleep(1)  # what a cluster needs to take its jobs back
        print("cancelled", file=sys.stderr, flush=True)

snakemake.cli.main = waiting
snakemake_process.main(sys.argv[1:])
"""


@pytest.mark.parametrize("how", ["interrupt", "orphaned"])
def test_a_cluster_takes_its_jobs_back_when_a_run_ends(how: str, tmp_path: Path) -> None:
    (tmp_path / "cancelled.py").write_text(CANCELLED)
    log = tmp_path / "log"
    command = [sys.executable, str(tmp_path / "cancelled.py"), str(find_profile("slurm").file)]
    with open(log, "w") as file:
        if how == "interrupt":
            process = subprocess.Popen(command, stderr=file, stdout=file, start_new_session=True)
            wait_for(log, "started")
            snakemake_process._end_group(process, 30.0)
        else:
            script = f"import subprocess, time; subprocess.Popen({command!r}); time.sleep(60)"
            with subprocess.Popen([sys.executable, "-c", script], stderr=file, stdout=file) as parent:
                wait_for(log, "started")
                parent.send_signal(signal.SIGKILL)
    wait_for(log, "cancelled")


def wait_for(log: Path, word: str, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while word not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
