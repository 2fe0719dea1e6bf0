"""What each field of an experiment makes stale: every field is placed here, and the code agrees."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from mutineck.study.experiment import Experiment, _record_in, load_experiment
from mutineck.study.jobs import jobs
from mutineck.study.settings import settings_text
from mutineck.system.records import Record

DETECTOR = {"family": "faster_rcnn"}
EXPERIMENT = {
    "name": "tiny",
    "dataset": {"format": "voc", "hide": {"parts": [{"name": "p"}, {"name": "q"}]}},
    "teachers": [
        {"name": "big", "detector": DETECTOR, "schedule": {}},
        {"name": "zoo", "zoo": "retinanet_r50_fpn_1x_coco"},
        {
            "name": "mine",
            "config": "own.py",
            "checkpoint": "own.pth",
            "normalisation": {"mean": [0, 0, 0], "std": [9, 9, 9], "to_rgb": True},
        },
        {"name": "theirs", "study": "outputs/theirs", "teacher": "big"},
    ],
    "student": {"detector": DETECTOR},
    "arms": {"student": None, "fgd:big": None, "fgd:intermediate": None, "mutineck": None},
}
TEACHERS, TAUGHT, TABLES = {"big", "zoo", "mine", "theirs"}, {"fgd-big", "fgd-intermediate", "mutineck"}, {"tables"}
STUDENTS = {"student", *TAUGHT}
MEASURED = {*TEACHERS, "intermediate", *STUDENTS}
NOTHING: set[str] = set()

DETECTORS = """family=gfl backbone=resnet18 depth=50 base_channels=32 neck_channels=64 head_channels=64 anchor_scale=4
    config=faster_rcnn/other.py pretrained=torchvision://resnet50"""
SCHEDULE = """epochs=7 batch=3 learning_rate=0.5 base_batch=2 optimizer=adamw momentum=0.5 weight_decay=0.5 clip=1
    warmup=3 steps=[0.5]"""
PLACED = [
    ("", "name=other description=words relative_to=/elsewhere", NOTHING),
    ("", "seeds=[0,1]", TABLES),
    ("", "teacher_seed=1", {"big", "intermediate"}),
    ("dataset", "strict=true download=true", NOTHING),
    ("dataset", "crowd=background", {"big", "intermediate", *STUDENTS}),
    (
        "dataset",
        'format=coco root=a split=null seed=3 negatives=false categories=[cat] aliases={"a":"b"} voc_offset=0 limit=9 pictures=a.txt',
        {"dataset"},
    ),
    ("dataset.shapes", "images=99 size=[9,9] max_objects=3", {"dataset"}),
    (
        "dataset.sources.a",
        'name=b root=b format=coco categories=[cat] aliases={"a":"b"} split=[1,1,1] voc_offset=0',
        {"dataset"},
    ),
    ("dataset.hide", "splits=[train,val] seed=3", {"dataset"}),
    ("dataset.hide.parts.p", "name=r categories=[cat] share=3", {"dataset"}),
    ("input", "scale=[9,9] mean=[1,2,3] std=[1,2,3] to_rgb=false", {*MEASURED, "features"}),
    ("input", "flip=0.2 multiscale=[0.5,2] photometric=true crop=0.5", {"big", "intermediate", *STUDENTS}),
    ("teachers.big.detector", DETECTORS, {"big"}),
    ("teachers.big.schedule", SCHEDULE, {"big"}),
    ("teachers.big.sees", "brightness=dark area=small", {"big"}),
    ("teachers.big", 'categories=[cat] aliases={"a":"b"} source=p seed=3', {"big"}),
    ("teachers.big", "floor=0.5", TABLES),
    ("teachers.zoo", "zoo=other", {"zoo"}),
    ("teachers.mine", "config=b.py checkpoint=b.pth", {"mine"}),
    ("teachers.mine.normalisation", "mean=[1,2,3] std=[1,2,3] to_rgb=false", {"mine"}),
    ("teachers.theirs", "study=outputs/others teacher=small", {"theirs"}),
    ("teachers.mine", "name=other", {"mine", "intermediate", "features", "fgd-intermediate", "mutineck", *TABLES}),
    ("intermediate", "mode=joint head=anchor prior=true ridge=0.5 alignment_images=9 seed=3", {"intermediate"}),
    ("intermediate", "gate=0.5", TABLES),
    ("intermediate.schedule", SCHEDULE, {"intermediate"}),
    ("features", "pooled=full minimum_size=9", {"features"}),
    ("features", "batch=3", NOTHING),
    ("clusters", "k=5 restarts=3 seed=3 minimum_share=0.2 sample_per_category=9", {"clusters"}),
    ("student.detector", DETECTORS, STUDENTS),
    ("student.schedule", SCHEDULE, STUDENTS),
    ("student", "inherit=true", TAUGHT),
    (
        "distillation",
        """temperature=2 alpha=1 beta=1 gamma=1 lambda=1 centroid=1 centroid_distance=1 centroid_cosine=0 centroid_loss=contrast peer=1 cwd=1
        warmup_epochs=1 strides=[8]""",
        TAUGHT,
    ),
    # Second stages are compared in arms with regions, and the proposals counted only there where they are.
    ("distillation", "logits=1", {"mutineck"}),
    ("distillation", "logit_proposals=3", NOTHING),
    ("distillation", "shares_every=3", NOTHING),
    ("distillation", "balance=3", TAUGHT),
    (
        "distillation.ratios",
        """foreground=1 centre=1 boundary=1 background=1 attention=1 global=1 cwd=2 mgd=2 pkd=2 direction=1 distance=1
        contrast=1 logits=1 deltas=1""",
        NOTHING,
    ),
    (
        "distillation.regions",
        "iou=0.2 score=0.2 top=3 quality_temperature=2 region=0.5 centre=0.5 rho=3",
        TAUGHT,
    ),
    (
        "arms.fgd:big",
        'feature=cwd source=zoo regions=true centroids=true start=big epochs=3 weights={"alpha":1}',
        {"fgd-big"},
    ),
    ("evaluation", "splits=[test]", NOTHING),
    ("evaluation", "report=val", TABLES),
    ("evaluation", "batch=3", NOTHING),
    ("checks", "on_weak=stop", NOTHING),
    ("resources", "threads=3 workers=3 memory_gib=3 hours=3 device=cpu jobs_per_gpu=3 cache_gib=3", NOTHING),
    # Maps that go through the cache are rounded.
    ("resources", "cache=off", {"intermediate", *TAUGHT}),
]
"""Where a record stands, some of its fields with another value each, and the jobs that are stale with it."""


