"""Steps whose teachers are read from the cache: those that filled it bit for bit, and near those without one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from mutineck.detection.frozen import FrozenDetector
from mutineck.detectors.cache import TensorCache
from mutineck.study.stage import Study
from tests.detection.tiny import total
from tests.distillation.tiny import build, step

ARMS = ("fgd:faster_rcnn", "fgd:mean", "fgd:confidence", "adapters", "mutineck", "mutineck-regions", "pkd:intermediate")


def stepped(study: Study, arm: str, cache: TensorCache | None) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Return the terms of one step and the student's gradients."""
    distiller = build(study, arm)
    distiller.epoch = 1.0
    assert distiller.guidance is not None
    distiller.guidance.ensemble.cache = cache
    losses = step(distiller, study, images=3)
    terms = {name: total({"loss": value}).detach() for name, value in losses.items() if "loss" in name}
    return terms, [p.grad.clone() for p in distiller.student.parameters() if p.grad is not None]


def compare(study: Study, arm: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, _ = stepped(study, arm, None)
    filling, gradients = stepped(study, arm, TensorCache(folder, 1))
    monkeypatch.setattr(FrozenDetector, "maps", None)  # whoever runs a teacher from here on fails
    found, again = stepped(study, arm, TensorCache(folder, 1))
    assert found.keys() == plain.keys()
    for name, value in filling.items():
        assert torch.equal(found[name], value), name
        torch.testing.assert_close(value, plain[name], rtol=2e-2, atol=1e-4)
    assert all(torch.equal(a, b) for a, b in zip(gradients, again, strict=True))


@pytest.mark.parametrize("arm", ARMS)
def test_a_step_from_the_cache_is_the_step_that_filled_it(
    ready: Study, arm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare(ready, arm, tmp_path, monkeypatch)


def test_so_it_is_where_the_merge_neck_learns_in_the_students_run(
    joint: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare(joint, "mutineck", tmp_path, monkeypatch)


def test_arms_share_what_teachers_said(ready: Study, tmp_path: Path) -> None:
    cache = TensorCache(tmp_path, 1)
    stepped(ready, "fgd:mean", cache)
    kinds = {str(path.parent.parent.relative_to(tmp_path)).split("-")[0] for path in tmp_path.rglob("*.safetensors")}
    maps = set(tmp_path.rglob("maps/*/*.safetensors"))
    assert kinds == {"faster_rcnn", "retinanet"} and len(maps) == 2 * 3
    stepped(ready, "mutineck", cache)
    added = set(tmp_path.rglob("maps/*/*.safetensors")) - maps
    assert len(added) == 3 and all("intermediate-" in str(path) for path in added)


def test_the_intermediate_teacher_learns_from_the_cache_too(ready: Study, tmp_path: Path) -> None:
    from mutineck.detection.frozen import build_model
    from mutineck.detectors.folders import load_frozen
    from mutineck.teachers.intermediate import intermediate_config
    from tests.detection.tiny import first_batch

    teachers = [load_frozen(ready, t.name) for t in ready.experiment.teachers]
    config = intermediate_config(ready, teachers)
    config["backbone"]["cache"] = {"folder": str(tmp_path), "gib": 1}
    config["prior"] = True  # so that it asks for proposals, too
    batch = first_batch(ready)
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        model = build_model(config).train()
        torch.manual_seed(0)
        found.append(total(model.forward_train(**batch)).detach())
    assert len(list(tmp_path.rglob("maps/*/*.safetensors"))) == 4
    assert len(list(tmp_path.rglob("proposals-*/*/*.safetensors"))) == 4
    assert torch.equal(found[0], found[1])
    model.eval()
    with torch.no_grad():
        exact = model.extract_feat(batch["img"].flip(3))
    assert len(list(tmp_path.rglob("*.safetensors"))) == 8, "what is measured is neither rounded nor kept"
    assert not torch.equal(exact[0], exact[0].half().float())
