"""One process against two that `torchrun` starts, on the same work: training steps, extraction, evaluation.

Times are the processor time of the process that takes most: what a second core that waits for work saves, whatever else
the machine does. The wall clock says the same where both cores are free; each row's note has it, with the load before.
Processes talk over gloo, so this measures no GPU.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.features import extract_again
from benchmarks.study import random_study, take_step
from benchmarks.table import Row, Target
from mutineck.detection.distributed import Processes, processes
from mutineck.study.experiment import load_experiment
from mutineck.study.experiment_file import repository
from mutineck.study.jobs import Job
from mutineck.study.stage import Study, write_experiment

IMAGES = 160
BATCH = 8
STEPS = 8
TURNS = 1
"""How often each number of processes is started."""
REPEATS = 2
"""How often each start extracts and evaluates."""
ALONE, TOGETHER = "one process", "two processes"
PROCESSES = {ALONE: 1, TOGETHER: 2}


def rows() -> list[Row]:
    """Measure three kinds of work on a study of the size of `shapes`, and how far the results of both are apart."""
    overrides = [f"dataset.shapes.images={IMAGES}", "resources.device=cpu", "resources.cache=off"]
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        study = random_study(load_experiment("shapes", overrides), Path(folder, "shapes"))
        write_experiment(study.experiment, study.root)
        found: dict[str, list[dict[str, Any]]] = {ALONE: [], TOGETHER: []}
        for turn in range(TURNS):
            for name in list(PROCESSES)[:: 1 if turn % 2 == 0 else -1]:
                found[name].append(start(study.root, PROCESSES[name]))
    note = f"load {load:.1f} on {len(os.sched_getaffinity(0))} cores before"
    one, two = found[ALONE][0], found[TOGETHER][0]
    pictures = len(set(one["vectors"]["image_id"].tolist()))
    return [
        _faster(f"a step of `mutineck`, batch {BATCH}, in two processes", "training", found, note),
        _faster(f"extraction from {pictures} pictures in two processes", "extraction", found, note),
        _faster(f"evaluation on {pictures} pictures in two processes", "evaluation", found, note),
        _apart("gradients of two processes and of one", gradients_apart(one["gradients"], two["gradients"]), 1e-5),
        _apart("vectors of two processes and of one", vectors_apart(one["vectors"], two["vectors"]), 1e-3),
        _apart("boxes of two processes and of one, pixels", boxes_apart(one["boxes"], two["boxes"]), 0.02),
    ]


def _faster(name: str, what: str, found: Mapping[str, list[dict[str, Any]]], note: str) -> Row:
    wall, processor = (
        [statistics.median(taken[clock] for each in found[n] for taken in each["seconds"][what]) for n in PROCESSES]
        for clock in (0, 1)
    )
    note = f"the busier one; {wall[0] / wall[1]:.2f} by the wall clock, {note}"
    return Row(name, processor[1], "s", ALONE, processor[0], processor[0] / processor[1], note=note)


def _apart(name: str, value: float, most: float) -> Row:
    return Row(f"largest difference of {name}", value, "", target=Target("at most", most))


def gradients_apart(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> float:
    """Return the largest difference of gradients by name, as a share of the largest number of each, or of 1."""
    if one.keys() != two.keys():
        raise ValueError(f"gradients of other weights: {sorted(one.keys() ^ two.keys())[:5]}")
    return max(float((two[name] - v).abs().max()) / max(1.0, float(v.abs().max())) for name, v in one.items())


def vectors_apart(one: Mapping[str, np.ndarray], two: Mapping[str, np.ndarray]) -> float:
    """Return the largest difference of the vectors of the same targets, as a share of the largest number."""
    first, second = (rows["vector"][np.argsort(rows["annotation_id"])].astype(np.float64) for rows in (one, two))
    if not np.array_equal(np.sort(one["annotation_id"]), np.sort(two["annotation_id"])):
        raise ValueError("vectors of other targets")
    return float(np.abs(first - second).max() / np.abs(first).max())


def boxes_apart(one: list[dict[str, Any]], two: list[dict[str, Any]]) -> float:
    """Return the largest difference of predicted boxes in pixels, in the order in which they were found."""
    where = [[(row["image_id"], row["category_id"]) for row in rows] for rows in (one, two)]
    if where[0] != where[1]:
        raise ValueError(f"{len(one)} and {len(two)} boxes, of other pictures or categories")
    return float(np.abs(np.array([row["bbox"] for row in one]) - np.array([row["bbox"] for row in two])).max())


def start(root: Path, count: int) -> dict[str, Any]:
    """Let `count` processes do all the work on a study, and return what the first of them wrote."""
    environment = os.environ | {"PYTHONPATH": str(repository()), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
    command += ["-m", "benchmarks.processes", str(root)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        # What torchrun itself says at the end is long, and is not why.
        own = [line for line in done.stderr.splitlines() if line.startswith("[rank")]
        raise RuntimeError("\n".join([f"{count} processes failed:", *(own[-20:] or [done.stderr[-3000:]])]))
    found = torch.load(root / "found.pt", weights_only=True)
    return found | {"vectors": {name: column.numpy() for name, column in found["vectors"].items()}}


def work(root: Path) -> None:
    """Do one process's share of the work on the study in a folder; the first writes `found.pt` there."""
    from mutineck.detectors.folders import load_frozen, load_model
    from mutineck.detectors.measuring import measure_split
    from mutineck.features.shards import load_features

    torch.set_num_threads(1)
    study = Study(load_experiment(root / "experiment.yaml"), root, Job("distillation", "mutineck/seed0"))
    teacher = study.experiment.teachers[0].name
    with processes() as group:
        training, gradients = train_steps(study, group)
        vectors = study.path("features", teacher)
        frozen = load_frozen(study, teacher)
        model, _ = load_model(study.path("teachers", teacher))
        boxes: list[dict[str, Any]] = []

        def evaluate() -> None:
            boxes[:] = measure_split(study, model, study.dataset.categories, split="train", group=group)[0]

        extraction = timed(partial(extract_again, study, frozen, group, shard_images=BATCH), group)
        evaluation = timed(evaluate, group)
        if group.rank == 0:
            columns = load_features(vectors, ["image_id", "annotation_id", "vector"])
            rows = {name: torch.tensor(column) for name, column in columns.items()}
            seconds = {"training": training, "extraction": extraction, "evaluation": evaluation}
            torch.save({"seconds": seconds, "gradients": gradients, "vectors": rows, "boxes": boxes}, root / "found.pt")
        group.wait()


