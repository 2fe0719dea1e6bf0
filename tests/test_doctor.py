"""The doctor names what is wrong and what to type, and a broken environment does not break the doctor."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mutineck import doctor
from mutineck.doctor import Environment, diagnose

ROOT = Path(__file__).resolve().parents[1]

SOUND = Environment(
    python=(3, 11, 9),
    packages={
        "torch": "2.11.0",
        "torchvision": "0.26.0",
        "mmcv-full": "1.7.2",
        "mmdet": "2.28.2",
        "yapf": "0.40.1",
        "numpy": "2.4.6",
        "opencv-python-headless": "5.0.0.93",
    },
    requires={"torchvision": ("numpy", "torch==2.11.0", "pillow>=5.3")},
    pins={"torch": "2.11.0", "numpy": "2.4.6"},
    probes={
        "torch": {"works": True, "cuda_built": "13.0", "cuda_ready": False, "device": None},
        "torchvision": {"works": True},
        "cv2": {"works": True},
        "operators": {"works": True, "cuda_compiled": "not available"},
        "mmdet": {"works": True},
    },
    compiler="/usr/bin/c++",
)
CRASH = {"works": False, "reason": "importing it crashed: the process ended with status -11"}


def packages(**changes: str | None) -> Environment:
    """Change versions in the sound environment; None takes a package away, "_" stands for "-"."""
    new = {**SOUND.packages, **{name.replace("_", "-"): version for name, version in changes.items()}}
    return dataclasses.replace(SOUND, packages={name: version for name, version in new.items() if version})


def probed(name: str, **facts: object) -> Environment:
    """Change what importing ``name`` showed in the sound environment."""
    return dataclasses.replace(SOUND, probes={**SOUND.probes, name: {**SOUND.probes[name], **facts}})


def failed(name: str, reason: str) -> Environment:
    """Let importing ``name`` fail in the sound environment."""
    return probed(name, works=False, reason=reason)


def test_a_sound_environment_has_nothing_to_mend() -> None:
    assert [(found.level, found.what) for found in diagnose(SOUND)] == [("note", "no GPU was found")]
    assert doctor.report_text(diagnose(SOUND)).endswith("this environment can run a study")


@pytest.mark.parametrize(
    ("env", "level", "what", "why"),
    [
        pytest.param(
            dataclasses.replace(SOUND, python=(3, 9, 2)), "error", "this is Python 3.9.2", "3.11", id="python"
        ),
        pytest.param(packages(torch=None), "error", "torch is not installed", "network", id="no torch"),
        pytest.param(
            packages(torch="2.9.1"),
            "error",
            "torch 2.9.1 and torchvision 0.26.0 are no pair",
            "compiled against torch 2.11.0",
            id="wrong pair",
        ),
        pytest.param(
            failed("torch", "OSError: libcudart"),
            "error",
            "torch 2.11.0 does not work",
            "libcudart",
            id="torch",
        ),
        pytest.param(
            failed("torchvision", "RuntimeError: operator torchvision::nms does not exist"),
            "error",
            "torchvision 0.26.0 does not work",
            "nms does not exist",
            id="torchvision",
        ),
        pytest.param(packages(mmcv_full=None), "error", "mmcv-full is not installed", "mmdet", id="no mmcv"),
        pytest.param(
            packages(mmcv_full=None, mmcv="2.1.0"),
            "error",
            "mmcv 2.1.0 is installed instead of",
            "runner",
            id="mmcv 2",
        ),
        pytest.param(packages(mmcv="1.7.2"), "error", "mmcv 1.7.2 is installed beside", "operators", id="two mmcv"),
        pytest.param(packages(mmcv_full="1.3.0"), "error", "mmcv-full is 1.3.0", "1.7", id="old mmcv"),
        pytest.param(
            failed("operators", "ModuleNotFoundError: No module named 'mmcv._ext'"),
            "error",
            "no working compiled operators",
            "built while no torch was at hand",
            id="no operators",
        ),
        pytest.param(
            failed("operators", "ImportError: _ext.so: undefined symbol: _ZN3c10"),
            "error",
            "no working compiled operators",
            "compiled against another torch",
            id="operators of another torch",
        ),
        pytest.param(packages(mmdet=None), "error", "mmdet is not installed", "detectors", id="no mmdet"),
        pytest.param(packages(mmdet="3.3.0"), "error", "mmdet is 3.3.0", "2.28 is needed", id="mmdet 3"),
        pytest.param(packages(mmdet="2.25.0"), "error", "mmdet is 2.25.0", "2.28 is needed", id="mmdet too old"),
        pytest.param(
            failed("mmdet", "AssertionError: MMCV==1.8 is used"),
            "error",
            "mmdet 2.28.2 cannot be imported",
            "1.8",
            id="mmdet",
        ),
        pytest.param(packages(yapf="0.43.0"), "error", "yapf is 0.43.0", "0.40.2", id="yapf"),
        pytest.param(
            packages(opencv_python="5.0.0.93"),
            "error",
            "opencv-python and opencv-python-headless",
            "cv2",
            id="two OpenCV",
        ),
        pytest.param(
            packages(opencv_python_headless=None),
            "error",
            "OpenCV is not installed",
            "pictures",
            id="no OpenCV",
        ),
        pytest.param(
            failed("cv2", "ImportError: numpy.core.multiarray failed to import"),
            "error",
            "OpenCV does not work here (numpy is 2.4.6)",
            "multiarray",
            id="numpy against OpenCV",
        ),
        pytest.param(
            failed("cv2", "ImportError: libGL.so.1: cannot open"),
            "error",
            "OpenCV does not work",
            "servers lack",
            id="libGL",
        ),
        pytest.param(
            probed("torch", cuda_ready=True, device="some GPU"),
            "note",
            "training runs on some GPU",
            "13.0",
            id="GPU",
        ),
        pytest.param(
            probed("torch", cuda_ready=True, device="some GPU"),
            "error",
            "for the CPU only",
            "nvcc",
            id="operators without GPU",
        ),
        pytest.param(
            dataclasses.replace(SOUND, driver_cuda="12.4"),
            "warning",
            "runs CUDA up to 12.4",
            "CPU",
            id="old driver",
        ),
        pytest.param(
            dataclasses.replace(SOUND, driver_cuda="13.1"),
            "warning",
            "torch does not see it",
            "CUDA_VISIBLE",
            id="hidden GPU",
        ),
        pytest.param(
            dataclasses.replace(probed("torch", cuda_built=None), driver_cuda="13.1"),
            "warning",
            "torch is a CPU build",
            "does not use the GPU",
            id="CPU torch",
        ),
        pytest.param(
            dataclasses.replace(SOUND, compiler=None),
            "note",
            "no C++ compiler",
            "stands",
            id="compiler needed no more",
        ),
        pytest.param(
            dataclasses.replace(failed("operators", "No module named 'mmcv._ext'"), compiler=None),
            "error",
            "no C++ compiler",
            "compiled",
            id="compiler needed",
        ),
        pytest.param(
            dataclasses.replace(SOUND, headers=False),
            "note",
            "headers (Python.h)",
            "stands",
            id="headers needed no more",
        ),
        pytest.param(
            dataclasses.replace(failed("operators", "No module named 'mmcv._ext'"), headers=False),
            "error",
            "headers (Python.h)",
            "compiled",
            id="headers needed",
        ),
        pytest.param(
            dataclasses.replace(SOUND, free=3 * 10**9),
            "warning",
            "3.0 GB of disk",
            "full disk",
            id="little disk",
        ),
        pytest.param(dataclasses.replace(SOUND, free=10**8), "error", "0.1 GB of disk", "full disk", id="no disk"),
        pytest.param(
            dataclasses.replace(SOUND, shared_memory=64 * 10**6),
            "warning",
            "is 64 MB",
            "bus error",
            id="shared memory",
        ),
        pytest.param(packages(numpy="1.26.4"), "warning", "numpy 1.26.4 (pinned 2.4.6)", "tested", id="moved pin"),
    ],
)
def test_one_fault_is_named_with_its_remedy(env: Environment, level: str, what: str, why: str) -> None:
    found = [finding for finding in diagnose(env) if what in finding.what]
    assert len(found) == 1, diagnose(env)
    assert found[0].level == level
    assert why in found[0].why
    assert bool(found[0].remedy) == (level != "note" or "compiler" in what or "headers" in what)


def test_headers_come_with_the_interpreters_own_package() -> None:
    env = dataclasses.replace(SOUND, python=(3, 12, 1), headers=False)
    assert [found.remedy.split("   ")[0] for found in diagnose(env) if "Python.h" in found.what] == [
        "apt-get install python3.12-dev"
    ]


def test_a_fault_is_told_once_and_not_for_all_that_stand_on_it() -> None:
    """Without torch neither torchvision nor mmcv nor mmdet can be imported; the cause is worth reading."""
    env = dataclasses.replace(SOUND, probes={name: CRASH for name in SOUND.probes if name != "cv2"})
    errors = [found.what for found in diagnose(env) if found.level == "error"]
    assert errors == ["torch 2.11.0 does not work", "torchvision 0.26.0 does not work"]


def test_the_remedy_fits_who_made_the_environment() -> None:
    env = packages(mmcv="2.1.0")
    (linked,) = (found for found in diagnose(env) if "beside" in found.what)
    (other,) = (found for found in diagnose(dataclasses.replace(env, linked=False)) if "beside" in found.what)
    assert linked.remedy.startswith("rm -rf .venv && make env")
    assert other.remedy == "python -m pip uninstall -y mmcv mmcv-full && python scripts/environment.py here"


def test_errors_come_first() -> None:
    env = dataclasses.replace(packages(mmdet="3.3.0", numpy="1.26.4"), free=3 * 10**9)
    assert [found.level for found in diagnose(env)] == ["error", "warning", "warning", "note"]


def fake(folder: Path, name: str, version: str, code: str, *requires: str, module: str = "") -> None:
    """Put a package of one module, with its metadata, into a folder."""
    package = folder / (module or name)
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(code)
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    lines = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}"]
    info.joinpath("METADATA").write_text("\n".join(lines + [f"Requires-Dist: {line}" for line in requires]) + "\n")


def run_doctor(*folders: Path) -> subprocess.CompletedProcess[str]:
    """Run the doctor as a person does, with ``folders`` before everything else on the path."""
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [*folders, ROOT]))}
    command = [sys.executable, "-m", "mutineck.doctor"]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120)


FAKE_TORCH = """
class version: cuda = None
class cuda:
    is_available = staticmethod(lambda: False)