CASES = [
    (f"{place}.{field}".lstrip("."), value, stale)
    for place, fields, stale in PLACED
    for field, _, value in (item.partition("=") for item in fields.split())
]


def leaves(record: type[Record], path: str = "") -> Iterator[str]:
    """Yield the path of every field; in lists and mappings, of their items'."""
    for name, field in record.model_fields.items():
        inner, place = _record_in(field.annotation, typing), f"{path}{field.alias or name}"
        yield from leaves(inner, f"{place}.") if inner else [place]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("experiments") / "tiny.yaml"
    path.write_text(yaml.safe_dump(EXPERIMENT, sort_keys=False))
    return path


def settings(experiment: Experiment) -> dict[str, str]:
    """Return each job's settings; the tables are the last two stages, which read alike."""
    found = {}
    for job in jobs(experiment):
        name = "tables" if job.stage in ("ablations", "figures") else (job.item or job.stage).split("/")[0]
        found[name] = settings_text(experiment, job)
    return found


def test_every_field_is_placed_once() -> None:
    named = re.compile(r"(?<=teachers\.)(big|zoo|mine|theirs)\.|(?<=arms\.)fgd:big\.|(?<=parts\.)p\.|(?<=sources\.)a\.")
    assert sorted(named.sub("", path) for path, *_ in CASES) == sorted(leaves(Experiment))


@pytest.mark.parametrize(("path", "value", "stale"), CASES, ids=[path for path, *_ in CASES])
def test_a_field_concerns_these_jobs_and_no_other(file: Path, path: str, value: str, stale: set[str]) -> None:
    given = ["dataset.hide=null", "dataset.sources=[{name: a, root: r}]"] if path.startswith("dataset.sources.") else []
    before, after = (settings(load_experiment(file, overrides)) for overrides in (given, [*given, f"{path}={value}"]))
    assert {name for name in before if before[name] != after.get(name)} == stale


@pytest.mark.parametrize(
    ("given", "changed", "stale"),
    [
        (["intermediate.mode=prior"], "distillation.regions.iou=0.2", {"intermediate", *TAUGHT}),
        (["intermediate.prior=true"], "distillation.regions.iou=0.2", {"intermediate", *TAUGHT}),
        (["intermediate.mode=joint"], "intermediate.schedule.epochs=9", NOTHING),
        (["distillation.balance=3"], "distillation.ratios.cwd=2", TAUGHT),
        (['arms.fgd:big.weights={"balance":3}'], "distillation.ratios.cwd=2", {"fgd-big"}),
        (["distillation.logits=1"], "distillation.logit_proposals=9", {"mutineck"}),
        ([], "evaluation={splits: [val], report: val}", {*MEASURED, *TABLES}),
    ],
    ids=[
        "prior alone",
        "prior beside gates",
        "not trained by itself",
        "ratios",
        "ratios of an arm",
        "compared second stages",
        "splits",
    ],
)
def test_whether_a_field_is_read_may_depend_on_another(
    file: Path, given: list[str], changed: str, stale: set[str]
) -> None:
    before, after = (settings(load_experiment(file, overrides)) for overrides in (given, [*given, changed]))
    assert {name for name in before if before[name] != after[name]} == stale
