"""What a GPU computes against the same on the CPU: `make gpu` runs these, and fails where torch sees no GPU."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mutineck.detection.evaluation import category_ids, predict
from mutineck.detection.frozen import FrozenDetector
from mutineck.detection.loading import inherit_weights
from mutineck.detection.prepare import prepare
from mutineck.detection.specs import FAMILIES
from mutineck.detectors.cache import TensorCache
from mutineck.detectors.folders import load_model
from mutineck.detectors.loaders import evaluation_loader
from mutineck.distillation import distil
from mutineck.features.extraction import extract
from mutineck.features.shards import load_features
from mutineck.study.experiment import INTERMEDIATE
from mutineck.study.experiment_file import repository
from mutineck.study.stage import Study
from mutineck.system.files import read_json
from mutineck.teachers.intermediate import prepare_intermediate
from tests.detection.tiny import SCHEDULE, derive, first_batch, random_detector, total
from tests.distillation.test_training import stoppable, weights
from tests.distillation.tiny import ARMS, box_masks, build, has_masks, link_intermediate, plant_centroids

pytestmark = pytest.mark.gpu
CUDA = torch.device("cuda", 0)
TAUGHT = [arm for arm in ARMS if arm != "student"]
DRAWING = "mgd:"
"""Arms whose loss hides cells at random: draws differ from device to device."""


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    """Let convolutions of the GPU keep float32's digits, as the CPU's do."""
    assert torch.cuda.is_available(), "torch sees no GPU: type `make doctor`"
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def on(device: torch.device, batch: dict[str, Any]) -> dict[str, Any]:
    """Return a batch with its tensors on a device."""

    def move(value: Any) -> Any:
        if isinstance(value, list):
            return [move(each) for each in value]
        return value.to(device) if isinstance(value, torch.Tensor) else value

    return {name: move(value) for name, value in batch.items()}


def relative(ours: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest difference as a share of the largest number."""
    return float((ours.cpu() - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["plain", "channels-last"])
def test_mmcv_pools_and_suppresses_as_on_the_cpu(layout: torch.memory_format) -> None:
    prepare()
    from mmcv.ops import RoIAlign, nms

    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 8, 32, 40, generator=generator).contiguous(memory_format=layout)
    corner, size = torch.rand(2, 50, 2, generator=generator) * 60
    boxes = torch.cat([corner, corner + size + 1], dim=1)
    regions = torch.cat([torch.arange(50).float()[:, None] % 2, boxes], dim=1)
    for sampling in (0, 2):
        pool = RoIAlign(7, 0.25, sampling)
        assert relative(pool(maps.to(CUDA), regions.to(CUDA)), pool(maps, regions)) < 1e-5
    scores = torch.rand(50, generator=generator)
    _, kept = nms(boxes.to(CUDA), scores.to(CUDA), 0.5)
    assert kept.tolist() == nms(boxes, scores, 0.5)[1].tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_frozen_teacher_sees_and_proposes_the_same(tiny: Study, family: str) -> None:
    model, config = load_model(tiny.path("teachers", family))
    names = config.categories
    here = FrozenDetector(family, copy.deepcopy(model), categories=names, student_categories=names)
    there = FrozenDetector(family, model, categories=names, student_categories=names)
    batch = first_batch(tiny, 3)
    maps = here.maps(batch["img"])
    found = there.maps(batch["img"].to(CUDA))
    for stride, expected in maps.items():
        assert relative(found[stride], expected) < 1e-4, stride
    # From the same maps: a score beside the threshold may fall to either side of it by rounding.
    proposals = there.proposals({stride: value.to(CUDA) for stride, value in maps.items()}, batch["img_metas"])
    for ours, expected in zip(proposals, here.proposals(maps, batch["img_metas"]), strict=True):
        assert abs(len(ours.scores) - len(expected.scores)) <= max(1, len(expected.scores) // 100)
        best = min(20, len(expected.scores), len(ours.scores))
        assert best > 0
        torch.testing.assert_close(ours.scores[:best].cpu(), expected.scores[:best], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(ours.boxes[:best].cpu(), expected.boxes[:best], rtol=1e-3, atol=2e-2)


def terms_of(study: Study, arm: str, device: torch.device, cache: TensorCache | None = None) -> dict[str, float]:
    """Return an arm's distillation terms on a batch, and how large the student's neck's gradients of them are."""
    distiller = build(study, arm).to(device)
    distiller.epoch = 1.0
    assert distiller.guidance is not None
    distiller.guidance.ensemble.cache = cache
    batch = first_batch(study, 3)
    if has_masks(distiller):
        batch["gt_masks"] = box_masks(batch)
    losses = distiller.forward_train(**on(device, batch))
    # mmdet draws which boxes to learn from on the device, so its own terms differ.
    ours = {name: value for name, value in losses.items() if "loss_kd" in name}
    assert ours, f"no term of distillation among {sorted(losses)}"
    total(ours).backward()
    squares = [p.grad.double().square().sum() for p in distiller.student.neck.parameters() if p.grad is not None]
    return {name: float(total({"loss": value}).detach()) for name, value in ours.items()} | {
        "gradient": float(sum(squares)) ** 0.5
    }


@pytest.mark.parametrize("arm", TAUGHT)
def test_an_arms_terms_are_those_of_the_cpu(ready: Study, arm: str, tmp_path: Path) -> None:
    expected = terms_of(ready, arm, torch.device("cpu"))
    found = terms_of(ready, arm, CUDA)
    if arm.startswith(DRAWING):
        assert found == pytest.approx(expected, rel=0.5)
        return
    assert found == pytest.approx(expected, rel=1e-2, abs=1e-5)
    filling = terms_of(ready, arm, CUDA, TensorCache(tmp_path, 1))
    assert filling == pytest.approx(expected, rel=5e-2, abs=1e-3)
    # What was kept comes from the disk to the GPU.
    assert terms_of(ready, arm, CUDA, TensorCache(tmp_path, 1)) == pytest.approx(filling, rel=1e-3, abs=1e-5)


def test_a_training_on_a_gpu_stops_goes_on_and_is_measured(
    tiny: Study, ready: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.detection.stopping import Stopped

    study = derive(
        tiny, tmp_path / "s", arms=["mutineck"], schedule={**SCHEDULE, "epochs": 3},
        distillation={"centroid_cosine": -1.0, "logits": 1.0}, resources={"device": "cuda"},
    )  # fmt: skip
    link_intermediate(study, ready.root)
    plant_centroids(study)
    study = study.at("distillation", "mutineck/seed0")
    steps = stoppable(monkeypatch, tmp_path / "hook", "1 2 raise")
    with pytest.raises(Stopped):
        distil(study)
    before = len(steps.read_text())
    torch.cuda.reset_peak_memory_stats()
    distil(study)
    assert torch.cuda.max_memory_allocated() > 0, "it did not train on the GPU"
    assert len(steps.read_text()) - before == 2 * 4, "the first epoch is not trained again"
    assert all(torch.isfinite(value).all() for value in weights(study).values() if value.is_floating_point())
    assert any(row["metric"] == "bbox_mAP" for row in read_json(study.folder / "metrics.json"))


def test_a_head_is_inherited_from_a_teacher_that_has_looked_there() -> None:
    heirs = []
    for device in (torch.device("cpu"), CUDA):
        heir, donor = random_detector("faster_rcnn", 4)[0], random_detector("faster_rcnn", 3)[0].to(device)
        inherit_weights(heir, donor, torch.tensor([2, -1, 0], device=device))
        heirs.append(heir.state_dict())
    assert all(torch.equal(heirs[0][name], value) for name, value in heirs[1].items())


def test_teachers_make_an_intermediate_teacher_there(tiny: Study, tmp_path: Path) -> None:
    study = derive(
        tiny, tmp_path / "s", arms=["mutineck"], intermediate={"gate": 1.0, "alignment_images": 4, "schedule": SCHEDULE},
        resources={"device": "cuda", "cache": "on"},
    )  # fmt: skip
    rows = prepare_intermediate(study.at("teachers", INTERMEDIATE))
    assert any(row["metric"] == "bbox_mAP" for row in rows)
    extract(study.at("features"))
    assert len(load_features(study.path("features", INTERMEDIATE))["vector"]) > 0


def test_it_detects_and_extracts_the_same(tiny: Study, tmp_path: Path) -> None:
    boxes, vectors = {}, {}
    for device in ("cpu", "cuda"):
        study = derive(tiny, tmp_path / device, "faster_rcnn", arms=["student"], resources={"device": device})
        model, config = load_model(study.path("teachers", "faster_rcnn"))
        ids = category_ids(study.need("dataset", "val.json"), config.categories)
        boxes[device] = predict(model, evaluation_loader(study, "val", batch=4), ids, device=torch.device(device))
        extract(study.at("features"))
        vectors[device] = load_features(study.path("features", "faster_rcnn"))
    assert len(boxes["cuda"]) == pytest.approx(len(boxes["cpu"]), rel=0.01)
    assert vectors["cuda"]["annotation_id"].tolist() == vectors["cpu"]["annotation_id"].tolist()
    assert vectors["cuda"]["vector"] == pytest.approx(vectors["cpu"]["vector"], rel=1e-2, abs=2e-3)  # kept as float16


def test_a_study_runs_on_a_gpu_several_jobs_on_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mutineck", "run", "smoke", "--outputs", str(tmp_path), "--profile", "gpus"]
    command += ["--set", "resources.jobs_per_gpu=8", "--set", "resources.device=cuda"]
    done = subprocess.run(command, cwd=repository(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert (tmp_path / "smoke" / "report.html").is_file()