def timed(run: Callable[[], object], group: Processes, repeats: int = REPEATS) -> list[tuple[float, float]]:
    """Return, for each of several times after a first, the seconds until every process has done its share.

    Beside those of the wall clock stand the processor seconds of the process that took most.
    """
    seconds = []
    for _ in range(repeats + 1):
        group.wait()
        started, worked = time.perf_counter(), time.process_time()
        run()
        worked = time.process_time() - worked
        group.wait()
        seconds.append((time.perf_counter() - started, max(group.gather([worked]))))
    return seconds[1:]


def train_steps(study: Study, group: Processes) -> tuple[list[tuple[float, float]], dict[str, Tensor]]:
    """Take training steps on this process's share of one batch; return seconds (see `timed`) and the first gradients.

    What halves of a batch cannot agree on is set aside: samplers take the first samples, BatchNorm its running numbers.
    """
    from mutineck.detection.prepare import prepare

    prepare()  # before what it mends is imported: mmdet's own `build_ddp` knows no CPU
    from mmdet.core.bbox.samplers import RandomSampler
    from mmdet.utils import build_ddp

    import mutineck.distillation.distiller  # noqa: F401  (registers it with mmdet)
    from mutineck.detection.frozen import build_model
    from mutineck.detectors.loaders import evaluation_loader
    from mutineck.distillation.stage import distiller_config
    from mutineck.system.seeding import seed_everything

    RandomSampler.random_choice = first
    config = distiller_config(study)
    config["student"]["backbone"]["norm_eval"] = True
    seed_everything(0)
    distiller = build_model(config)
    distiller.init_weights()
    distiller.train()
    distiller.epoch = 1.0
    batch = next(iter(evaluation_loader(study, "train", batch=BATCH)))
    mine = slice(group.rank * BATCH // group.size, (group.rank + 1) * BATCH // group.size)
    data = {
        "img": batch.image[mine],
        "img_metas": batch.metas[mine],
        "gt_bboxes": batch.boxes[mine],
        "gt_labels": batch.labels[mine],
    }
    shared = build_ddp(distiller, "cpu", broadcast_buffers=False) if group.size > 1 else distiller
    optimiser = torch.optim.SGD([p for p in distiller.parameters() if p.requires_grad], lr=1e-4)
    gradients: dict[str, Tensor] = {}

    def step() -> None:
        take_step(shared, data, optimiser)
        if not gradients:
            gradients.update((n, p.grad.clone()) for n, p in distiller.named_parameters() if p.grad is not None)

    return timed(step, group, STEPS), gradients


def first(_sampler: Any, gallery: Any, number: int) -> Any:
    """Stand for mmdet's random choice of samples: what is drawn must not depend on who draws."""
    return gallery[:number]


if __name__ == "__main__":
    work(Path(sys.argv[1]))
