"""What is wrong with an environment, in plain words, and what to type.

Needs the standard library alone and imports nothing that it examines: packages are read from their metadata,
and what only an import shows is tried in a process of its own, which may crash.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

Level = Literal["error", "warning", "note"]

OPENCV = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)

PROBE = """
import contextlib, io, json, warnings
warnings.filterwarnings("ignore")

def report(name, **facts):
    print("DOCTOR " + json.dumps({"name": name, **facts}), flush=True)

def torch_facts():
    import torch
    return {"cuda_built": torch.version.cuda, "cuda_ready": torch.cuda.is_available(),
            "device": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None}

def torchvision_facts():
    import torch, torchvision
    torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    return {}

def cv2_facts():
    import cv2
    return {}

def operators_facts():
    import mmcv._ext
    from mmcv.ops import get_compiling_cuda_version
    return {"cuda_compiled": get_compiling_cuda_version()}

def mmdet_facts():
    import mmdet.apis
    return {}

for name in ("torch", "torchvision", "cv2", "operators", "mmdet"):
    report(name, started=True)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            facts = globals()[name + "_facts"]()
        report(name, works=True, **facts)
    except BaseException as error:
        lines = str(error).strip().splitlines() or [""]
        report(name, works=False, reason=type(error).__name__ + ": " + lines[-1])
"""


@dataclass(frozen=True)
class Finding:
    """One thing about the environment: what is so, why it matters, and what to type."""

    level: Level
    what: str
    why: str
    remedy: str


@dataclass(frozen=True)
class Environment:
    """The facts that the checks read; `examine` collects them, a test can make them up.

    ``packages`` maps normalised names to versions, ``requires`` to their requirement strings, ``pins`` to the
    versions of requirements.lock. ``probes`` maps "torch", "torchvision", "cv2", "operators" and "mmdet" to
    what importing them showed. ``linked`` says that ``make env`` made this environment, ``headers`` that Python.h
    is there. ``driver_cuda`` is the newest CUDA that the GPU's driver runs, as "13.0", or None. ``free`` and
    ``shared_memory`` are bytes.
    """

    python: tuple[int, ...]
    packages: Mapping[str, str]
    requires: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    pins: Mapping[str, str] = field(default_factory=dict)
    probes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    linked: bool = True
    compiler: str | None = None
    headers: bool = True
    driver_cuda: str | None = None
    free: int = 10**12
    shared_memory: int | None = None

    def works(self, probe: str) -> bool:
        """Whether importing ``probe`` succeeded; True where it was not tried."""
        return bool(self.probes.get(probe, {}).get("works", True))

    def reason(self, probe: str) -> str:
        """Why importing ``probe`` failed."""
        return str(self.probes.get(probe, {}).get("reason", ""))

    def mend(self, *wrong: str) -> str:
        """What to type so that the pinned packages are back, without the packages ``wrong``."""
        if self.linked:
            return "rm -rf .venv && make env   (if this stays: make rebuild)"
        remove = f"python -m pip uninstall -y {' '.join(wrong)} && " if wrong else ""
        return f"{remove}python scripts/environment.py here"


def numbers(version: str) -> tuple[int, ...]:
    """Read the leading numbers of a version: "2.11.0+cpu" gives (2, 11, 0)."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def normalised(name: str) -> str:
    """Spell a distribution's name as indexes do: lower case, hyphens."""
    return re.sub(r"[-_.]+", "-", name).lower()


