"""Who learns from what: gradients that must flow, and those that must not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mutineck.study.stage import Study
from tests.detection.tiny import first_batch, total
from tests.distillation.tiny import build, step, teachers_of


def moved(module: nn.Module) -> list[str]:
    """Return the names of the parameters that have a gradient other than zero."""
    return [name for name, p in module.named_parameters() if p.grad is not None and bool(p.grad.abs().sum() > 0)]


@pytest.mark.parametrize("arm", ["mutineck", "fgd:intermediate", "pkd:intermediate"])
def test_in_joint_mode_every_parameter_takes_part(joint: Study, arm: str) -> None:
    distiller = build(joint, arm)
    step(distiller, joint)
    idle = [name for name, p in distiller.named_parameters() if p.requires_grad and p.grad is None]
    assert not idle
    assert all(p.grad is None for teacher in teachers_of(distiller) for p in teacher.parameters())


def test_l_merge_teaches_alignment_gates_and_head_and_nobody_else(joint: Study) -> None:
    distiller = build(joint, "mutineck")
    batch = first_batch(joint)
    losses = distiller.forward_train(**batch)
    merge = {name: value for name, value in losses.items() if name.startswith("merge.")}
    assert {name for name in merge if "loss" in name} == {
        "merge.loss_rpn_cls",
        "merge.loss_rpn_bbox",
        "merge.loss_cls",
        "merge.loss_bbox",
    }
    total(merge).backward()
    learnt = moved(distiller.guidance.ensemble.joint)
    for part in ("backbone.neck.align", "backbone.neck.spatial", "backbone.neck.mix", "rpn_head", "roi_head"):
        assert any(name.startswith(f"detector.{part}") for name in learnt), part
    assert moved(distiller.student) == [] and moved(distiller.guidance.teacher_losses) == []


def test_the_students_losses_reach_the_student_and_its_adapters_alone(joint: Study) -> None:
    distiller = build(joint, "mutineck")
    distiller.epoch = 1.0
    losses = distiller.forward_train(**first_batch(joint))
    total({name: value for name, value in losses.items() if not name.startswith("merge.")}).backward()
    assert moved(distiller.guidance.ensemble.joint) == []
    assert moved(distiller.guidance.teacher_losses)
    assert any(name.startswith("backbone") for name in moved(distiller.student))


@pytest.mark.parametrize(
    ("arm", "parts"), [("mutineck-regions", {"backbone", "neck"}), ("mutineck", {"backbone", "neck", "roi_head"})]
)
def test_guidance_moves_what_makes_the_maps_and_with_regions_the_second_stage(
    ready: Study, arm: str, parts: set[str]
) -> None:
    distiller = build(ready, arm)
    distiller.epoch = 1.0
    losses = distiller.forward_train(**first_batch(ready))
    total({name: value for name, value in losses.items() if name.startswith("loss_kd")}).backward()
    assert {name.split(".")[0] for name in moved(distiller.student)} == parts


@pytest.mark.parametrize(
    "term", ["centre", "boundary", "background", "attention", "direction", "distance", "logits", "deltas"]
)
def test_every_term_reaches_the_student(ready: Study, term: str) -> None:
    distiller = build(ready, "mutineck")
    distiller.epoch = 1.0
    losses = distiller.forward_train(**first_batch(ready))
    value = losses[f"loss_kd_{term}"]
    if float(value) == 0:
        assert term == "boundary", "teachers of random weights may agree on every cell"
        return
    value.backward()
    assert moved(distiller.student.neck)


def test_teachers_are_never_in_train_mode_and_the_students_batchnorm_is(joint: Study, ready: Study) -> None:
    for study in (joint, ready):
        distiller = build(study, "mutineck")
        # mmcv's runner does this before every epoch.
        distiller.eval()
        distiller.train()
        assert not any(m.training for teacher in teachers_of(distiller) for m in teacher.modules())
        assert any(isinstance(m, nn.BatchNorm2d) and m.training for m in distiller.student.modules())


def test_teachers_stay_bit_identical_over_a_few_steps(joint: Study) -> None:
    distiller = build(joint, "mutineck")
    teachers = teachers_of(distiller)
    before = [{n: v.clone() for n, v in t.state_dict().items()} for t in teachers]
    optimiser = torch.optim.SGD(distiller.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-2)
    gates = distiller.guidance.ensemble.joint.merged.neck.spatial["8"]["0"].weight.clone()
    for _ in range(2):
        step(distiller, joint)
        optimiser.step()
    assert not torch.equal(distiller.guidance.ensemble.joint.merged.neck.spatial["8"]["0"].weight, gates)
    for teacher, state in zip(teachers, before, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in teacher.state_dict().items())


def test_what_joint_merging_adds_does_not_move_the_student(joint: Study) -> None:
    """The student's gradient is the same with L_merge in the total and without."""
    gradients = []
    for whole in (True, False):
        distiller = build(joint, "mutineck")
        torch.manual_seed(5)
        losses = distiller.forward_train(**first_batch(joint))
        total({n: v for n, v in losses.items() if whole or not n.startswith("merge.")}).backward()
        gradients.append([p.grad.clone() for p in distiller.student.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("arm", ["mutineck", "pkd:intermediate"])
def test_one_forward_pass_of_each_teacher_feeds_everything(
    joint: Study, arm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mutineck.detection.frozen import FrozenDetector

    calls = []
    maps = FrozenDetector.maps

    def counted(self: FrozenDetector, image: torch.Tensor) -> dict[int, torch.Tensor]:
        calls.append(self.name)
        return maps(self, image)

    monkeypatch.setattr(FrozenDetector, "maps", counted)
    distiller = build(joint, arm)
    distiller.guidance.ensemble.cache = None
    step(distiller, joint)
    assert sorted(calls) == ["faster_rcnn", "retinanet"]
