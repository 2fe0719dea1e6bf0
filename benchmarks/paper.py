"""What a full-scale study costs on paper: arithmetic is counted, the rest is assumed and said so.

    python -m benchmarks.paper [coco] [--pictures COCO_FOLDER] [--rate 40e12]

Counts the FLOPs of every network that takes part at 1333x800, times the loading of pictures if a folder is named, and
keeps both in `benchmarks/results/paper/`. What a GPU sustains is taken from a step that `benchmarks.full_scale` has
measured on one, if any is kept. `python scripts/results.py table` writes them into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.flops import Counts, count
from mutineck.study.experiment import Experiment, load_experiment
from mutineck.study.jobs import Job
from mutineck.study.stage import Study
from mutineck.system.files import read_json, write_json

RESULTS = Path(__file__).parent / "results" / "paper"
STEPS = Path(__file__).parent / "results" / "full_scale"
PICTURES = {"coco": 117_266}
"""Pictures of the training split with a target: those that mmdet trains on."""
VIEWS = 2
"""What augmentation makes of a picture: itself and its mirror image."""
FLEET = (1, 8, 64)
MOST = 8
"""GPUs for one arm: the published batch of 16 is two pictures on each."""


@dataclass(frozen=True)
class Assumptions:
    """What was neither counted nor measured.

    Attributes:
        rate: FLOP/s that a GPU sustains in these networks.
        memory: bytes a second that its memory moves.
        link: bytes a second at which GPUs of one machine exchange gradients.
        network: bytes a second at which machines do.
    """

    rate: float = 40e12
    memory: float = 1.5e12
    link: float = 100e9
    network: float = 12.5e9


@dataclass(frozen=True)
class Item:
    """A part of the study.

    Attributes:
        name: as the table has it.
        passes: over the training split.
        own: FLOPs of a picture for what learns.
        looking: FLOPs of a picture for frozen teachers.
        most: GPUs that it can use.
    """

    name: str
    passes: int
    own: float
    looking: float
    most: int

    @property
    def flops(self) -> float:
        """FLOPs of a picture."""
        return self.own + self.looking


def items(counts: Counts, experiment: Experiment) -> list[Item]:
    """Return the parts of a study that cost anything, in order; teachers of the zoo are not trained."""
    maps = sum(teacher.maps for teacher in counts.teachers.values())
    proposals = sum(teacher.proposals for teacher in counts.teachers.values())
    found = []
    merged = experiment.needs_intermediate
    if merged and experiment.intermediate.mode == "staged":
        spec = experiment.intermediate
        looking = maps + spec.prior * proposals
        found.append(Item("intermediate teacher", spec.schedule.epochs, counts.intermediate, looking, MOST))
    # The intermediate teacher's vectors take one more pass of all teachers.
    found.append(Item("features", 1, 0.0, maps + merged * (maps + counts.merge), FLEET[-1]))
    epochs = experiment.student.schedule.epochs
    for arm in experiment.arms:
        found.append(Item(f"`{arm}`", epochs, counts.training, looks(counts, experiment, arm), MOST))
    return found


def looks(counts: Counts, experiment: Experiment, arm: str) -> float:
    """Return the FLOPs that frozen teachers take of a picture in an arm's training, second stages compared left out."""
    spec = experiment.arm(arm)
    teachers = [counts.teachers[name] for name in spec.teacher_names([t.name for t in experiment.teachers])]
    return sum(t.maps + spec.needs_proposals * t.proposals for t in teachers) + spec.needs_intermediate * counts.merge


def exchange_seconds(counts: Counts, gpus: int, assumed: Assumptions) -> float:
    """Return the seconds in which a ring of GPUs adds up the student's gradients in float32."""
    bandwidth = assumed.link if gpus <= MOST else assumed.network
    return 2 * (gpus - 1) / gpus * 4 * counts.weights / bandwidth


