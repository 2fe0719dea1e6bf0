"""One training step of a full-size study with random weights: does it build, what does it hold, how long does it take.

    python benchmarks/full_scale.py COCO_FOLDER [--experiments coco voc] [--side 320] [--device cuda] [--steps 50]

The zoo's teachers are built from their published configs with random weights, so nothing is downloaded and the
numbers say nothing of accuracy. Any folder in COCO's layout (annotations/instances_{train,val}2017.json, train2017/,
val2017/) will do.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.study import random_study
from mutineck.experiment import load_experiment
from mutineck.stage import Study

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
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
]


def overrides_of(name: str, pictures: Path, side: int, device: str) -> list[str]:
    """Return what makes a full-scale experiment one of random weights on a folder of pictures, `side` pixels long."""
    given = [
        f"dataset.root={pictures}",
        f"input.scale=[{side}, {round(side * 0.6)}]",
        "student.detector.pretrained=null",
        "intermediate.mode=joint",
        "distillation.centroid_cosine=-1",
        "evaluation.splits=[val]",
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
    """Take training steps of the arm `mutineck` (forward, backward, optimiser) and return terms, seconds, memory."""
    import mutineck.distillation.distiller  # noqa: F401  (registers it with mmdet)
    from mutineck.detection.evaluation import device_of, evaluation_loader
    from mutineck.detection.frozen import build_model
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
    seconds: list[float] = []
    for _ in range(steps):
        started = time.perf_counter()
        outputs = distiller.train_step(data, optimiser)
        optimiser.zero_grad()
        outputs["loss"].backward()
        optimiser.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    unused = [name for name, p in distiller.named_parameters() if p.requires_grad and p.grad is None]
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated()
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "experiment": study.experiment.name,
        "input": list(first.image.shape),
        "categories": len(config["categories"]),
        "terms": {name: value for name, value in outputs["log_vars"].items() if "loss" in name},
        "unused": unused,
        "parameters": sum(p.numel() for p in distiller.student.parameters()),
        # The first steps pay for memory and kernels; of many, the later half tells.
        "seconds": statistics.median(seconds[len(seconds) // 2 :]),
        "peak_gib": peak / 2**30,
    }


def main() -> None:
    """Measure each experiment in a process of its own and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--experiments", nargs="+", default=list(EXPERIMENTS), choices=EXPERIMENTS)
    parser.add_argument("--side", type=int, default=320, help="longer side of the input in pixels (published: 1333)")
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--single", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.single:
        with tempfile.TemporaryDirectory() as folder:
            name, pictures = options.experiments[0], options.pictures
            study = prepare(name, pictures, Path(folder), side=options.side, device=options.device)
            print(json.dumps(train_steps(study, steps=options.steps)))
        return
    print(f"| experiment | input | categories | student | one step, s ({options.device}) | peak memory, GiB |")
    print("|---|---|---|---|---|---|")
    for name in options.experiments:
        command = [sys.executable, __file__, str(options.pictures), "--experiments", name, "--single"]
        command += ["--side", str(options.side), "--steps", str(options.steps), "--device", options.device]
        finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        row = json.loads(finished.stdout.splitlines()[-1])
        size = "x".join(map(str, row["input"]))
        print(f"| `{name}` | {size} | {row['categories']} | {row['parameters'] / 1e6:.1f} M | "
              f"{row['seconds']:.2f} | {row['peak_gib']:.1f} |", flush=True)


if __name__ == "__main__":
    main()
