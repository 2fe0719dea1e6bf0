"""Build the environment once a machine and link it into this clone; `make env` calls it.

The heavy part (6 GB; mmcv-full compiled for minutes) lies outside the clone, in
``${MUTINECK_CACHE:-${XDG_CACHE_HOME:-~/.cache}/mutineck}/env-KEY``, where KEY is a hash of
requirements.lock and of how it is built; every clone with the same lock shares it. An editable install
cannot be shared: it points at one clone. So ``.venv`` in the clone is a thin virtual environment of its
own that sees the shared packages through a ``.pth`` file and holds only what belongs to the clone: its
Python, its scripts and mutineck itself, editable.

Needs the standard library alone, since it runs before anything is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import threading
import time
import venv
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LAST_LINES = 30
"""Of the log, shown when a step fails."""
RECIPE = 1  # raise it when a change below makes another environment out of the same lock
PYTHONS = ((3, 11), (3, 12))
BUILD_TOOLS = re.compile(r"pip|setuptools|wheel|ninja|packaging|flit-core")
TORCH = re.compile(r"torch|torchvision|triton|nvidia-.*|cuda-.*")
OPERATORS = "mmcv-full"
REST = re.compile(f"(?!{OPERATORS}$).*")

SCRIPT = """#!/bin/sh
'''exec' "{python}" "$0" "$@"
' '''
import sys
from {module} import {start}
if __name__ == "__main__":
    sys.exit({call}())
"""

CHECK = """
import torch, torchvision, cv2, mmdet
from mmcv.ops import nms
boxes = torch.tensor([[0.0, 0.0, 9.0, 9.0], [0.0, 0.0, 8.0, 9.0], [20.0, 20.0, 30.0, 30.0]])
kept = nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5)[1].tolist()
assert kept == [0, 2], f"mmcv's compiled nms kept {kept}, not [0, 2]"
"""


class BuildError(RuntimeError):
    """A step that failed; the message says which and what to do."""


def say(text: str) -> None:
    """Print one line at once."""
    print(f"environment: {text}", flush=True)


@contextlib.contextmanager
def timed(text: str) -> Iterator[None]:
    """Announce a step, and end its line with the time that it took; on a terminal the time so far is shown."""
    start = time.monotonic()
    finished = threading.Event()

    def tick() -> None:
        while not finished.wait(1):
            print(f"\renvironment: {text}: {duration(time.monotonic() - start)} ", end="", flush=True)

    print(f"environment: {text}: ", end="", flush=True)
    clock = threading.Thread(target=tick, daemon=True)
    if sys.stdout.isatty():
        clock.start()
    try:
        yield
    except BaseException:
        print("failed", flush=True)
        raise
    else:
        erase = f"\renvironment: {text}: " if sys.stdout.isatty() else ""
        print(f"{erase}{duration(time.monotonic() - start)}  ", flush=True)
    finally:
        finished.set()


def duration(seconds: float) -> str:
    """Return seconds for people: `48 s`, `9 min 5 s`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def read_lock(text: str) -> dict[str, str]:
    """Give each package of a requirements.lock its lines (every marker's variant and all hashes), by name."""
    blocks: dict[str, str] = {}
    name = ""
    for line in text.splitlines(keepends=True):
        if line.strip() and not line.lstrip().startswith("#"):
            if not line[0].isspace():
                name = re.split(r"[=\s;\[]", line, maxsplit=1)[0].lower().replace("_", "-")
            blocks[name] = blocks.get(name, "") + line
    return blocks


def flavour() -> str:
    """Say for what mmcv-full is compiled: "cuda" where a GPU and nvcc are, or on FORCE_CUDA=1; else "cpu".

    The GPU architectures follow where TORCH_CUDA_ARCH_LIST names them: "cuda-9.0".
    """
    gpu = os.path.exists("/dev/nvidia0") or os.path.exists("/dev/dxg")
    nvcc = shutil.which("nvcc") or os.path.exists("/usr/local/cuda/bin/nvcc") or "CUDA_HOME" in os.environ
    if not (gpu and nvcc) and os.environ.get("FORCE_CUDA") != "1":
        return "cpu"
    return "-".join(["cuda", *re.findall(r"[\w.+]+", os.environ.get("TORCH_CUDA_ARCH_LIST", ""))])


