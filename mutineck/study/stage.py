"""A stage of a study as its notebook holds it: settings, folders, and the manifest that says it is finished."""

from __future__ import annotations

import functools
import os
import resource
import shlex
import sys
import time
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import yaml

from mutineck.study.dataset import DATA, DATASET_FILE, Dataset
from mutineck.study.experiment import STAGES, Experiment
from mutineck.study.experiment_file import find_file, repository
from mutineck.study.inputs import INPUTS, ExternalInput, external_input
from mutineck.study.jobs import MANIFEST, PARAMETERS, Job, job_of
from mutineck.study.last_run import load_as_last_run
from mutineck.study.manifest import revision, versions
from mutineck.study.settings import settings_of
from mutineck.system.errors import ExperimentError, unknown
from mutineck.system.files import sha256_json, sha256_path, write_json, write_text
from mutineck.system.processes import hold

EXPERIMENT_FILE = "experiment.yaml"
"""The resolved experiment, in the study's folder."""
ASIDE = (MANIFEST, "tensorboard", "training")
"""What in a stage's folder is no result: with hidden files and notebooks, no manifest lists it."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


T = TypeVar("T")


class Finding(Protocol):
    """What `Study.finish` is handed: the `reads`, `writes` and `results` of its arguments."""

    @property
    def reads(self) -> Sequence[Path]: ...

    @property
    def writes(self) -> Sequence[Path]: ...

    @property
    def results(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """What a stage's function read, wrote and found; `Study.finish` puts it into the manifest.

    Attributes:
        found: what the notebook shows: a table, rows of metrics.
        reads: files that it depends on.
        writes: files that it made.
        results: a few JSON-able numbers worth reading at a glance.
    """

    found: T
    reads: Sequence[Path] = ()
    writes: Sequence[Path] = ()
    results: Mapping[str, Any] = field(default_factory=dict)


class Study:
    """A job of an experiment in the study's folder: where it reads, where it writes, what it finished with.

    Args:
        experiment: the validated experiment.
        root: its folder, `outputs/EXPERIMENT`.
        job: the stage, and the part of it where it has several.
        source: what `mutineck run` is given to make this study, for messages: a file or name, and any `--set`.
    """

    def __init__(self, experiment: Experiment, root: Path, job: Job, *, source: Sequence[str] = ()) -> None:
        if job.stage not in STAGES:
            raise ExperimentError(unknown("stage", job.stage, STAGES))
        self.experiment = experiment
        self.root = Path(root)
        self.job = job
        self.source = source
        self._started = time.time()
        self._inputs: dict[str, dict[str, Any]] = {}

    def __repr__(self) -> str:
        return f"Study({self.experiment.name}: {self.job.folder}, {self.root})"

    @property
    def stage(self) -> str:
        """The job's stage."""
        return self.job.stage

    @property
    def item(self) -> str | None:
        """The part of the stage: a teacher's name, or `ARM/seedN`; None where a stage is one job."""
        return self.job.item

    @property
    def folder(self) -> Path:
        """Folder of this stage (and item), made if missing."""
        folder = self.root / self.job.folder
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def path(self, *parts: str) -> Path:
        """Return a path below the experiment's folder; it need not exist."""
        return self.root.joinpath(*parts)

    @functools.cached_property
    def dataset(self) -> Dataset:
        """What the dataset stage made, read once.

        Raises:
            FileNotFoundError: it is not finished; the message names the command that makes it.
        """
        self.need("dataset", DATASET_FILE)
        return Dataset.read(self.root)

    def need(self, *parts: str) -> Path:
        """Return a path below the experiment's folder that an earlier stage has written.

        Args:
            parts: a job's folder, or a stage, and what is in it.

        Raises:
            FileNotFoundError: it is not there; the message names the command that makes it.
        """
        path = self.path(*parts)
        if not path.exists():
            stage = Job.at(parts[0]).stage
            raise FileNotFoundError(
                f"{path} is missing: it is written by the stage {stage!r}. Make it with: {self.command(stage)}"
            )
        return path

    def command(self, until: str) -> str:
        """Return the command that makes this study up to a stage."""
        own = self.path(EXPERIMENT_FILE)
        return run_command(self.root, self.source or [str(own) if own.is_file() else self.experiment.name], until)

    def at(self, stage: str, item: str | None = None) -> Study:
        """Return the same study at another stage."""
        return Study(self.experiment, self.root, Job(stage, item), source=self.source)

    def note(self, *inputs: str | os.PathLike[str] | ExternalInput) -> None:
        """Note what lies outside the study's folder and is about to be read; changed, it makes the finished job stale.

        Before it is read: what replaces it while the stage is at work is not what the results are of.
        """
        for each in map(external_input, inputs):
            self._inputs[each.path] = each.note()

    def finish(
        self,
        *outcomes: Finding,
        reads: Iterable[str | os.PathLike[str]] = (),
        writes: Iterable[str | os.PathLike[str]] = (),
        results: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Write this stage's manifest, last and atomically, and return it.

        Args:
            outcomes: what the stage's functions returned; the arguments that follow are for what none of them tells.
            reads: files that the results depend on. Those outside the study's folder are noted, if they are not yet.
            writes: files that this stage made; each must exist. What else lies in the stage's folder is listed too,
                apart from logs and the notebook; a folder of it counts as one (`dataset/source/`).
            results: a few JSON-able numbers worth reading at a glance.

        Raises:
            FileNotFoundError: a file named in `reads` or `writes` is not there: the stage is not finished.
        """
        reads = [*(path for outcome in outcomes for path in outcome.reads), *reads]
        writes = [*(path for outcome in outcomes for path in outcome.writes), *writes]
        found = {key: value for outcome in outcomes for key, value in outcome.results.items()}
        others = (path for path in reads if os.path.abspath(path) not in self._inputs)
        self.note(*(path for path in others if self._is_outside(path)))
        beside = _others(self.folder.resolve(), {Path(file).resolve() for file in writes})
        settings = settings_of(self.experiment, self.job)
        seconds = time.time() - self._started
        manifest = {
            "experiment": self.experiment.name,
            "stage": self.stage,
            "item": self.item,
            "settings": settings,
            "settings_sha256": sha256_json(settings),
            "results": found | dict(results or {}),
            "reads": self._hashes(reads),
            INPUTS: self._inputs,
            DATA: self._data(),
            "writes": self._hashes([*writes, *beside]),
            "revision": revision(),
            "versions": versions(),
            "seconds": round(seconds, 2),
            "peak_memory_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        write_json(self.folder / MANIFEST, manifest)
        print(f"{self.job.folder} finished in {seconds:.1f} s: {self.folder / MANIFEST}")
        return manifest

    def _data(self) -> dict[str, str]:
        """Return the content of the data set that the stage has worked on, or has made."""
        if not self.path("dataset", DATASET_FILE).is_file():
            return {}
        # Read anew by the stage that makes it, perhaps more than once
        return dict((Dataset.read(self.root) if self.stage == "dataset" else self.dataset).content)

    def _is_outside(self, path: str | os.PathLike[str]) -> bool:
        # A search's trials have their study's folders by links: as named, they are inside.
        named, root = Path(os.path.abspath(path)), Path(os.path.abspath(self.root))
        return not (named.is_relative_to(root) or named.resolve().is_relative_to(root.resolve()))

    def _hashes(self, files: Iterable[str | os.PathLike[str]]) -> dict[str, str]:
        hashes = {}
        for file in files:
            path = Path(file)
            inside = path.resolve().is_relative_to(self.root.resolve())
            key = str(path.resolve().relative_to(self.root.resolve()) if inside else path)
            known = {} if path.is_dir() else self._inputs.get(os.path.abspath(path), {})
            hashes[key + "/" * path.is_dir()] = known.get("sha256") or sha256_path(path)
        return dict(sorted(hashes.items()))


def _others(folder: Path, named: Set[Path]) -> Iterator[Path]:
    """Yield what else a folder holds than what is named: files, and folders as a whole that hold nothing named."""
    for path in sorted(folder.iterdir()):
        if path in named or path.name in ASIDE or path.name.startswith(".") or path.suffix == ".ipynb":
            continue
        if path.is_dir() and any(path in other.parents for other in named):
            yield from _others(path, named)
        else:
            yield path


def write_experiment(experiment: Experiment, root: Path) -> Path:
    """Write the experiment with every field resolved to `experiment.yaml`, if that changes the file."""
    path = root / EXPERIMENT_FILE
    text = "# Written by `mutineck run`: the experiment with every field and every --set resolved.\n" + yaml.safe_dump(
        experiment.model_dump(mode="json", by_alias=True), sort_keys=False, allow_unicode=True
    )
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)
    return path


def run_command(root: Path, source: Sequence[str], until: str | None = None) -> str:
    """Return the command that makes the study in a folder, up to a stage.

    Args:
        root: its folder, `outputs/EXPERIMENT`.
        source: the experiment's file or name, and any `--set`.
        until: the last stage; all of them if None.
    """
    options = [] if until is None else ["--until", until]
    if root.parent.resolve() != Path("outputs").resolve():
        options += ["--outputs", str(root.parent)]
    return shlex.join(["mutineck", "run", *source, *options])


def settings_words(overrides: Iterable[str]) -> list[str]:
    """Return `field=value` items as a command line says them."""
    return [word for item in overrides for word in ("--set", item)]


def begin(stage: str, variables: Mapping[str, Any]) -> Study:
    """Open a stage from a notebook's parameters: the first call of every notebook.

    Args:
        stage: the stage's name.
        variables: the notebook's `globals()`. Before the first call they hold nothing but parameters; once a `Study` is
            among them, the cell is run again, and other names are the notebook's own.

    The study is the one that `mutineck run` has left: what its last run has set counts, and then `overrides`. The
    stage's folder is this process's own until it ends.

    Raises:
        ExperimentError: a parameter that this notebook does not read (papermill itself only warns), a wrong type, or
            an experiment, teacher or arm that does not exist.
        BusyError: the same stage is open in another notebook, or is being run.
    """
    expected = PARAMETERS[stage]
    given = {name: value for name, value in variables.items() if _is_parameter(name, value)}
    again = any(isinstance(value, Study) for value in given.values())
    for name in () if again else given:
        if name not in expected:
            raise ExperimentError(f"notebook of the stage {stage!r}: " + unknown("parameter", name, expected))
    overrides = given.get("overrides") or []
    if isinstance(overrides, str):
        raise ExperimentError(f"parameter overrides: expected a list of 'field.path=value', got {overrides!r}")
    outputs = Path(given.get("outputs", "outputs")).expanduser()
    if not outputs.is_absolute():
        # A notebook opened in notebooks/ shares its outputs with the repository's root.
        outputs = repository() / outputs
    experiment, root, overrides = load_as_last_run(given["experiment"], overrides, outputs)
    bound_threads(experiment)
    print(f"{experiment.name}: {stage}, in {root}")
    file = find_file(given["experiment"])
    ours = file.parent == repository() / "experiments"
    source = [file.stem if ours else str(file), *settings_words(overrides)]
    study = Study(experiment, root, job_of(experiment, stage, given), source=source)
    if os.environ.get("RANK", "0") == "0":  # torchrun's processes share the stage
        hold(study.folder, f"the notebook of {study.job}")
    return study


def bound_threads(experiment: Experiment) -> None:
    """Bound the CPU threads of this process to what the experiment gives a job."""
    threads = str(experiment.resources.threads)
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, threads))
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(experiment.resources.threads)


def _is_parameter(name: str, value: Any) -> bool:
    # IPython's own names are all callables, modules, underscored, or one of these two.
    return not (name.startswith("_") or name in ("In", "Out") or isinstance(value, types.ModuleType) or callable(value))
