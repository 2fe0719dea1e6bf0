"""One training step of a full-size study with random weights: does it build, what does it hold, how long does it take.

    python -m benchmarks.full_scale COCO_FOLDER [--experiments coco voc] [--side 320] [--device cuda] [--steps 50]

The zoo's teachers are built from their published configs with random weights, so nothing is downloaded and the
numbers say nothing of accuracy. Any folder in COCO's layout (annotations/instances_{train,val}2017.json, train2017/,
val2017/) will do. Results are kept in `benchmarks/results/full_scale/CLASS.json`; `python scripts/results.py table`
writes docs/benchmarks.md from them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.study import random_study, take_step
from benchmarks.table import clock_of, machine, number, peak_resident
from mutineck.study.experiment import load_experiment
from mutineck.study.manifest import revision
from mutineck.study.stage import Study
from mutineck.system.files import read_json, write_json

RESULTS = Path(__file__).parent / "results" / "full_scale"
EXPERIMENTS = ("coco", "coco_fcos", "coco_retina", "voc")
BATCH = 2
VOC_NAMES = {
    "airplane": "aeroplane",
    "motorcycle": "motorbike",
    "couch": "sofa",
    "potted plant": "pottedplant",
    "dining table": "diningtable",
    "tv": "tvmonitor",
}
VOC_CATEGORIES = [
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
]


def overrides_of(name: str, pictures: Path, side: int, device: str) -> list[str]:
    """Return what makes a full-scale experiment one of random weights on a folder of pictures, `side` pixels long."""
    given = [
        f"dataset.root={pictures}",
        f"input.scale=[{side}, {round(side * 0.6)}]",
        "student.detector.pretrained=null",
        "intermediate.mode=joint",
        "distillation.centroid_cosine=-1",
        "evaluation={splits: [val], report: val, batch: 1}",
        f"resources.device={device}",
        "resources.workers=0",
        "dataset.limit=4",
    ]
    if name == "voc":
        categories, aliases = json.dumps(VOC_CATEGORIES), json.dumps(VOC_NAMES)
        given += ["dataset.format=coco", f"dataset.categories={categories}", f"dataset.aliases={aliases}"]
    return given


def prepare(name: str, pictures: Path, folder: Path, *, side: int, device: str, zoo: Path | None = None) -> Study:
    """Write data set, teachers of random weights, intermediate teacher and random centroids; return the study."""
    return random_study(load_experiment(name, overrides_of(name, pictures, side, device)), folder, zoo=zoo)


def train_steps(study: Study, *, steps: int = 1, batch: int = BATCH) -> dict[str, Any]:
    """Take training steps of the arm `mutineck` (forward, backward, optimiser) and return terms, seconds, memory.

    On one CPU thread, seconds are processor time: a neighbour on the machine is no part of them.
    """
    import mutineck.distillation.distiller  # noqa: F401  (registers it with mmdet)
    from mutineck.detection.evaluation import device_of
    from mutineck.detection.frozen import build_model
    from mutineck.detectors.loaders import evaluation_loader
    from mutineck.distillation.stage import distiller_config

    device = device_of(study.experiment.resources.device)
    config = distiller_config(study)
    distiller = build_model(config)
    distiller.init_weights()
    distiller.to(device).train()
    distiller.epoch = 1.0
    optimiser = torch.optim.SGD([p for p in distiller.parameters() if p.requires_grad], lr=1e-4, momentum=0.9)
    first = next(iter(evaluation_loader(study, "train", batch=batch)))
    data = {
        "img": first.image.to(device),
        "img_metas": first.metas,
        "gt_bboxes": [b[~crowd].to(device) for b, crowd in zip(first.boxes, first.crowd, strict=True)],
        "gt_labels": [v[~crowd].to(device) for v, crowd in zip(first.labels, first.crowd, strict=True)],
    }
    clock = clock_of(gpu=device.type == "cuda")
    seconds: list[float] = []
    for _ in range(steps):
        started = clock()
        outputs = take_step(distiller, data, optimiser)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(clock() - started)
    unused = [name for name, p in distiller.named_parameters() if p.requires_grad and p.grad is None]
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else peak_resident()
    return {
        "experiment": study.experiment.name,
        "teachers": [teacher.zoo or teacher.name for teacher in study.experiment.teachers],
        "student": study.experiment.student.detector.config or study.experiment.student.detector.family,
        "input": list(first.image.shape),
        "categories": len(config["categories"]),
        "terms": {name: value for name, value in outputs["log_vars"].items() if "loss" in name},
        "unused": unused,
        "parameters": sum(p.numel() for p in distiller.student.parameters()),
        "steps": steps,
        "clock": "processor" if clock is time.process_time else "wall",
        # The first steps pay for memory and kernels; of many, the later half tells.
        "seconds": statistics.median(seconds[len(seconds) // 2 :]),
        "peak_gib": peak / 2**30,
    }


def section(path: Path) -> str:
    """Return the table of what was kept in a file."""
    kept = read_json(path)
    where = kept["machine"]
    lines = [
        f"**{where['class']}.** {where['gpu'] or where['processor']}; one step of the arm `mutineck`, batch {BATCH}, "
        "random weights.",
        "",
        "| experiment | teachers | student | weights of it | categories | input | one step | peak memory |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in kept["rows"].items():
        height, width = row["input"][2:]
        taken = f"{number(row['seconds'], 's')} of {row['clock']} time"
        student = Path(row["student"]).stem
        cells = [f"`{name}`", " and ".join(row["teachers"]), student, f"{row['parameters'] / 1e6:.1f} M"]
        cells += [f"{row['categories']}", f"{width}x{height}", taken, f"{row['peak_gib']:.1f} GiB"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def main(arguments: list[str] | None = None) -> None:
    """Measure each experiment in a process of its own, keep what was found, and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--experiments", nargs="+", default=list(EXPERIMENTS), choices=EXPERIMENTS)
    parser.add_argument("--side", type=int, default=320, help="longer side of the input in pixels (published: 1333)")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON files")
    parser.add_argument("--single", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.single:
        with tempfile.TemporaryDirectory() as folder:
            name, pictures = options.experiments[0], options.pictures
            study = prepare(name, pictures, Path(folder), side=options.side, device=options.device)
            print(json.dumps(train_steps(study, steps=options.steps)))
        return
    if options.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the machine's class is what was measured on, not what it has
    here = machine()
    path = options.results / f"{here['class']}.json"
    rows = read_json(path)["rows"] if path.is_file() else {}
    for name in options.experiments:
        print(f"{name} ...", flush=True)
        command = [sys.executable, "-m", "benchmarks.full_scale", str(options.pictures), "--experiments", name]
        command += ["--side", str(options.side), "--steps", str(options.steps), "--device", options.device, "--single"]
        finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        measured = {"measured": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "revision": revision()}
        rows[name] = json.loads(finished.stdout.splitlines()[-1]) | measured
        # After each: a run that is stopped takes none of the others with it.
        write_json(path, {"machine": here, "rows": {name: rows[name] for name in EXPERIMENTS if name in rows}})
    print(section(path))


if __name__ == "__main__":
    main()
