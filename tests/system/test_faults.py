"""Studies whose machine fails them: a full or read-only disk, a process that is killed, memory that is not there.

What is said, what stays, and that they go on afterwards.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mutineck.running import study_run
from mutineck.study.experiment import load_experiment
from mutineck.study.experiment_file import repository
from tests.stand_ins import EXPERIMENT, write_notebooks

pytestmark = pytest.mark.slow

# After the data set, other programs take all room, or the result itself needs more than there is.
WORK = """
import contextlib
from mutineck.system.files import write_bytes
given = study.root.parent
if study.stage == "teachers" and (given / "others").exists():
    with contextlib.suppress(OSError), open(given / "others", "wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
large = study.stage == "teachers" and (given / "large").exists()
result = write_bytes(study.folder / "result.bin", b"x" * (4_000_000 if large else 1000))
"""


@pytest.fixture(scope="module")
def own_disk() -> list[str]:
    """Return the words before a command that let it mount disks of its own, which end with it."""
    for words in (["unshare", "-rm"], ["unshare", "-m"]):
        if (
            shutil.which(words[0])
            and subprocess.run([*words, "mount", "-t", "tmpfs", "x", "/mnt"], check=False).returncode == 0
        ):
            return words
    pytest.skip("this machine lets nobody mount a small disk (unshare)")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_notebooks(tmp_path_factory.mktemp("files"), WORK)
    (folder / "disk").mkdir()
    teachers = {"teachers": EXPERIMENT["teachers"][:1], "arms": {"student": None}}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(EXPERIMENT | teachers, sort_keys=False))
    return folder


def on_disk(own_disk: list[str], files: Path, *script: str) -> str:
    """Run a shell script beside a disk of 2 MB; `$run` in it runs the study. Return everything it prints."""
    run = [sys.executable, "-m", "mutineck", "run", str(files / "tiny.yaml"), "--outputs", str(files / "disk")]
    run += ["--notebooks", str(files), "--until", "teachers", "--cores", "1"]
    text = "\n".join([f"mount -t tmpfs -o size=2m mutineck {files}/disk", f"cd {files}/disk", *script])
    environment = os.environ | {"run": " ".join(run), "PYTHONPATH": str(repository())}
    done = subprocess.run(
        [*own_disk, "sh", "-c", text],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.stdout


def test_a_full_disk_is_said_with_stage_file_and_remedy_and_the_study_goes_on(own_disk: list[str], files: Path) -> None:
    said = on_disk(
        own_disk,
        files,
        "touch others; $run; echo status $?; ls tiny/*",
        "rm others; touch large; echo; echo second; $run; echo status $?; ls -A tiny/teachers/a",
        "mount -o remount,size=20m mutineck .; echo; echo third; $run; echo status $?",
    )
    first, second, third = said.replace("\nthird\n", "\nsecond\n").split("\nsecond\n")
    for text in (first, second):
        assert "teachers a stopped: " in text and "MiB to spare: make room there" in text
        assert "status 2" in text and "Traceback" not in text and text.count("manifest.json") == ("dataset" in text)
    assert "has 0 MiB" in first and f"The disk that holds {files}/disk/tiny/teachers/a has " in second
    assert f"OSError: [Errno 28] No space left on device: '{files}/disk/tiny/teachers/a/result.bin'" in second
    left = second.split("status 2")[1].split()
    assert set(left) == {".lock", "notebook.failed.ipynb"}, "nothing half written stays"
    assert "status 0" in third and "dataset" not in second + third, "what was finished is not done again"


@pytest.mark.parametrize(
    ("before", "message"),
    [
        pytest.param("cat /dev/zero > others 2> /dev/null", "has 0 MiB to spare: make room there", id="full"),
        pytest.param("mount -o remount,ro mutineck .", "Allow this user to write below", id="read-only"),
    ],
)
def test_where_nothing_can_be_written_nothing_is_begun(
    own_disk: list[str], files: Path, before: str, message: str
) -> None:
    said = on_disk(own_disk, files, before, "$run; echo status $?")
    assert message in said and f"{files}/disk" in said
    assert "status 2" in said and "Traceback" not in said and "[1/" not in said


DEADLY = """
import os, signal, time
class Deadly:
    def __len__(self):
        return 2
    def __getitem__(self, index):
        if study.item == "worker":
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.empty(1 << 50)
if study.item in ("kernel", "job"):
    os.kill(os.getpid() if study.item == "kernel" else os.getppid(), signal.SIGKILL)
    time.sleep(60)
if study.stage == "teachers":
    import torch
    next(iter(torch.utils.data.DataLoader(Deadly(), num_workers=1)))
"""
DEATHS = {
    "job": "was killed, most often for want of memory. ",
    "kernel": "stopped: the kernel of 02_teachers.ipynb did not survive (Kernel died), most often for want of memory. ",
    "worker": "stopped: RuntimeError: DataLoader worker (pid",
    "memory": "stopped: RuntimeError: Caught RuntimeError in DataLoader worker process 0.",
}


def test_a_job_that_loses_a_process_or_memory_says_stage_file_and_remedy(tmp_path: Path) -> None:
    teachers = {"teachers": [{"name": name, "detector": {"family": "fcos"}} for name in DEATHS]}
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(EXPERIMENT | teachers | {"arms": {"student": None}}, sort_keys=False))
    notebooks = write_notebooks(tmp_path, DEADLY)
    with pytest.raises(study_run.StudyFailed) as caught:
        study_run.run_study(load_experiment(file), tmp_path / "out", until="teachers", cores=4, notebooks=notebooks)
    root = tmp_path / "out" / "tiny"
    said = dict(zip(DEATHS, str(caught.value).split("\n\n"), strict=True))
    for name, begins in DEATHS.items():
        assert said[name].startswith(f"teachers {name} {begins}")
        assert "Give the stage a smaller batch, or run fewer jobs at once (--cores" in said[name]
        assert f"{root}/teachers/{name}/notebook.{'running' if name == 'job' else 'failed'}.ipynb" in said[name]
        assert not (root / "teachers" / name / "manifest.json").exists()
    assert (root / "dataset" / "manifest.json").is_file(), "what was finished stays"
