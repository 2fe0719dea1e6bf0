"""How one job of a study is run: its notebook, its cores, its GPU, its log."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import itertools
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mutineck.running.notebooks import NotebookError, execute
from mutineck.study.experiment import STAGES, Experiment, load_experiment
from mutineck.study.experiment_file import repository
from mutineck.study.jobs import NOTEBOOK, Job, needs, parameters_of
from mutineck.study.stage import EXPERIMENT_FILE, THREAD_VARIABLES
from mutineck.system.errors import ExperimentError
from mutineck.system.processes import end_with_parent
from mutineck.system.remedies import remedy

GPU_STAGES = ("teachers", "features", "distillation", "ablations", "figures")


def notebook_of(stage: str) -> str:
    """Return the file name of a stage's notebook: `05_distillation.ipynb`."""
    return f"{STAGES.index(stage) + 1:02d}_{stage}.ipynb"


def parameters(experiment: Experiment, root: Path, job: Job) -> dict[str, Any]:
    """Return what a job's notebook is given.

    Args:
        experiment: the experiment whose job it is.
        root: its folder, `outputs/EXPERIMENT`, which holds the resolved `experiment.yaml`.
        job: the job.
    """
    given: dict[str, Any] = {
        "experiment": str(root / EXPERIMENT_FILE),
        "overrides": [],
        "outputs": str(root.parent),
    }
    return given | parameters_of(experiment, job)


def cores(experiment: Experiment, stage: str) -> int:
    """Return how many cores a job of a stage keeps busy: its threads, and its loader processes if it reads pictures."""
    return experiment.resources.threads + (experiment.resources.workers if stage in GPU_STAGES else 0)


def resources(experiment: Experiment, stage: str, *, gpus: bool) -> dict[str, int]:
    """Return what else a job of a stage asks its scheduler for, in Snakemake's terms.

    Args:
        experiment: its `resources` say how much.
        stage: decides whether a GPU is of use.
        gpus: whether there are any, here or on the cluster.

    Returns:
        `gpu`: how many; `mem_mb`: memory in MB; `runtime`: minutes.
    """
    given = experiment.resources
    return {
        "gpu": int(gpus and stage in GPU_STAGES and given.device != "cpu"),
        "mem_mb": math.ceil(given.memory_gib * 2**30 / 1e6),
        "runtime": math.ceil(given.hours * 60),
    }


def thread_environment(experiment: Experiment) -> dict[str, str]:
    """Return the environment variables that bound a job to its CPU threads."""
    return dict.fromkeys(THREAD_VARIABLES, str(experiment.resources.threads))


def visible_gpus() -> list[str]:
    """Return the ids of the GPUs that jobs may use, without importing torch."""
    if (chosen := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name.strip() for name in chosen.split(",") if name.strip() not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    listing = subprocess.run(command, capture_output=True, text=True, check=False)
    return listing.stdout.split() if listing.returncode == 0 else []


@contextlib.contextmanager
def own_gpu(
    gpus: list[str], folder: Path | None = None, interval: float = 1.0, *, share: int = 1
) -> Iterator[str | None]:
    """Hold a place on one of the GPUs for the block, the only GPU this process sees; None if there are none.

    Snakemake counts how many GPUs its jobs use and does not say which; lock files do, to all jobs of a user. SLURM
    counts from 0 in each of its allocations, so there they are an allocation's own.

    Args:
        gpus: ids of those that may be held.
        folder: of the lock files.
        interval: seconds between two looks where all are taken.
        share: places on each GPU; every GPU's first one is taken before any second.
    """
    if not gpus:
        yield None
        return
    shared = "-".join(filter(None, ["mutineck-gpus", str(os.getuid()), os.environ.get("SLURM_JOB_ID")]))
    folder = folder or Path(tempfile.gettempdir()) / shared
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        for place, gpu in itertools.product(range(share), gpus):
            with open(folder / (f"{gpu}.{place}" if place else gpu), "w", encoding="utf-8") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                os.environ["CUDA_VISIBLE_DEVICES"] = gpu
                yield gpu
                return
        time.sleep(interval)


def run_job(job: Job, root: Path, *, notebooks: Path, kernel_cwd: Path) -> Path:
    """Execute a job's notebook and return the executed notebook.

    Raises:
        NotebookError: it stopped, or it ended without writing its manifest.
        ExperimentError: the experiment in ``root`` has no such job.
    """
    experiment = load_experiment(root / EXPERIMENT_FILE)
    needs(experiment, job)
    os.environ.update(thread_environment(experiment))
    wants_gpu = job.stage in GPU_STAGES and experiment.resources.device != "cpu"
    with own_gpu(visible_gpus() if wants_gpu else [], share=experiment.resources.jobs_per_gpu):
        output = execute(
            notebooks / notebook_of(job.stage),
            root / job.folder / NOTEBOOK,
            parameters(experiment, root, job),
            kernel_cwd=kernel_cwd,
            log=root / job.log,
            label=str(job),
        )
    if not (root / job.manifest).is_file():
        raise NotebookError(f"{notebook_of(job.stage)} ended without study.finish(): {job.manifest} is missing")
    return output


def main(arguments: list[str] | None = None) -> int:
    """Run one job of a study by its folder: `python -m mutineck.running.job_run distillation/fgd-mean/seed0`."""
    parser = argparse.ArgumentParser(prog="python -m mutineck.running.job_run", description=main.__doc__)
    parser.add_argument("job", help="the job's folder in the study's: STAGE or STAGE/ITEM")
    parser.add_argument("--root", type=Path, default=Path(), help="the study's folder, outputs/EXPERIMENT")
    parser.add_argument("--notebooks", type=Path, default=repository() / "notebooks")
    parser.add_argument("--cwd", type=Path, default=Path.cwd(), help="working directory of the notebooks' code")
    given = parser.parse_args(arguments)
    end_with_parent()
    root = given.root.resolve()
    job = Job.at(given.job)
    (root / job.error).unlink(missing_ok=True)
    try:
        run_job(job, root, notebooks=given.notebooks, kernel_cwd=given.cwd)
    except (ExperimentError, NotebookError, OSError) as error:
        # A notebook's error says itself what to do.
        advice = remedy(str(error), root / job.folder) if isinstance(error, OSError) else ""
        text = f"{error}\n{advice}".strip()
        with contextlib.suppress(OSError):
            (root / job.error).write_text(f"{text}\n", encoding="utf-8")
        print(f"{job} stopped: {text}", file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