def machine_tag() -> str:
    """The interpreter and the machine as in a wheel's name, such as "cp311-linux_x86_64"."""
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    return f"cp{sys.version_info[0]}{sys.version_info[1]}-{platform}"


def environment_key(lock: str) -> str:
    """Twelve hex digits that differ wherever another environment would come out."""
    pinned = "".join(read_lock(lock).values())  # what its comments say changes no environment
    parts = (str(RECIPE), pinned, sys.version.split()[0], machine_tag(), flavour())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def cache_folder() -> Path:
    """Where environments and compiled wheels of all clones lie."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("MUTINECK_CACHE") or Path(base) / "mutineck").absolute()


@contextlib.contextmanager
def build_lock(cache: Path, name: str = "build.lock") -> Iterator[None]:
    """Let one process build at a time, or do what else the lock's name stands for.

    The kernel drops the lock with the last process that holds the file, and what a step runs holds it
    too: where a build was killed and its pip lives on, the next build waits for that pip.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / name, "a+") as file:
        os.set_inheritable(file.fileno(), True)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            say(f"process {file.read().strip() or '?'} is building already, waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def clean_environ(**extra: str) -> dict[str, str]:
    """The caller's environment less what would let packages from elsewhere in, or send ours elsewhere."""
    foreign = ("PYTHONPATH", "PYTHONHOME", "PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_NO_DEPS")
    kept = {name: value for name, value in os.environ.items() if name not in foreign}
    quiet = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_ROOT_USER_ACTION": "ignore"}
    return {**kept, **quiet, **extra}


def shared_folder(clone: Path, cache: Path) -> Path:
    """Where the environment of the clone's lock lies, built or not."""
    return cache / f"env-{environment_key((clone / 'requirements.lock').read_text())}"


def call(*command: str | Path, log: Path, environ: dict[str, str] | None = None) -> None:
    """Run a command, its output appended to a log.

    Raises:
        BuildError: it failed; the message has the command, the log's path, and the end of what it wrote.
    """
    words = [str(word) for word in command]
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a+", encoding="utf-8", errors="replace") as file:
        print(f"\n$ {' '.join(words)}", file=file, flush=True)
        start = file.tell()
        # close_fds=False hands the build lock on; Python opens every other file as not inheritable
        code = subprocess.run(
            words, env=environ or clean_environ(), cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, close_fds=False
        ).returncode
        if code:
            file.seek(start)
            end = "".join(file.readlines()[-LAST_LINES:])
            raise BuildError(f"failed with exit status {code}: {' '.join(words)}\n{end}(all of it: {log})")


def jobs() -> int:
    """Compilers that run at once: one a core, and 2 GB of memory for each, which torch's headers take."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(cores, memory // 2**31))


class Build:
    """The steps that fill one Python environment from the lock; a step that is done is not done again."""

    def __init__(self, python: Path, cache: Path, lock: str, stamps: Path) -> None:
        """Take the environment's interpreter, the wheels' folder, the lock's text and the stamps' folder."""
        self.python, self.cache, self.stamps = python, cache, stamps
        self.log = stamps.parent / "build.log"
        self.blocks = read_lock(lock)

    def run(self) -> None:
        """Run every step whose stamp is missing, in order."""
        takes = f"compiled once a machine, about {max(1, round(20 / jobs()))} min"
        steps: tuple[tuple[str, str, Callable[[], None]], ...] = (
            ("tools", "pip, setuptools, ninja, about 10 s", lambda: self.install(BUILD_TOOLS)),
            ("torch", "torch and its CUDA libraries, 3 GB, about 1 min and the download", lambda: self.install(TORCH)),
            ("packages", f"the rest of {len(self.blocks)} pinned packages, about 2 min", lambda: self.install(REST)),
            ("operators", f"mmcv-full, {'compiled earlier' if self.wheels() else takes}", self.install_operators),
            ("check", "every package present, the compiled operators at work", self.check),
        )
        self.stamps.mkdir(parents=True, exist_ok=True)
        for number, (name, what, step) in enumerate(steps, start=1):
            stamp = self.stamps / name
            if stamp.exists():
                continue
            start = time.monotonic()
            with timed(f"[{number}/{len(steps)}] {what}"):
                self.drop_half_installed()
                step()
            stamp.write_text(f"{time.monotonic() - start:.0f} s\n")

    def pip(self, *arguments: str | Path, environ: dict[str, str] | None = None) -> None:
        """Call the environment's pip."""
        call(self.python, "-m", "pip", *arguments, log=self.log, environ=environ)

    def drop_half_installed(self) -> None:
        """Remove the records of packages whose installation was killed: pip would take them for installed."""
        site = subprocess.run(
            [self.python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            env=clean_environ(),
            check=True,
            capture_output=True,
            text=True,
        )
        for folder in Path(site.stdout.strip()).glob("*.dist-info"):
            if not (folder / "RECORD").exists():
                shutil.rmtree(folder)

    def requirements(self, pattern: re.Pattern[str]) -> Path:
        """Write the pins and hashes of the packages that match to a file of their own."""
        path = self.stamps / "requirements.txt"
        path.write_text("".join(block for name, block in self.blocks.items() if pattern.fullmatch(name)))
        return path

    def install(self, pattern: re.Pattern[str]) -> None:
        """Install the pins that match, each file checked by its hash; nothing else moves (``--no-deps``)."""
        self.pip("install", "--no-deps", "--require-hashes", "-r", self.requirements(pattern))

    def operators(self) -> str:
        """Return what names a compiled mmcv-full: its version and torch's, the interpreter, the machine, the GPU.

        pip's own wheel cache does not know which torch a wheel was compiled against, so it is not asked.
        """
        version, torch = (re.search(r"==([^\s;]+)", self.blocks.get(name, "")) for name in (OPERATORS, "torch"))
        if not version or not torch:
            raise BuildError(f"requirements.lock pins no exact {OPERATORS} or torch; type: make lock")
        return f"{OPERATORS}-{version[1]}-torch-{torch[1]}-{machine_tag()}-{flavour()}"

    def wheels(self) -> list[Path]:
        """Return mmcv-full's wheel as compiled earlier, empty if it is not there yet."""
        return list((self.cache / "wheels" / self.operators()).glob("*.whl"))

    def install_operators(self) -> None:
        """Install mmcv-full from the wheel cache, compiled first where it is not there yet."""
        if not self.wheels():
            name = self.operators()
            self.compile_operators(self.cache / "wheels" / name, self.cache / "build" / name)
        self.pip("install", "--no-deps", "--no-index", *self.wheels())

    def compile_operators(self, wheels: Path, source: Path) -> None:
        """Compile in a folder that stays until the wheel is there: ninja goes on where a build was killed."""
        environ = clean_environ(MAX_JOBS=os.environ.get("MAX_JOBS", str(jobs())))
        environ.setdefault("CFLAGS", "-g0")  # no debug symbols: less to compile and to keep
        if flavour() != "cpu":
            environ["FORCE_CUDA"] = "1"
        else:
            environ.update(FORCE_CUDA="0", CUDA_VISIBLE_DEVICES="")
            if os.path.exists("/dev/nvidia0"):
                say("a GPU is here but no nvcc: mmcv's operators are compiled for the CPU only")
        if not shutil.which(os.environ.get("CXX", "c++")) and not shutil.which("g++"):
            raise BuildError("no C++ compiler; type: apt-get install g++   (or: conda install cxx-compiler)")
        headers = Path(sysconfig.get_path("include"))
        if not (headers / "Python.h").is_file():
            package = f"python{sys.version_info[0]}.{sys.version_info[1]}-dev"
            raise BuildError(f"no Python.h in {headers}; type: apt-get install {package}   (conda's Python has it)")
        if not (source / "setup.py").exists():
            self.unpack_source(source)
        made = source / "dist"
        shutil.rmtree(made, ignore_errors=True)
        self.pip("wheel", "--no-deps", "--no-build-isolation", "-w", made, source, environ=environ)
        (wheel,) = made.glob("*.whl")
        if not any(name.startswith("mmcv/_ext") for name in zipfile.ZipFile(wheel).namelist()):
            raise BuildError(f"{wheel} came out without operators; type: make rebuild, and read its output")
        wheels.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(wheels, ignore_errors=True)
        made.rename(wheels)
        shutil.rmtree(source)

    def unpack_source(self, source: Path) -> None:
        """Download mmcv-full's source, checked against its hash, and unpack it; whole or not at all."""
        fresh = source.with_name(f"{source.name}.new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        pinned = self.requirements(re.compile(OPERATORS))
        source_only = ["--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--require-hashes"]
        self.pip("download", *source_only, "-d", fresh, "-r", pinned)
        (archive,) = fresh.glob("*.tar.gz")
        with tarfile.open(archive) as file:
            file.extractall(fresh, filter="data")
        (folder,) = (path for path in fresh.iterdir() if path.is_dir())
        folder.rename(source)
        shutil.rmtree(fresh)

    def check(self) -> None:
        """Refuse an environment that lacks a package or whose operators do not work."""
        self.pip("check")
        call(self.python, "-W", "ignore", "-c", CHECK, log=self.log)


def link(shared: Path, clone: Path, stamp: str) -> None:
    """Make the clone's ``.venv``, thin, over the shared environment, mutineck editable; its stamp last."""
    folder = clone / ".venv"
    marker = folder / "mutineck.json"
    if folder.is_symlink() or (folder.exists() and not marker.exists()):
        raise BuildError(f"{folder} was not made here; move it away, then type: make env")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    marker.touch()
    venv.EnvBuilder(symlinks=True, with_pip=False, prompt="mutineck").create(folder)
    library = Path("lib") / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    # addsitedir, and not the bare path, so that the .pth files of the shared packages work as well
    pth = f"import site; site.addsitedir({str(shared / library)!r})\n"
    (folder / library / "_shared.pth").write_text(pth)
    write_scripts(shared, folder, library)
    # Jupyter looks for pages, kernels and extensions under the running prefix and serves no file that a link
    # leads to outside of it; so these are copies, 25 MB
    for data in ("share", "etc"):
        if (shared / data).exists():
            shutil.copytree(shared / data, folder / data, dirs_exist_ok=True)
    editable = ["install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", "-e"]
    call(folder / "bin" / "python", "-m", "pip", *editable, clone, log=shared / "build.log")
    marker.write_text(stamp)


def write_scripts(shared: Path, folder: Path, library: Path) -> None:
    """Give the clone every command of the shared environment, run by the clone's own Python."""
    for package in importlib.metadata.distributions(path=[str(shared / library)]):
        for entry in package.entry_points.select(group="console_scripts"):
            module, _, function = entry.value.partition("[")[0].strip().partition(":")
            text = SCRIPT.format(
                python=folder / "bin" / "python",
                module=module,
                start=function.partition(".")[0],
                call=function,
            )
            path = folder / "bin" / entry.name
            path.write_text(text)
            path.chmod(0o755)
    for path in (shared / "bin").iterdir():  # programs that are no Python, such as ruff and ninja
        target = folder / "bin" / path.name
        if not target.exists() and not re.match(r"python|pip|activate|Activate", path.name):
            target.symlink_to(path)


def ensure(clone: Path) -> Path:
    """Return the clone's ``.venv``, built or finished first where it is not up to date."""
    lock = (clone / "requirements.lock").read_text()
    cache = cache_folder()
    shared = shared_folder(clone, cache)
    marker = clone / ".venv" / "mutineck.json"
    stamp = json.dumps({"shared": str(shared), "clone": str(clone)}, indent=2) + "\n"

    def built() -> bool:
        return (shared / "steps" / "check").exists()

    def linked() -> bool:
        return built() and marker.exists() and marker.read_text() == stamp

    if not built():
        with build_lock(cache):
            if not built():  # another process may have finished it while this one waited
                if not (shared / "steps").exists():
                    say(f"building {shared}, once for all clones on this machine; its output: build.log there")
                    free = shutil.disk_usage(cache).free
                    if free < 12e9:
                        raise BuildError(
                            f"{cache} has {free / 1e9:.0f} GB free, 12 are needed; "
                            "make room, or set MUTINECK_CACHE to a folder on another disk"
                        )
                    venv.EnvBuilder(symlinks=True, with_pip=True, clear=True).create(shared)
                Build(shared / "bin" / "python", cache, lock, shared / "steps").run()
    if not linked():
        # A lock of its own: while another environment is built, which takes minutes, this one can be used.
        with build_lock(cache, "link.lock"):
            if not linked():
                with timed(f"linking {clone / '.venv'}"):
                    link(shared, clone, stamp)
    say(f"ready: {clone / '.venv'}")
    return clone / ".venv"


def here(clone: Path) -> None:
    """Fill the environment that runs this script (conda's, a container's) from one lock, and mutineck."""
    if sys.prefix == sys.base_prefix and not (Path(sys.prefix) / "conda-meta").exists():
        raise BuildError("no environment is active; type: conda activate mutineck   (or use: make env)")
    lock = (clone / "requirements.lock").read_text()
    stamps = Path(sys.prefix) / "mutineck" / environment_key(lock)
    with build_lock(cache_folder()):
        Build(Path(sys.executable), cache_folder(), lock, stamps).run()
        editable = ["install", "--no-deps", "--no-build-isolation", "-e"]
        call(sys.executable, "-m", "pip", *editable, clone, log=stamps.parent / "build.log")


def rebuild(clone: Path) -> None:
    """Throw away this lock's environment and every compiled wheel, and build all anew."""
    cache = cache_folder()
    shared = shared_folder(clone, cache)
    with build_lock(cache):
        for folder in (shared, cache / "wheels", cache / "build"):
            if folder.exists():
                say(f"removing {folder}")
                shutil.rmtree(folder)
    ensure(clone)


def prune(clone: Path) -> None:
    """Remove the environments of other locks and half-done builds; a clone that used one builds it again."""
    cache = cache_folder()
    used = shared_folder(clone, cache)
    with build_lock(cache):
        for folder in [*cache.glob("env-*"), *cache.glob("build/*")]:
            if folder != used:
                say(f"removing {folder}")
                shutil.rmtree(folder)


def main() -> int:
    """Run the action that the command line names."""
    actions: dict[str, Callable[[Path], object]] = {name.__name__: name for name in (ensure, here, rebuild, prune)}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", nargs="?", choices=actions, default="ensure")
    action = parser.parse_args().action
    if sys.version_info[:2] not in PYTHONS:
        found = ".".join(map(str, sys.version_info[:3]))
        say(f"Python 3.11 is needed (3.12 resolves too), this is {found}; type: make env PYTHON=python3.11")
        return 1
    try:
        actions[action](ROOT)
    except (BuildError, OSError, subprocess.CalledProcessError) as error:
        say(f"{error}\nenvironment: what is done stays done: the same command goes on from here")
        return 1
    except KeyboardInterrupt:
        say("interrupted; the same command goes on from here")
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