def examine(folder: str | os.PathLike[str] = ".") -> Environment:
    """Collect the facts about the running interpreter; ``folder`` is where outputs go."""
    packages: dict[str, str] = {}
    requires: dict[str, tuple[str, ...]] = {}
    for package in metadata.distributions():
        name = package.metadata["Name"] if package.metadata else None
        if name and normalised(name) not in packages:  # the first on the path is the one that is imported
            packages[normalised(name)] = package.version or ""
            requires[normalised(name)] = tuple(package.requires or ())
    memory = shutil.disk_usage("/dev/shm").total if os.path.isdir("/dev/shm") else None
    return Environment(
        python=sys.version_info[:3],
        packages=packages,
        requires=requires,
        pins=read_pins(Path(__file__).parents[1] / "requirements.lock"),
        probes=probe(),
        linked=(Path(sys.prefix) / "mutineck.json").exists(),
        compiler=shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++"),
        headers=(Path(sysconfig.get_path("include")) / "Python.h").is_file(),
        driver_cuda=driver_cuda(),
        free=shutil.disk_usage(folder).free,
        shared_memory=memory,
    )


def read_pins(lock: Path) -> dict[str, str]:
    """Read the versions of requirements.lock that hold everywhere; empty where there is no such file."""
    if not lock.is_file():
        return {}
    return dict(re.findall(r"^([a-z][\w.-]*)==([^\s;\\]+)(?= \\$)", lock.read_text(), flags=re.MULTILINE))


def probe(timeout: float = 300.0) -> dict[str, dict[str, Any]]:
    """Import the heavy packages in order in a process of its own; a crash is a result like any other."""
    try:
        command = [sys.executable, "-c", PROBE]
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
        output, ending = done.stdout, f"the process ended with status {done.returncode}"
    except subprocess.TimeoutExpired as error:
        raw = error.stdout or b""
        output = raw.decode(errors="replace") if isinstance(raw, bytes) else raw
        ending = f"no answer within {timeout:.0f} s"
    probes: dict[str, dict[str, Any]] = {}
    for line in output.splitlines():
        if line.startswith("DOCTOR "):
            facts = json.loads(line.removeprefix("DOCTOR "))
            probes[facts.pop("name")] = facts
    for facts in probes.values():
        if "works" not in facts:  # begun, never ended
            facts.update(works=False, reason=f"importing it crashed: {ending}")
    return probes


def driver_cuda() -> str | None:
    """Ask nvidia-smi for the newest CUDA version that the driver runs; None without driver or answer."""
    try:
        text = subprocess.run(["nvidia-smi"], capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"CUDA Version:\s*(\d+\.\d+)", text)
    return found[1] if found else None


def check_python(env: Environment) -> Iterator[Finding]:
    """Python itself."""
    if not (3, 11) <= env.python[:2] <= (3, 12):
        yield Finding(
            "error",
            f"this is Python {'.'.join(map(str, env.python))}",
            "the pinned packages are for 3.11 (3.12 resolves too)",
            "apt-get install python3.11-venv && make env PYTHON=python3.11",
        )


def check_torch(env: Environment) -> Iterator[Finding]:
    """torch, and torchvision as its pair."""
    torch, vision = env.packages.get("torch"), env.packages.get("torchvision")
    for name, version in (("torch", torch), ("torchvision", vision)):
        if not version:
            yield Finding("error", f"{name} is not installed", "every network runs on it", env.mend())
    if not torch or not vision:
        return
    lines = env.requires.get("torchvision", ())
    wanted = next((found[1] for line in lines if (found := re.match(r"torch\s*\(?==\s*([\d.]+)", line))), "")
    if wanted and numbers(torch) != numbers(wanted):
        yield Finding(
            "error",
            f"torch {torch} and torchvision {vision} are no pair",
            f"torchvision {vision} was compiled against torch {wanted}; its operators fail with another",
            env.mend("torch", "torchvision"),
        )
        return
    for name, version in (("torch", torch), ("torchvision", vision)):
        if not env.works(name):
            yield Finding("error", f"{name} {version} does not work", env.reason(name), env.mend(name))


