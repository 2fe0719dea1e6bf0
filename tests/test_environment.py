"""The environment: what is pinned agrees everywhere; what builds it survives kills and company."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import tomllib
import zipfile
from pathlib import Path

import flit_core
import pip
import pytest
import yaml

import mutineck
from tests.scripts import load

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENTS = (ROOT / "requirements.in").read_text()
LOCK = (ROOT / "requirements.lock").read_text()
CONDA = (ROOT / "environment.yml").read_text()

environment = load("environment")
conda = load("conda")


def test_every_requirement_says_why_and_is_pinned() -> None:
    lines = [line for line in REQUIREMENTS.splitlines() if line and not line.startswith("#")]
    assert lines and all("#" in line for line in lines)
    assert len(conda.top_level(REQUIREMENTS)) == len(lines)
    assert set(conda.top_level(REQUIREMENTS)) <= set(conda.pins(LOCK))


@pytest.mark.parametrize(("name", "least"), [("requirements.lock", 100), ("docs/requirements.txt", 20)])
def test_every_pin_carries_a_hash(name: str, least: int) -> None:
    blocks = environment.read_lock((ROOT / name).read_text())
    assert len(blocks) > least
    bare = [name for name, block in blocks.items() if "==" not in block or "--hash=sha256:" not in block]
    assert bare == []


def test_the_lock_names_no_place_of_one_machine() -> None:
    assert not re.search(r"file:|/home/|/root/|--index-url|--find-links|://", LOCK)


def test_conda_set_agrees_with_the_lock() -> None:
    assert conda.conda_environment(REQUIREMENTS, LOCK) == CONDA, "type: make lock"
    *outside, inside = yaml.safe_load(CONDA)["dependencies"]
    pins = conda.pins(LOCK)
    wanted = {f"{name}=={pins[name]}" for name in conda.top_level(REQUIREMENTS)} - {f"mmcv-full=={pins['mmcv-full']}"}
    assert set(inside["pip"]) == wanted
    assert "python=3.11" in outside


def test_every_line_of_the_conda_set_says_why() -> None:
    assert [line for line in CONDA.splitlines() if "#" not in line] == []


def test_the_version_is_stated_alike() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert project["dynamic"] == ["version"]
    assert citation["version"] == mutineck.__version__
    assert citation["license"] == project["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()


def test_every_make_target_is_listed_by_help() -> None:
    text = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", text, flags=re.MULTILINE)
    assert phony
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert set(phony[1].split()) == set(re.findall(r"^  make (\w+)", listed, flags=re.MULTILINE))


def test_the_hook_before_commits_formats_as_make_lint_does() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    (rev,) = (repo["rev"] for repo in hooks if repo["repo"].endswith("ruff-pre-commit"))
    assert rev == f"v{conda.pins(LOCK)['ruff']}"


def test_read_lock_keeps_every_variant_of_a_package() -> None:
    text = (
        "# made by\nscipy==1.17 ; python_full_version < '3.12' \\\n    --hash=sha256:aa\n    # via umap\n"
        "scipy==1.18 ; python_full_version >= '3.12' \\\n    --hash=sha256:bb\n"
        "flit_core==4 \\\n    --hash=sha256:cc\n"
    )
    blocks = environment.read_lock(text)
    assert list(blocks) == ["scipy", "flit-core"]
    assert blocks["scipy"].count("==") == blocks["scipy"].count("--hash") == 2


def test_pins_are_those_of_the_python_that_is_used() -> None:
    text = "a==1 ; python_full_version < '3.12' \\\na==2 ; python_full_version >= '3.12' \\\nb==3 \\\n"
    assert conda.pins(text + "c==4 ; sys_platform == 'win32' \\\n") == {"a": "1", "b": "3"}


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"lock": "b==1"}, id="lock"),
        pytest.param({"FORCE_CUDA": "1"}, id="operators for the GPU"),
        pytest.param({"FORCE_CUDA": "1", "TORCH_CUDA_ARCH_LIST": "8.0;9.0+PTX"}, id="GPU architectures"),
        pytest.param({"RECIPE": 99}, id="recipe"),
    ],
)
def test_the_key_differs_where_the_environment_would(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, object]
) -> None:
    monkeypatch.setattr(environment.os.path, "exists", lambda path: False)
    for name in ("FORCE_CUDA", "TORCH_CUDA_ARCH_LIST"):
        monkeypatch.delenv(name, raising=False)
    before = environment.environment_key("a==1")
    assert before == environment.environment_key("# made by make lock\na==1")
    for name, value in change.items():
        if name.isupper() and isinstance(value, str):
            monkeypatch.setenv(name, value)
    monkeypatch.setattr(environment, "RECIPE", change.get("RECIPE", environment.RECIPE))
    assert environment.environment_key(str(change.get("lock", "a==1"))) != before


def test_foreign_settings_do_not_reach_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("PIP_TARGET", "/elsewhere")
    environ = environment.clean_environ(MAX_JOBS="3")
    assert "PYTHONPATH" not in environ and "PIP_TARGET" not in environ
    assert environ["MAX_JOBS"] == "3" and environ["PATH"] == os.environ["PATH"]


def wheel(folder: Path, name: str, code: str, command: str = "") -> str:
    """Write a small wheel of one module; returns its line for a lock, with its hash."""
    path = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{name}.py", code)
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        if command:
            file.writestr(f"{info}/entry_points.txt", f"[console_scripts]\n{command} = {name}:main\n")
        file.writestr(f"{info}/RECORD", "")
    return f"{name}==1.0 \\\n    --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of its own: an empty cache, and wheels in a folder instead of an index."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    monkeypatch.setenv("MUTINECK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    return tmp_path


def test_a_file_with_another_hash_is_refused_with_the_end_of_the_log(
    machine: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    line = wheel(machine / "wheels", "alpha", "x = 1\n")
    target = machine / "env"
    bare_environment(target)
    forged = re.sub(r"sha256:\w{4}", "sha256:0000", line)
    build = environment.Build(target / "bin" / "python", machine / "cache", forged, machine / "steps")
    build.stamps.mkdir()
    with pytest.raises(
        environment.BuildError, match=r"exit status[^$]*THESE PACKAGES DO NOT MATCH THE HASHES"
    ) as found:
        build.install(re.compile(".*"))
    assert str(machine / "build.log") in str(found.value)
    assert "".join(capfd.readouterr()) == ""


def test_a_step_is_one_line_with_its_time(capsys: pytest.CaptureFixture[str]) -> None:
    with environment.timed("[1/5] tools"):
        pass
    with pytest.raises(ValueError, match="no"), environment.timed("[2/5] torch"):
        raise ValueError("no")
    lines = capsys.readouterr().out.splitlines()
    assert [line.rstrip() for line in lines] == ["environment: [1/5] tools: 0 s", "environment: [2/5] torch: failed"]
    assert environment.duration(545.2) == "9 min 5 s"


def test_steps_that_are_done_are_not_done_again(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that fails leaves no stamp, and the next call begins with it."""
    done: list[str] = []
    fail = {"packages"}

    class Recorded(environment.Build):  # type: ignore[name-defined, misc]
        def install(self, pattern: re.Pattern[str]) -> None:
            name = {environment.BUILD_TOOLS: "tools", environment.TORCH: "torch"}.get(pattern, "packages")
            done.append(name)
            if name in fail:
                raise environment.BuildError("no network")

        def install_operators(self) -> None:
            done.append("operators")

        def wheels(self) -> list[Path]:
            return []

        def check(self) -> None:
            done.append("check")

    build = Recorded(Path(sys.executable), machine / "cache", "", machine / "steps")
    monkeypatch.setattr(build, "drop_half_installed", lambda: None)
    with pytest.raises(environment.BuildError, match="no network"):
        build.run()
    fail.clear()
    build.run()
    build.run()
    assert done == ["tools", "torch", "packages", "packages", "operators", "check"]