def zeros(*shape): return None
"""
FAKE_VISION = "class ops:\n    nms = staticmethod(lambda *a: None)\n"


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """Fake torch, torchvision and OpenCV, quick to import, that hide the real ones."""
    fake(tmp_path, "torch", "2.11.0", FAKE_TORCH)
    fake(tmp_path, "torchvision", "0.26.0", FAKE_VISION, "torch==2.11.0")
    fake(tmp_path, "opencv-python-headless", "5.0.0", "", module="cv2")
    return tmp_path


def test_mmcv_without_operators_is_found_in_a_real_process(broken: Path) -> None:
    fake(broken, "mmcv-full", "1.7.2", "", module="mmcv")
    done = run_doctor(broken)
    assert done.returncode == 1, done.stderr
    assert "mmcv-full has no working compiled operators" in done.stdout
    assert "built while no torch was at hand" in done.stdout
    assert done.stderr == ""


def test_an_import_that_crashes_is_reported_and_not_shared(broken: Path) -> None:
    fake(broken, "mmcv-full", "1.7.2", "import os\nprint('noise')\nos.abort()\n", module="mmcv")
    done = run_doctor(broken)
    assert done.returncode == 1
    assert "importing it crashed: the process ended with status -6" in " ".join(done.stdout.split())


def test_a_mismatched_pair_is_found_by_its_metadata(broken: Path) -> None:
    (broken / "torch-2.11.0.dist-info").rename(broken / "torch-2.9.0.dist-info")
    metadata = broken / "torch-2.9.0.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("2.11.0", "2.9.0"))
    done = run_doctor(broken)
    assert done.returncode == 1
    assert "torch 2.9.0 and torchvision 0.26.0 are no pair" in done.stdout


def test_an_empty_environment_is_examined_too(tmp_path: Path) -> None:
    """Isolated from every installed package: the doctor stands on the standard library alone."""
    code = f"import sys; sys.path[:0] = [{str(ROOT)!r}]; from mutineck.doctor import main; sys.exit(main())"
    command = [sys.executable, "-S", "-E", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stderr
    for name in ("torch", "torchvision", "mmcv-full", "mmdet", "OpenCV"):
        assert f"{name} is not installed" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("2.11.0", (2, 11, 0), id="release"),
        pytest.param("2.11.0+cu130", (2, 11, 0), id="local part"),
        pytest.param("0.41rc1", (0, 41), id="candidate"),
        pytest.param("unknown", (), id="no number"),
    ],
)
def test_numbers(text: str, expected: tuple[int, ...]) -> None:
    assert doctor.numbers(text) == expected
