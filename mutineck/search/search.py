"""A search over settings: Optuna suggests, students learn from the teachers that are there, validation decides.

The test split is not read. Everything is in a folder of its own, `outputs/searches/NAME/`:

- `journal.log`: Optuna's record of trials; a search that was stopped goes on from it.
- `trials.csv`: the same as a table, a row a trial.
- `about.json`: what is searched, on which studies.
- `EXPERIMENT/trial0007/`: a trial's experiment and its students; of the study itself, only the cache is written to.
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import optuna
import pandas as pd
import yaml
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from mutineck.running.job_run import own_gpu, thread_environment, visible_gpus
from mutineck.search.space import ParameterSpec, SearchSpec, Value
from mutineck.study.experiment import CHOOSING, EvaluationSpec, Experiment, load_experiment
from mutineck.study.jobs import Job
from mutineck.study.manifest import read_manifest
from mutineck.study.settings import changed_settings, settings_of
from mutineck.study.stage import EXPERIMENT_FILE, Study, run_command, settings_words, write_experiment
from mutineck.study.staleness import inspect
from mutineck.system.errors import ExperimentError
from mutineck.system.files import read_json, sha256_json, write_json
from mutineck.system.processes import end_children, end_with_parent, exclusive
from mutineck.system.seeding import derive_seed
from mutineck.system.tables import write_table

SEARCHES = "searches"
JOURNAL = "journal.log"
TRIALS = "trials.csv"
ABOUT = "about.json"
LOG = "log.txt"
ENDED = [TrialState.COMPLETE, TrialState.FAIL]
SHARED = ("dataset", "teachers", "clusters", "cache")
"""What a trial reads of the study, and the cache that both fill."""


class Base(NamedTuple):
    """A study that trials build on: its experiment, its folder, and what was set beside the folder's experiment."""

    experiment: Experiment
    root: Path
    overrides: Sequence[str] = ()


def open_base(root: Path, overrides: Sequence[str] = ()) -> Base:
    """Return a study that has been run, as a base of trials.

    Raises:
        FileNotFoundError: there is no such study.
        ExperimentError: an override that makes no experiment.
    """
    if not (root / EXPERIMENT_FILE).is_file():
        raise FileNotFoundError(f"{root}: no such study; make it with: {run_command(root, [root.name], 'clusters')}")
    return Base(load_experiment(root / EXPERIMENT_FILE, overrides), root.resolve(), overrides)