def hours(item: Item, counts: Counts, pictures: int, batch: int, gpus: int, assumed: Assumptions) -> float:
    """Return how long a part takes on some GPUs; the exchange of gradients follows each step and overlaps nothing."""
    gpus = min(gpus, item.most)
    computing = item.passes * pictures * item.flops / assumed.rate / gpus
    steps = item.passes * pictures / batch if item.own else 0.0
    return (computing + steps * exchange_seconds(counts, gpus, assumed)) / 3600


def study_hours(parts: list[Item], took: dict[str, float], gpus: int) -> float:
    """Return how long a study takes: with GPUs enough for several arms, arms run side by side."""
    arms = [part for part in parts if part.name.startswith("`")]
    before = sum(took[part.name] for part in parts if part not in arms)
    rows = max(1, gpus // MOST)
    queues = [0.0] * rows
    for arm in sorted(arms, key=lambda part: -took[part.name]):
        queues[queues.index(min(queues))] += took[arm.name]
    return before + max(queues)


def loading_seconds(experiment: str, pictures: Path, *, most: int = 40) -> float:
    """Return the processor seconds in which a picture is read and augmented at full size, the median over some."""
    from mmdet.datasets import build_dataset

    import mutineck.detection.repeatable  # noqa: F401  (registers the data set with mmdet)
    from mutineck.dataset.stage import convert
    from mutineck.detectors.training import split_config

    with tempfile.TemporaryDirectory() as folder:
        study = Study(load_experiment(experiment, [f"dataset.root={pictures}"]), Path(folder), Job("dataset"))
        convert(study)
        categories = study.dataset.categories
        dataset = build_dataset(split_config(study, "train", categories, masks=False, test=False, seed=0))
        seconds = []
        for index in range(min(most, len(dataset))):
            started = time.process_time()
            dataset[index]
            seconds.append(time.process_time() - started)
    return statistics.median(seconds)


@dataclass(frozen=True)
class Measured:
    """A step that was measured on a GPU.

    Attributes:
        gpu: its name.
        size: height and width of the input.
        batch: pictures of the step.
        flops: of the step.
        seconds: that it took.
    """

    gpu: str
    size: tuple[int, int]
    batch: int
    flops: float
    seconds: float

    @property
    def rate(self) -> float:
        """FLOP/s sustained."""
        return self.flops / self.seconds


def measured_step(experiment: Experiment, steps: Path = STEPS) -> Measured | None:
    """Return the step of an experiment that `benchmarks.full_scale` has measured on a GPU, its FLOPs counted."""
    for path in sorted(steps.glob("*.json")):
        kept = read_json(path)
        row = kept["rows"].get(experiment.name)
        if row is None or kept["machine"]["gpu"] is None:
            continue
        batch, _, height, width = row["input"]
        counts = count(experiment, (height, width))
        # Its merge neck and head learn in the student's run, so that nothing has to be trained before.
        looking = sum(teacher.maps + teacher.proposals for teacher in counts.teachers.values())
        flops = batch * (counts.training + counts.intermediate + looking)
        return Measured(kept["machine"]["gpu"], (height, width), batch, flops, row["seconds"])
    return None


NOTES = """\
- **Counted** by `torch.utils.flop_counter` at {width}x{height}: the student takes {student:.0f} GFLOP forward and
  {training:.0f} with its backward pass, a teacher {maps:.0f} for its maps and {proposals:.0f} for proposals.
  {pictures} pictures at batch {batch} are {steps} steps an epoch, {all_steps} in {epochs} epochs. Evaluation,
  element-wise losses and clusters are left out.
{sustained}
- **Assumed**, until somebody measures: {guess}memory moves {memory:g} TB/s, an A100's; GPUs exchange gradients at
  {link:g} GB/s within a machine, {network:g} GB/s between machines. Other numbers:
  `python -m benchmarks.paper --rate 100e12`.
- **On {fleet} GPUs** arms run side by side, {most} GPUs each, at the published batch: {arms} arms keep {busy} busy,
  and the longest arm bounds the study; more seeds fill the rest. One arm on all {fleet} would have batch {large} at
  learning rate {large_rate:g}, which is no published setting.
- **What bounds it** are the GPUs. A step of the method takes {step:.0f} ms for {share} pictures on each of {most}
  GPUs; the exchange of {gradients:.0f} MB of gradients adds {near:.1f} ms within a machine, {far:.0f} ms between
  machines if nothing overlaps.{loading}
- **What folding saves**: a teacher's BatchNorm reads and writes {normalised:.1f} GB a picture, {normalising:.1f} ms
  beside {passing:.1f} ms of arithmetic: {folded:.0f} % of its pass.{folding}
- **What the cache would save**: teachers are {looking:.0f} % of all arithmetic. But the teachers' maps of a picture
  are {view:.0f} MB in float16, {views:.0f} TB for all pictures and their mirror images, and reading them is faster
  than computing only above {reading:.1f} GB/s a GPU. So `auto` leaves the cache off here: it is for thousands of
  pictures, not for a hundred thousand.
"""
SUSTAINED = """\
- **Measured** on one {gpu}: a step of {batch} pictures of {width}x{height}, in which the intermediate teacher
  learns, too ({flops:.1f} TFLOP counted), takes {ms:.0f} ms, so {rate:.0f} TFLOP/s, in float32 with TF32 in
  convolutions."""
GUESS = "a GPU sustains {rate:g} TFLOP/s; "
LOADING = """ To read and augment a picture takes {ms:.0f} ms of a core (measured):
  {method:.1f} cores a GPU keep up with the method, {student:.1f} with the student alone."""
FOLDING = """ On the CPU of the table
  above, all that freezing does makes it {ratio:.2f} times as fast (measured)."""


def section(path: Path, folding: float | None = None) -> str:
    """Return the section on a study.

    Args:
        path: what `main` kept.
        folding: how many times as fast a frozen teacher was measured to be, BatchNorm folded with the rest, if it was.
    """
    kept = read_json(path)
    counts, assumed = Counts.of(kept["counts"]), Assumptions(**kept["assumed"])
    experiment = load_experiment(counts.experiment)
    pictures, batch = PICTURES[counts.experiment], experiment.student.schedule.batch
    parts = items(counts, experiment)
    took = {gpus: {p.name: hours(p, counts, pictures, batch, gpus, assumed) for p in parts} for gpus in FLEET}
    lines = [
        f"| part of `{counts.experiment}` | passes | GFLOP a picture | of it teachers "
        f"| hours on {FLEET[0]} GPU | on {FLEET[1]} | on {FLEET[2]} |",
        "|---|---|---|---|---|---|---|",
    ]
    for part in parts:
        cells = [part.name, f"{part.passes}", f"{part.flops / 1e9:.0f}", f"{100 * part.looking / part.flops:.0f} %"]
        lines.append(f"| {' | '.join([*cells, *(_hours(took[gpus][part.name]) for gpus in FLEET)])} |")
    whole = " | ".join(f"**{_hours(study_hours(parts, took[gpus], gpus))}**" for gpus in FLEET)
    values = _values(counts, assumed, experiment, parts, kept["loading_seconds"], folding)
    notes = NOTES.format(**values, **_sustained(kept["measured"], assumed)).lstrip()
    return "\n".join([*lines, f"| **all** | | | | {whole} |", "", notes])


def _sustained(measured: dict[str, Any] | None, assumed: Assumptions) -> dict[str, str]:
    """Return what the notes say of the rate: measured, or assumed."""
    if measured is None:
        return {"sustained": "", "guess": GUESS.format(rate=assumed.rate / 1e12)}
    step = Measured(**measured)
    height, width = step.size
    told = {"gpu": step.gpu, "batch": step.batch, "width": width, "height": height, "ms": 1000 * step.seconds}
    return {"sustained": SUSTAINED.format(**told, flops=step.flops / 1e12, rate=step.rate / 1e12), "guess": ""}


def _hours(value: float) -> str:
    return f"{value:.2g}" if value < 10 else f"{value:.0f}"


def _values(
    counts: Counts,
    assumed: Assumptions,
    experiment: Experiment,
    parts: list[Item],
    loading: float | None,
    folding: float | None,
) -> dict[str, Any]:
    """Return what the notes say: FLOPs in 1e9, times in ms, rates in 1e9 or (a GPU's own) 1e12."""
    pictures, batch = PICTURES[counts.experiment], experiment.student.schedule.batch
    method, arms = parts[-1], [part for part in parts if part.name.startswith("`")]
    steps, share = -(-pictures // batch), batch // MOST
    teacher = next(iter(counts.teachers.values()))
    passing, normalising = teacher.maps / assumed.rate, 8 * teacher.normalised / assumed.memory
    view = 2 * counts.cells * counts.channels * len(counts.teachers)
    cores = {"method": method.flops, "student": counts.training}
    pace = {name: assumed.rate / flops * (loading or 0) for name, flops in cores.items()}
    return {
        "height": counts.size[0],
        "width": counts.size[1],
        "student": counts.student / 1e9,
        "training": counts.training / 1e9,
        "maps": teacher.maps / 1e9,
        "proposals": teacher.proposals / 1e9,
        "pictures": pictures,
        "batch": batch,
        "steps": steps,
        "all_steps": method.passes * steps,
        "epochs": method.passes,
        "memory": assumed.memory / 1e12,
        "link": assumed.link / 1e9,
        "network": assumed.network / 1e9,
        "fleet": FLEET[-1],
        "most": MOST,
        "arms": len(arms),
        "busy": min(FLEET[-1], MOST * len(arms)),
        "large": share * FLEET[-1],
        "large_rate": experiment.student.schedule.learning_rate * FLEET[-1] / MOST,
        "step": 1000 * share * method.flops / assumed.rate,
        "share": share,
        "gradients": 4 * counts.weights / 1e6,
        "near": 1000 * exchange_seconds(counts, MOST, assumed),
        "far": 1000 * exchange_seconds(counts, FLEET[-1], assumed),
        "loading": LOADING.format(ms=1000 * loading, **pace) if loading else "",
        "normalised": 8 * teacher.normalised / 1e9,
        "normalising": 1000 * normalising,
        "passing": 1000 * passing,
        "folded": 100 * normalising / (normalising + passing),
        "folding": FOLDING.format(ratio=folding) if folding else "",
        "looking": 100 * sum(p.looking * p.passes for p in parts) / sum(p.flops * p.passes for p in parts),
        "view": view / 1e6,
        "views": VIEWS * pictures * view / 1e12,
        "reading": view * assumed.rate / sum(t.maps for t in counts.teachers.values()) / 1e9,
    }


def main(arguments: list[str] | None = None) -> None:
    """Count, time what there is to time, keep both, and print its section."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.paper", description=main.__doc__)
    parser.add_argument("experiment", nargs="?", default="coco", choices=sorted(PICTURES))
    parser.add_argument("--pictures", type=Path, help="a folder in COCO's layout, to time the loading of pictures")
    parser.add_argument("--results", type=Path, default=RESULTS)
    for name, value in asdict(Assumptions()).items():
        default = None if name == "rate" else value
        parser.add_argument(f"--{name}", type=float, default=default, help=f"assumed; default {value:g}")
    given = parser.parse_args(arguments)
    experiment = load_experiment(given.experiment)
    measured = measured_step(experiment) if given.rate is None else None
    if given.rate is None:
        given.rate = measured.rate if measured else Assumptions.rate
    path = given.results / f"{given.experiment}.json"
    loading = read_json(path)["loading_seconds"] if path.is_file() else None
    if given.pictures:
        loading = loading_seconds(given.experiment, given.pictures)
    assumed = {name: getattr(given, name) for name in asdict(Assumptions())}
    kept = {"counts": asdict(count(experiment)), "assumed": assumed, "loading_seconds": loading}
    write_json(path, kept | {"measured": measured and asdict(measured)})
    print(section(path))


if __name__ == "__main__":
    main()
