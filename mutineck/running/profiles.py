"""Where a study's jobs run: Snakemake profiles, ours in `profiles/NAME/config.yaml` or a user's own."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mutineck.study.experiment_file import repository
from mutineck.system.errors import ExperimentError, unknown

PROFILES = "profiles"
"""The repository's own; Snakemake looks for a workflow's profiles in this folder, too."""
LOCAL = "local"
"""The profile of a run that names none, and the executor of a profile that names none."""
HERE = (LOCAL, "dryrun", "touch")
"""Executors of Snakemake itself, which run jobs in its own processes; every other one is a plugin."""


@dataclass(frozen=True)
class Profile:
    """Command-line options of Snakemake in a file.

    Attributes:
        file: the YAML file.
        options: its content.
    """

    file: Path
    options: Mapping[str, Any]

    @property
    def executor(self) -> str:
        """Name of what runs the jobs: `local`, `slurm`."""
        return str(self.options.get("executor", LOCAL))

    @property
    def remote(self) -> bool:
        """Whether jobs are handed to a scheduler that runs them elsewhere."""
        return self.executor not in HERE

    @property
    def wants_gpus(self) -> bool:
        """Whether each job that trains or extracts is to have a GPU, whatever this machine has."""
        given = self.options.get("config") or {}
        if not isinstance(given, Mapping):  # the command line's way of writing it
            given = dict(item.split("=", 1) for item in given)
        return int(given.get("gpus", 0)) > 0

    @property
    def missing(self) -> str:
        """Name of the package that has the executor, if it is not installed; empty if it is."""
        package = f"snakemake-executor-plugin-{self.executor}"
        return package if self.remote and importlib.util.find_spec(package.replace("-", "_")) is None else ""

    @property
    def advice(self) -> str:
        """What to type where the executor is not installed."""
        return (
            f"{self.file}: the executor {self.executor!r} is a plugin of Snakemake that is not installed. "
            f"Type: {sys.executable} -m pip install {self.missing}"
        )

    def check(self, gpus: Sequence[str]) -> None:
        """See that jobs can run as the profile says.

        Args:
            gpus: those that jobs may use on this machine.

        Raises:
            ExperimentError: its executor is not installed, or jobs are to run here on GPUs that are not here.
        """
        if self.missing:
            raise ExperimentError(self.advice)
        if self.wants_gpus and not self.remote and not gpus:
            raise ExperimentError(
                f"{self.file}: jobs are to run on GPUs, and none was found (nvidia-smi, CUDA_VISIBLE_DEVICES; "
                "resources.device of the experiment). Without --profile they run on the CPU"
            )


def find_profile(name: str) -> Profile:
    """Return a profile by the name of one of ours, by its folder or file, or by a name that Snakemake knows.

    Raises:
        ExperimentError: there is none (the message lists ours, with near matches), or it holds no options.
    """
    ours = {path.parent.name: path for path in sorted((repository() / PROFILES).glob("*/config.yaml"))}
    file = ours.get(name)
    if file is None:
        from snakemake.cli import get_profile_dir  # slow

        found = get_profile_dir(name)
        if found is None:
            raise ExperimentError(unknown("profile", name, ours) + ", or a folder with Snakemake's config.yaml")
        file = found[1].resolve()
    try:
        options = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ExperimentError(f"{file}: not valid YAML: {error}") from error
    if not isinstance(options, Mapping):
        raise ExperimentError(f"{file}: expected options of Snakemake as `name: value`, got {options!r}")
    return Profile(file, options)