class Search:
    """Trials of one space on some studies, in a folder that only this search writes.

    Args:
        bases: finished studies, whose teachers and centroids are used; a trial is worth the mean over them.
        space: what is tried, with which arm and seeds.
        folder: e.g. `outputs/searches/weights`.

    Raises:
        ExperimentError: a base is not finished, or a setting cannot be searched.
    """

    def __init__(self, bases: Sequence[Base], space: SearchSpec, folder: Path) -> None:
        self.bases = list(bases)
        self.space = space
        self.folder = folder
        for base in bases:
            space.check(base.experiment)
            _refuse_unfinished(base, space)

    def run(self, trials: int, *, cores: int | None = None) -> pd.DataFrame:
        """Try settings until there are so many trials, failed ones included; one that was stopped goes on.

        Args:
            trials: how many there shall be in all.
            cores: trainings at once times their threads; all there are if None.

        Returns:
            The table of `table`.

        Raises:
            ExperimentError: the folder holds another search.
            BusyError: another process works on this search.
        """
        resources = self.bases[0].experiment.resources
        most = (cores or len(os.sched_getaffinity(0))) // resources.threads
        at_once = max(1, min(len(self.bases) * len(self.space.seeds), most))
        # Before the processes begin: libraries read these when they are loaded.
        os.environ.update(thread_environment(self.bases[0].experiment))
        with exclusive(self.folder, f"mutineck search {self.folder.name}"):
            self._refuse_other()
            study = self._open()
            if not study.get_trials(deepcopy=False) and (present := self.space.present(self.bases[0].experiment)):
                study.enqueue_trial(present)  # what every other has to beat
            with ProcessPoolExecutor(at_once, get_context("spawn"), end_with_parent) as pool:
                try:
                    self._go_on(study, trials, pool)
                except KeyboardInterrupt:
                    end_children()  # the pool would wait for the trainings in hand
                    raise
            return self.table(study)

    def _go_on(self, study: optuna.Study, trials: int, pool: ProcessPoolExecutor) -> None:
        for stopped in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
            self._finish(study, stopped.number, stopped.params, pool)
        while len(study.get_trials(deepcopy=False, states=ENDED)) < trials:
            # A suggestion depends on the trials so far and on nothing else: not on how often it was stopped.
            seed = derive_seed("search", len(study.get_trials(deepcopy=False)))
            study.sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True)
            present = self.bases[0].experiment
            trial = study.ask({name: _distribution(p, present) for name, p in self.space.parameters.items()})
            self._finish(study, trial.number, trial.params, pool)

    def table(self, study: optuna.Study | None = None) -> pd.DataFrame:
        """Write every trial that has ended as a row of `trials.csv`, and return the rows.

        Columns: trial, state, value (mean mAP on val, 0..1), one a parameter, one a student (`EXPERIMENT/seedN`), one
        a loss term (`share/TERM`: its part of the total at the end of the training), seconds, error.
        """
        ended = (study or self._open()).get_trials(deepcopy=False, states=ENDED)
        table = pd.DataFrame([_row(trial, self._result(trial.number)) for trial in ended])
        last = [column for column in ("seconds", "error") if column in table]
        table = table[[column for column in table if column not in last] + last]
        write_table(table, self.folder / TRIALS)
        return table

    def _open(self) -> optuna.Study:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = JournalStorage(JournalFileBackend(str(self.folder / JOURNAL)))
        return optuna.create_study(
            storage=storage, study_name=self.folder.name, direction="maximize", load_if_exists=True
        )

    def _refuse_other(self) -> None:
        """Note what is searched on what; trials of another search are not comparable."""
        identity: dict[str, Any] = {"space": self.space.model_dump(mode="json", exclude={"description"})}
        for experiment, root, _ in self.bases:
            read = {str(job): read_manifest(root, job) or {} for job in self.space.needed(experiment)}
            identity[experiment.name] = {
                "settings": settings_of(experiment, self.space.students(experiment)[0]),
                # Whole: what the arm does not depend on as it is, a trial may make it depend on.
                "distillation": experiment.distillation.model_dump(mode="json", by_alias=True),
                "reads": {job: sha256_json(manifest.get("writes")) for job, manifest in read.items()},
            }
        about = self.folder / ABOUT
        if not about.is_file():
            write_json(about, identity)
        elif (known := read_json(about)) != identity:
            differing = [key for key in sorted({*known, *identity}) if known.get(key) != identity.get(key)]
            raise ExperimentError(
                f"{self.folder} holds a search of the same name with another {', '.join(differing)}: its trials cannot "
                "be compared with new ones. Give this search a name of its own (--name)"
            )

    def _finish(self, study: optuna.Study, number: int, values: Mapping[str, Value], pool: ProcessPoolExecutor) -> None:
        """Bring one trial to its end, and say how it went."""
        if set(values) != set(self.space.parameters):
            study.tell(number, state=TrialState.FAIL)  # stopped before all was suggested
            return
        said = ", ".join(f"{name} {v:.4g}" if isinstance(v, float) else f"{name} {v}" for name, v in values.items())
        print(f"trial {number}: {said} ...", flush=True)
        result = self._outcome(number, values, pool)
        write_json(self._result_file(number), result)
        study.tell(number, result.get("value"), state=TrialState.FAIL if "error" in result else TrialState.COMPLETE)
        self.table(study)
        print(f"  failed: {result['error']}" if "error" in result else f"  mAP {100 * result['value']:.2f}", flush=True)

    def _outcome(self, number: int, values: Mapping[str, Value], pool: ProcessPoolExecutor) -> dict[str, Any]:
        """Return what a trial comes to: what `_train` returns, or the `error` that it failed with."""
        import torch

        try:
            for base in self.bases:
                self.space.apply(base.experiment, values)
        except ExperimentError as error:
            # Each parameter has been checked by itself; left running, this trial would stop the search for good.
            return {"error": " ".join(str(error).split())}
        try:
            return self._train(number, values, pool)
        except BrokenProcessPool:
            raise
        except (torch.OutOfMemoryError, torch.AcceleratorError):
            raise
        except RuntimeError as error:
            # Settings under which training breaks down are a finding; anything else stops the search.
            return {"error": str(error).split("\n")[0]}

    def _train(self, number: int, values: Mapping[str, Value], pool: ProcessPoolExecutor) -> dict[str, Any]:
        """Train a student for each base and seed, as many at once as the pool has processes.

        Returns:
            `value`, the mean; `runs`, each student's mAP; `shares` of the loss terms; `seconds` in all.
        """
        jobs = {
            f"{base.experiment.name}/seed{seed}": (str(self._trial_root(base, number, values)), job)
            for base in self.bases
            for seed, job in zip(self.space.seeds, self.space.students(base.experiment), strict=True)
        }
        done = list(pool.map(train_student, *zip(*jobs.values(), strict=True)))
        reached = {name: found["mAP"] for name, found in zip(jobs, done, strict=True)}
        return {
            "value": sum(reached.values()) / len(reached),
            "runs": reached,
            "shares": pd.DataFrame([found["shares"] for found in done]).mean().to_dict(),
            "seconds": sum(found["seconds"] for found in done),
        }

    def _trial_root(self, base: Base, number: int, values: Mapping[str, Value]) -> Path:
        """Make a trial's folder: the study's data set, teachers and centroids by link, and nowhere a test split."""
        experiment = self.space.apply(base.experiment, values)
        root = self.folder.resolve() / experiment.name / f"trial{number:04d}"
        root.mkdir(parents=True, exist_ok=True)
        (base.root / "cache").mkdir(exist_ok=True)  # may have been deleted; a link to nothing could not be filled
        for part in SHARED:
            with contextlib.suppress(FileExistsError):
                (root / part).symlink_to(base.root / part, target_is_directory=True)
        on_val = EvaluationSpec(splits=(CHOOSING,), report=CHOOSING, batch=experiment.evaluation.batch)
        write_experiment(experiment.model_copy(update={"evaluation": on_val}), root)
        return root

    def _result_file(self, number: int) -> Path:
        return self.folder / "results" / f"trial{number:04d}.json"

    def _result(self, number: int) -> dict[str, Any]:
        path = self._result_file(number)
        return read_json(path) if path.is_file() else {"error": "stopped before it began"}


