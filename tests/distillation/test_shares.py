"""Norms of gradients at the student's maps, by hand and by another way."""

from __future__ import annotations

import pytest
import torch

from mutineck.distillation.gradients import gradient_norms, gradient_shares, loss_terms
from mutineck.study.stage import Study
from tests.detection.tiny import first_batch, total
from tests.distillation.tiny import build, step


def two_maps() -> list[torch.Tensor]:
    return [torch.zeros(1, 1, 2, 2, requires_grad=True), torch.ones(1, 1, 1, 1, requires_grad=True)]


def test_norms_are_over_all_maps_together() -> None:
    maps = two_maps()
    terms = [3 * maps[0].sum() / 2 + 4 * maps[1].sum(), maps[1].square().sum(), torch.zeros(()), (0 * maps[0]).sum()]
    # 3/2 in each of four cells and 4 in one: the root of 9 + 16.
    assert gradient_norms(terms, maps).tolist() == [5.0, 2.0, 0.0, 0.0]
    assert all(m.grad is None for m in maps)


def test_shares_are_of_the_sum_of_norms_by_the_terms_that_mmdet_adds_up() -> None:
    maps = two_maps()
    losses = {
        "loss_cls": [maps[0].sum(), 0.5 * maps[0].sum()],  # a norm of 1.5 * 2
        "s0.loss_bbox": maps[1].sum() * torch.tensor([0.5, 1.5]),  # the mean: 1
        "loss_kd_cwd": 4 * maps[1].sum(),
        "merge.loss_cls": maps[0].sum(),
        "acc": maps[0].sum(),
    }
    assert gradient_shares(losses, maps) == {"loss_cls": 0.375, "s0.loss_bbox": 0.125, "loss_kd_cwd": 0.5}


def test_without_any_gradient_all_shares_are_0() -> None:
    assert gradient_shares({"loss_cls": torch.zeros(())}, two_maps()) == {"loss_cls": 0.0}


def test_a_distillers_shares_are_those_of_its_terms_backward(ready: Study) -> None:
    """Each term's backward pass by itself, its gradient read where the neck's outputs keep it."""
    distiller = build(ready, "mutineck")
    distiller.epoch, distiller.measures = 1.0, True
    kept: list[torch.Tensor] = []

    def keep(_module: torch.nn.Module, _inputs: object, outputs: tuple[torch.Tensor, ...]) -> None:
        kept.extend(outputs)
        for output in outputs:
            output.retain_grad()

    handle = distiller.student.neck.register_forward_hook(keep)
    losses = distiller.forward_train(**first_batch(ready))
    handle.remove()
    norms = {}
    for name, value in loss_terms(losses).items():
        for output in kept:
            output.grad = None
        value.backward(retain_graph=True)
        norms[name] = sum(float(o.grad.double().square().sum()) for o in kept if o.grad is not None) ** 0.5
    whole = sum(norms.values())
    assert distiller.shares == pytest.approx({name: norm / whole for name, norm in norms.items()}, rel=1e-5)
    assert {"loss_rpn_cls", "loss_cls", "loss_kd_attention", "loss_kd_direction", "loss_kd_logits"} <= norms.keys()


def test_a_measured_step_has_the_gradients_of_one_that_is_not(ready: Study) -> None:
    found = []
    for measures in (False, True):
        distiller = build(ready, "mutineck")
        distiller.epoch, distiller.measures = 1.0, measures
        torch.manual_seed(3)
        losses = distiller.forward_train(**first_batch(ready))
        total(losses).backward()
        found.append({name: p.grad for name, p in distiller.named_parameters() if p.requires_grad})
        assert bool(distiller.shares) == measures
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())
    step(distiller, ready)  # and the next one, too


def test_a_batch_without_objects_has_shares(ready: Study) -> None:
    distiller = build(ready, "mutineck")
    distiller.measures = True
    step(distiller, ready, empty=True)
    assert sum(distiller.shares.values()) == pytest.approx(1)
    assert distiller.shares["loss_kd_direction"] == 0
