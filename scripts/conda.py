"""Write environment.yml, the same set for conda, from requirements.in and .lock; `make lock` calls it."""

from __future__ import annotations

import re
from pathlib import Path

from packaging.markers import Marker
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PYTHON = "3.11"
LATER = "mmcv-full"  # pip cannot build it before torch stands, and conda hands pip all packages at once

HEAD = f"""\
# The same set as requirements.lock, for conda; written by `make lock`, not by hand. Then, to finish:
#   conda env create -f environment.yml && conda activate mutineck && python scripts/environment.py here
# The last command compiles {LATER} against the torch that is there, and installs mutineck and the rest.
name: mutineck  # conda activate mutineck
channels:  # where conda itself looks; everything of Python comes from PyPI, as in `make env`
  - conda-forge  # the compiler and Python
  - nodefaults  # the other channel's terms are not everyone's
dependencies:  # outside Python, then inside
  - python={PYTHON}  # the one that requirements.lock is tested with
  - cxx-compiler  # compiles {LATER}'s operators
  - make  # make run, make test
  - pip  # takes the list below
  - pip:  # exact versions, as in requirements.lock
"""


def top_level(text: str) -> dict[str, str]:
    """Read requirements.in: each package's name and the reason that stands behind it, in the file's order."""
    found = re.findall(r"^([A-Za-z][\w.-]*)[^#\n]*#\s*(.+)$", text, flags=re.MULTILINE)
    return {canonicalize_name(name): reason.strip() for name, reason in found}


def pins(text: str) -> dict[str, str]:
    """Read requirements.lock: each package's exact version under PYTHON on Linux."""
    here = {"python_version": PYTHON, "python_full_version": f"{PYTHON}.9", "sys_platform": "linux"}
    found = re.findall(r"^([a-z][\w.-]*)==([^\s;]+)(?: ; ([^\\\n]+))?", text, flags=re.MULTILINE)
    return {name: version for name, version, when in found if not when or Marker(when.strip()).evaluate(here)}


def conda_environment(requirements: str, lock: str) -> str:
    """Give environment.yml's text for the texts of requirements.in and requirements.lock."""
    versions = pins(lock)
    lines = [
        f"    - {name}=={versions[name]}  # {reason}\n"
        for name, reason in top_level(requirements).items()
        if name != LATER
    ]
    return HEAD + "".join(lines)


if __name__ == "__main__":
    requirements, lock = ((ROOT / name).read_text() for name in ("requirements.in", "requirements.lock"))
    (ROOT / "environment.yml").write_text(conda_environment(requirements, lock))