def check_mmcv(env: Environment) -> Iterator[Finding]:
    """mmcv-full: the right one, alone, with operators that were compiled for this torch."""
    full, plain = env.packages.get("mmcv-full"), env.packages.get("mmcv")
    if plain:
        yield Finding(
            "error",
            f"mmcv {plain} is installed {'beside' if full else 'instead of'} mmcv-full",
            "both fill the folder mmcv; the plain one has no compiled operators, and its 2.x no runner",
            env.mend("mmcv", "mmcv-full"),
        )
        return
    if not full:
        yield Finding("error", "mmcv-full is not installed", "mmdet stands on it", env.mend())
        return
    if numbers(full)[:2] != (1, 7):
        why = "mmdet 2.28 takes 1.3.17 to 1.7, and 1.7 is what is tested"
        yield Finding("error", f"mmcv-full is {full}", why, env.mend("mmcv-full"))
    if not env.works("operators") and env.works("torch"):
        reason = env.reason("operators")
        absent = "_ext" in reason and "No module" in reason
        cause = "built while no torch was at hand" if absent else "compiled against another torch, or not wholly"
        yield Finding(
            "error",
            "mmcv-full has no working compiled operators",
            f"it was {cause} ({reason}); mmdet's NMS and RoIAlign need them",
            env.mend("mmcv-full"),
        )


def check_mmdet(env: Environment) -> Iterator[Finding]:
    """mmdet 2.28 and what it prints with."""
    mmdet, yapf = env.packages.get("mmdet"), env.packages.get("yapf", "")
    if not mmdet:
        yield Finding("error", "mmdet is not installed", "the detectors come from it", env.mend())
    elif numbers(mmdet)[:2] != (2, 28):
        why = "2.28 is needed: 3.x has another runner, other registries and configs"
        yield Finding("error", f"mmdet is {mmdet}", why, env.mend("mmdet"))
    elif not env.works("mmdet") and env.works("operators"):
        yield Finding("error", f"mmdet {mmdet} cannot be imported", env.reason("mmdet"), env.mend("mmdet"))
    if numbers(yapf) >= (0, 40, 2):
        why = "mmcv passes it an argument that 0.40.2 took away, so that no config can be written"
        yield Finding("error", f"yapf is {yapf}", why, env.mend("yapf"))


def check_opencv(env: Environment) -> Iterator[Finding]:
    """One OpenCV, that works with the numpy that is here."""
    found = [name for name in OPENCV if name in env.packages]
    if len(found) > 1:
        yield Finding(
            "error",
            f"{' and '.join(found)} are installed together",
            "they fill the same folder cv2, and the last one installed has overwritten the other",
            env.mend(*found),
        )
    elif not found:
        yield Finding("error", "OpenCV is not installed", "mmcv reads pictures with it", env.mend())
    if found and not env.works("cv2"):
        reason = env.reason("cv2")
        yield Finding(
            "error",
            f"OpenCV does not work here (numpy is {env.packages.get('numpy', 'not installed')})",
            f"it wants libGL, which servers lack ({reason})" if "libGL" in reason else reason,
            env.mend(*found),
        )


def check_gpu(env: Environment) -> Iterator[Finding]:
    """The GPU, its driver, and whether torch and mmcv can use it; to have none is no error."""
    torch = env.probes.get("torch", {})
    built = torch.get("cuda_built")
    if not torch.get("works"):
        return
    if torch.get("cuda_ready"):
        yield Finding("note", f"training runs on {torch.get('device')}", f"torch is built for CUDA {built}", "")
        if env.probes.get("operators", {}).get("cuda_compiled") == "not available":
            yield Finding(
                "error",
                "mmcv's operators were compiled for the CPU only",
                "NMS and RoIAlign refuse GPU tensors; where nvcc is found they are compiled for the GPU",
                f"install the CUDA toolkit {built} (nvcc), then: {env.mend('mmcv-full')}",
            )
    elif env.driver_cuda is None:
        why = "everything runs on the CPU: right for small studies, weeks for COCO and VOC"
        yield Finding("note", "no GPU was found", why, "")
    elif not built:
        why = "training does not use the GPU"
        yield Finding("warning", "a GPU is here, but torch is a CPU build", why, env.mend("torch"))
    elif numbers(env.driver_cuda) < numbers(built):
        yield Finding(
            "warning",
            f"the GPU's driver runs CUDA up to {env.driver_cuda}, torch is built for {built}",
            "torch falls back to the CPU",
            "update the NVIDIA driver, then look again: mutineck doctor",
        )
    else:
        yield Finding(
            "warning",
            "a GPU is here, but torch does not see it",
            "CUDA_VISIBLE_DEVICES may hide it, or this container may have no access to it",
            'echo "$CUDA_VISIBLE_DEVICES"; nvidia-smi   (docker: run with --gpus all)',
        )