@pytest.mark.parametrize(
    ("compiler", "headers", "message"),
    [
        pytest.param(False, True, "no C\\+\\+ compiler; type: apt-get install g\\+\\+", id="no compiler"),
        pytest.param(True, False, r"no Python\.h in .*; type: apt-get install python3\.{minor}-dev", id="no headers"),
        pytest.param(True, True, "unpacked", id="both"),
    ],
)
def test_nothing_is_compiled_without_what_it_takes(
    compiler: bool, headers: bool, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unpacking(environment.Build):  # type: ignore[name-defined, misc]
        def unpack_source(self, source: Path) -> None:
            raise environment.BuildError("unpacked")

    if headers:
        (tmp_path / "Python.h").write_text("")
    monkeypatch.setattr(environment.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(environment.shutil, "which", lambda name: "/usr/bin/c++" if compiler else None)
    build = Unpacking(Path(sys.executable), tmp_path / "cache", "", tmp_path / "steps")
    with pytest.raises(environment.BuildError, match=message.replace("{minor}", str(sys.version_info[1]))):
        build.compile_operators(tmp_path / "wheels", tmp_path / "source")


def test_a_package_whose_installation_was_killed_is_forgotten(machine: Path) -> None:
    target = machine / "env"
    site = bare_environment(target)
    for name, file in (("half-1.0.dist-info", "METADATA"), ("whole-1.0.dist-info", "RECORD")):
        (site / name).mkdir()
        (site / name / file).write_text("")
    environment.Build(target / "bin" / "python", machine, "", machine / "steps").drop_half_installed()
    left = {path.name.split("-")[0] for path in site.glob("*.dist-info")}
    assert left == {"pip", "flit_core", "whole"}


def bare_environment(folder: Path) -> Path:
    """Make an environment that holds pip and flit_core alone, quicker than venv does; gives its packages."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    site = folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    for module in (pip, flit_core):
        source = Path(module.__file__ or "").parent
        (site / source.name).symlink_to(source)
        for info in source.parent.glob(f"{source.name}-*.dist-info"):
            (site / info.name).symlink_to(info)
    return site


@pytest.fixture
def shared(machine: Path) -> Path:
    """A shared environment: a package with a command, a program that is no Python, and data for Jupyter."""
    target = machine / "cache" / "env-test"
    bare_environment(target)
    wheel(machine / "wheels", "alpha", "import sys\ndef main():\n    print(sys.executable)\n", "say-python")
    subprocess.run([target / "bin" / "python", "-m", "pip", "install", "-q", "alpha"], check=True)
    tool = target / "bin" / "tool"
    tool.write_text("#!/bin/sh\necho tool\n")
    tool.chmod(0o755)
    (target / "share" / "jupyter").mkdir(parents=True)
    (target / "share" / "jupyter" / "page.json").write_text("{}")
    return target


def clone(folder: Path) -> Path:
    """Make what a clone needs to be linked: the package's beginning and its metadata."""
    (folder / "mutineck").mkdir(parents=True)
    for name in ("pyproject.toml", "LICENSE", "mutineck/__init__.py"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "mutineck" / "cli.py").write_text("def main():\n    print(__file__)\n")
    if (ROOT / "README.md").exists():
        shutil.copy(ROOT / "README.md", folder / "README.md")
    return folder


def answer(*command: str | Path) -> str:
    """Run a command away from any clone and give what it prints."""
    environ = environment.clean_environ()
    done = subprocess.run(command, cwd="/", env=environ, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_clones_share_packages_and_each_sees_its_own_mutineck(machine: Path, shared: Path) -> None:
    for name in ("one", "a second"):  # a blank in a path breaks the first line of a naive script
        folder = clone(machine / name)
        environment.link(shared, folder, "done")
        assert (folder / ".venv" / "mutineck.json").read_text() == "done"
        binaries = folder / ".venv" / "bin"
        assert answer(binaries / "mutineck") == str(folder / "mutineck" / "cli.py")
        assert answer(binaries / "say-python") == str(binaries / "python")
        assert answer(binaries / "tool") == "tool"
        assert answer(binaries / "python", "-c", "import alpha; print(alpha.__file__)").startswith(str(shared))
        assert (folder / ".venv" / "share" / "jupyter" / "page.json").read_text() == "{}"
        assert answer("sh", "-c", f". '{binaries}/activate' && command -v mutineck") == str(binaries / "mutineck")
    assert (
        answer(shared / "bin" / "python", "-c", "import importlib.util as u; print(u.find_spec('mutineck'))") == "None"
    )


def test_a_folder_that_was_not_made_here_is_not_touched(machine: Path, shared: Path) -> None:
    folder = clone(machine / "one")
    (folder / ".venv").mkdir()
    (folder / ".venv" / "mine").write_text("work")
    with pytest.raises(environment.BuildError, match="not made here"):
        environment.link(shared, folder, "done")
    assert (folder / ".venv" / "mine").read_text() == "work"


HOLD = """
import importlib.util, subprocess, sys
spec = importlib.util.spec_from_file_location("environment", sys.argv[1])
environment = importlib.util.module_from_spec(spec)
spec.loader.exec_module(environment)
with environment.build_lock(environment.Path(sys.argv[2])):
    print("held", flush=True)
    environment.call(*sys.argv[3:], log=environment.Path(sys.argv[2]) / "build.log")
"""


def hold(cache: Path, *command: str) -> subprocess.Popen[str]:
    """Start a build that holds the lock while ``command`` runs; returns once it holds it, or waits for it."""
    words = [sys.executable, "-c", HOLD, str(ROOT / "scripts" / "environment.py"), str(cache), *command]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout
    return process


def test_a_second_build_waits_and_says_for_whom(machine: Path) -> None:
    first = hold(machine / "cache", "sleep", "2")
    assert first.stdout and first.stdout.readline() == "held\n"
    second = hold(machine / "cache", "true")
    assert second.stdout
    assert second.stdout.readline() == f"environment: process {first.pid} is building already, waiting for it\n"
    assert first.poll() is None
    assert second.stdout.readline() == "held\n"
    assert first.wait(10) == 0 and second.wait(10) == 0


def test_an_environment_that_stands_does_not_wait_while_another_is_built(
    machine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, cache = clone(machine / "one"), machine / "cache"
    (folder / "requirements.lock").write_text("alpha==1\n")
    monkeypatch.setenv("MUTINECK_CACHE", str(cache))
    steps = environment.shared_folder(folder, cache) / "steps"
    steps.mkdir(parents=True)
    (steps / "check").touch()
    linked: list[Path] = []
    monkeypatch.setattr(environment, "link", lambda shared, clone, stamp: linked.append(clone))
    other = hold(cache, "sleep", "60")
    assert other.stdout and other.stdout.readline() == "held\n"
    try:
        assert environment.ensure(folder) == folder / ".venv"
        assert other.poll() is None
    finally:
        os.killpg(other.pid, signal.SIGKILL)
        other.wait(10)
    assert linked == [folder]
    assert "waiting" not in capsys.readouterr().out


def test_the_lock_of_a_killed_build_lasts_as_long_as_its_pip(machine: Path) -> None:
    """kill -9 leaves the running pip behind: a build that began beside it would mix the two."""
    ends = machine / "ended"
    first = hold(machine / "cache", "sh", "-c", f"sleep 1.5; touch '{ends}'")
    assert first.stdout and first.stdout.readline() == "held\n"
    time.sleep(0.2)
    os.kill(first.pid, signal.SIGKILL)
    first.wait(10)
    second = hold(machine / "cache", "true")
    assert second.stdout and "is building already" in second.stdout.readline()
    assert second.stdout.readline() == "held\n"
    assert ends.exists()
    assert second.wait(10) == 0


def test_another_python_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 1))
    monkeypatch.setattr(sys, "argv", ["environment.py"])
    assert environment.main() == 1
    assert "this is 3.9.1; type: make env PYTHON=python3.11" in capsys.readouterr().out


def test_this_environment_is_the_locked_one() -> None:
    """Fails where a package was added by hand: the next machine would not have it."""
    site = Path(sysconfig.get_path("purelib"))
    if not (site / "_shared.pth").exists():
        pytest.skip("this Python is not the .venv of `make env`")
    output = answer(sys.executable, "-m", "pip", "list", "--format=freeze")
    pins = conda.pins(LOCK)
    installed = dict(line.lower().replace("_", "-").split("==") for line in output.splitlines())
    moved = {
        name: version
        for name, version in installed.items()
        if pins.get(name, "").split("+")[0] != version.split("+")[0]
    }
    moved.pop("mutineck")
    assert moved == {}