def train_student(root: str, job: Job) -> dict[str, Any]:
    """Train one student of a trial, unless that is done, and return `mAP` on val, `shares` of the loss, `seconds`.

    A student of other values, which lies there after the trials' journal has been deleted, is trained anew.
    """
    import torch

    from mutineck.distillation import distil, loss_shares
    from mutineck.study.stage import bound_threads

    folder = Path(root)
    study = Study(load_experiment(folder / EXPERIMENT_FILE), folder, job)
    manifest = read_manifest(folder, job)
    if manifest is None or changed_settings(study.experiment, job, manifest):
        bound_threads(study.experiment)
        gpus = visible_gpus() if study.experiment.resources.device != "cpu" else []
        with (
            open(folder / LOG, "a", encoding="utf-8") as log,
            contextlib.redirect_stdout(log),
            contextlib.redirect_stderr(log),
            own_gpu(gpus, share=study.experiment.resources.jobs_per_gpu),
        ):
            manifest = study.finish(distil(study))
            # The process lives on, and others take its place on the GPU.
            gc.collect()
            torch.cuda.empty_cache()
    shares = loss_shares(study)["last tenth"]
    return {"mAP": manifest["results"][CHOOSING], "shares": shares.to_dict(), "seconds": manifest["seconds"]}


def best_settings(table: pd.DataFrame, base: Base, space: SearchSpec) -> list[str]:
    """Return the best trial's settings as `--set` takes them; empty if no trial came to its end."""
    done = table.dropna(subset=["value"])
    if done.empty:
        return []
    best = done.loc[done["value"].idxmax()]
    found: dict[str, Any] = {}
    for name in space.parameters:
        value = best[name].item() if hasattr(best[name], "item") else best[name]
        if isinstance(value, float) and math.isnan(value):
            value = None  # a choice that pandas cannot tell from nothing
        found |= space.settings(base.experiment, name, value)
    # YAML reads 1e-05 as text, and 1.0e-05 as a number.
    return [f"{path}={yaml.safe_dump(value).splitlines()[0]}" for path, value in found.items()]


def _distribution(parameter: ParameterSpec, experiment: Experiment) -> BaseDistribution:
    if parameter.choices:
        return CategoricalDistribution(parameter.choices)
    assert parameter.low is not None and parameter.high is not None  # the record has seen to it
    if parameter.whole(experiment):
        return IntDistribution(int(parameter.low), int(parameter.high), log=parameter.log)
    return FloatDistribution(parameter.low, parameter.high, log=parameter.log)


def _refuse_unfinished(base: Base, space: SearchSpec) -> None:
    states = {state.job: state for state in inspect(base.experiment, base.root)}
    source = [str(base.root / EXPERIMENT_FILE), *settings_words(base.overrides)]
    for job in space.needed(base.experiment):
        if not states[job].done:
            raise ExperimentError(
                f"{base.root}: {job} is not finished ({states[job].reasons[0]}); a search trains students alone. "
                f"First: {run_command(base.root, source, 'clusters')}"
            )


def _row(trial: FrozenTrial, result: Mapping[str, Any]) -> dict[str, Any]:
    shares = {f"share/{term}": share for term, share in result.get("shares", {}).items()}
    return {
        "trial": trial.number,
        "state": trial.state.name.lower(),
        "value": trial.value,
        **trial.params,
        **result.get("runs", {}),
        **shares,
        "seconds": result.get("seconds"),
        "error": result.get("error", ""),
    }