def check_machine(env: Environment) -> Iterator[Finding]:
    """The compiler and what it includes, the disk and shared memory."""
    standing = env.probes.get("operators", {}).get("works", False)
    if not env.compiler:
        yield Finding(
            "note" if standing else "error",
            "no C++ compiler was found",
            "mmcv-full's operators are compiled with it; an environment that stands needs it no more",
            "apt-get install g++   (conda: conda install -c conda-forge cxx-compiler)",
        )
    if not env.headers:
        yield Finding(
            "note" if standing else "error",
            "Python's headers (Python.h) are not here",
            "mmcv-full's operators are compiled with them; an environment that stands needs them no more",
            f"apt-get install python{env.python[0]}.{env.python[1]}-dev   (conda's Python has them)",
        )
    if env.free < 5e9:
        yield Finding(
            "error" if env.free < 1e9 else "warning",
            f"{env.free / 1e9:.1f} GB of disk are free here",
            "checkpoints and features of a study take gigabytes, and a full disk stops it in the middle",
            "make prune   (removes environments that this clone does not use)",
        )
    if env.shared_memory is not None and env.shared_memory < 256e6:
        yield Finding(
            "warning",
            f"shared memory (/dev/shm) is {env.shared_memory / 1e6:.0f} MB",
            "data loader processes pass pictures through it and die of a bus error when it is full",
            "docker run --shm-size=2g ...",
        )


def check_pins(env: Environment) -> Iterator[Finding]:
    """Packages that are not at the version of requirements.lock."""
    moved = [
        f"{name} {env.packages[name]} (pinned {pin})"
        for name, pin in sorted(env.pins.items())
        if name in env.packages and numbers(env.packages[name]) != numbers(pin)
    ]
    if moved:
        more = f" and {len(moved) - 5} more" if len(moved) > 5 else ""
        what = f"other versions than pinned: {', '.join(moved[:5])}{more}"
        yield Finding("warning", what, "results and errors may differ from what was tested", env.mend())


CHECKS: tuple[Callable[[Environment], Iterator[Finding]], ...] = (
    check_python,
    check_torch,
    check_mmcv,
    check_mmdet,
    check_opencv,
    check_gpu,
    check_machine,
    check_pins,
)


def diagnose(env: Environment | None = None) -> list[Finding]:
    """Check an environment, the running one by default; errors first."""
    env = env or examine()
    order = ("error", "warning", "note")
    found = [finding for check in CHECKS for finding in check(env)]
    return sorted(found, key=lambda finding: order.index(finding.level))


def report_text(findings: Iterable[Finding]) -> str:
    """Write the findings as a person reads them, the verdict last."""
    findings = list(findings)
    lines: list[str] = []
    for found in findings:
        lines.append(f"{found.level:<8} {found.what}")
        lines.extend(textwrap.wrap(found.why, 100, initial_indent=" " * 9, subsequent_indent=" " * 9))
        if found.remedy:
            lines.append(f"{'':9}type: {found.remedy}")
    errors = sum(found.level == "error" for found in findings)
    verdict = f"{errors} to mend before anything runs" if errors else "this environment can run a study"
    return "\n".join([*lines, f"doctor: Python {platform.python_version()} at {sys.prefix}: {verdict}"])


def main() -> int:
    """Print what is wrong and what to type; 1 where an error was found."""
    findings = diagnose()
    print(report_text(findings))
    return int(any(found.level == "error" for found in findings))


if __name__ == "__main__":
    raise SystemExit(main())
