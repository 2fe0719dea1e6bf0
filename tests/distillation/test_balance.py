"""Balanced terms: by hand, on a distiller's own batch, through a stop in the middle of measuring, without boxes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mutineck.distillation import distil
from mutineck.distillation.balance import Balance
from mutineck.distillation.gradients import gradient_norms, loss_terms
from mutineck.study.stage import Study
from mutineck.system.errors import ExperimentError
from tests.detection.tiny import derive, experiment_of
from tests.distillation.test_training import EPOCHS, STEPS, curves, stoppable, study_of, weights
from tests.distillation.tiny import build, link_intermediate, plant_centroids, step


def toy(*slopes: float) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Return terms whose gradients have these norms, and the map that they are of."""
    maps = torch.ones(1, 1, 1, 1, requires_grad=True)
    return [slope * maps.sum() for slope in slopes], [maps]


class TestByHand:
    def test_a_term_has_its_ratio_of_what_was_measured_so_far_and_keeps_it(self) -> None:
        balance = Balance(2, {"cwd": 1.0, "centre": 0.25})
        factors = []
        # Norms of cwd, centre and detection in three steps; the third is measured no more.
        for cwd, centre, detection in ((4.0, 1.0, 8.0), (12.0, 1.0, 4.0), (99.0, 99.0, 1.0)):
            (*own, whole), maps = toy(cwd, centre, detection)
            terms = dict(zip(("cwd", "centre"), own, strict=True)) | {"idle": whole}
            balanced, found = balance(terms, dict.fromkeys(terms, 1.0), whole, maps)
            factors.append({name: float(value) for name, value in found.items()})
            assert gradient_norms([balanced["cwd"]], maps).item() == pytest.approx(cwd * factors[-1]["cwd"])
            assert balanced["idle"] is whole, "a term without a ratio stays as it is"
        assert factors[0] == {"cwd": 2.0, "centre": 2.0}
        assert factors[1] == {"cwd": 12 / 16, "centre": 0.25 * 12 / 2}
        assert factors[2] == factors[1]

    def test_a_warm_up_is_no_part_of_what_is_measured(self) -> None:
        balance = Balance(1, {"direction": 0.5})
        for warmth, factor in ((0.0, 1.0), (0.25, 4.0), (1.0, 4.0)):
            (term, whole), maps = toy(warmth * 1.0, 8.0)
            _, found = balance({"direction": term}, {"direction": warmth}, whole, maps)
            assert float(found["direction"]) == factor

    def test_a_term_that_is_zero_waits_and_is_measured_when_it_is_there(self) -> None:
        balance = Balance(1, {"cwd": 1.0, "boundary": 1.0})
        for boundary, expected in ((0.0, 1.0), (0.0, 1.0), (2.0, 5.0), (7.0, 5.0)):
            (cwd, term, whole), maps = toy(1.0, boundary, 10.0)
            terms, found = balance({"cwd": cwd, "boundary": term}, {"cwd": 1.0, "boundary": 1.0}, whole, maps)
            assert float(found["boundary"]) == expected
            assert float(terms["boundary"]) == boundary * expected

    def test_what_is_measured_lies_in_the_state(self) -> None:
        first, second = Balance(2, {"cwd": 1.0}), Balance(2, {"cwd": 1.0})
        for balance in (first, second):
            (cwd, whole), maps = toy(3.0, 6.0)
            second.load_state_dict(first.state_dict())
            _, found = balance({"cwd": cwd}, {"cwd": 1.0}, whole, maps)
        assert float(found["cwd"]) == 2.0 and second.count.item() == 2


def balanced_study(tiny: Study, ready: Study, root: Path, **weights: Any) -> Study:
    arms = {"mutineck": {"weights": weights or {"balance": 1, "cwd": 10.0}}, "fgd:mean": None}
    study = derive(tiny, root, arms=arms, distillation={"centroid_cosine": -1.0, "logits": 1.0})
    link_intermediate(study, ready.root)
    plant_centroids(study)
    return study


def test_on_the_measured_batch_each_term_has_the_ratio_asked_for(tiny: Study, ready: Study, tmp_path: Path) -> None:
    distiller = build(balanced_study(tiny, ready, tmp_path / "s"), "mutineck")
    distiller.epoch = 1.0
    kept: list[torch.Tensor] = []
    handle = distiller.student.neck.register_forward_hook(lambda _module, _inputs, outputs: kept.extend(outputs))
    from tests.detection.tiny import first_batch

    losses = distiller.forward_train(**first_batch(tiny))
    handle.remove()
    taught = {n.removeprefix("loss_kd_"): v for n, v in loss_terms(losses).items() if n.startswith("loss_kd_")}
    whole = sum(v for n, v in loss_terms(losses).items() if not n.startswith("loss_kd_"))
    *norms, detection = gradient_norms([*taught.values(), whole], kept).tolist()
    ratios = {name: norm / detection for name, norm in zip(taught, norms, strict=True)}
    boundary = ratios.pop("boundary")
    assert boundary == pytest.approx(0.25, rel=1e-5) or boundary == 0, "random teachers may agree on every cell"
    expected = dict.fromkeys(ratios, 0.25) | {"cwd": 1.0}
    assert ratios == pytest.approx(expected, rel=1e-5)
    assert {"cwd", "centre", "background", "attention", "global", "direction", "distance", "logits"} <= ratios.keys()
    assert float(losses["weight/cwd"]) > 0


def test_one_arm_is_balanced_and_another_is_not(tiny: Study, ready: Study, tmp_path: Path) -> None:
    study = balanced_study(tiny, ready, tmp_path / "s", balance=3)
    balanced, fixed = build(study, "mutineck"), build(study, "fgd:mean")
    assert balanced.guidance.balance.steps == 3 and "cwd" not in balanced.guidance.balance.ratios
    assert fixed.guidance.balance is None
    assert not any("balance" in name for name in fixed.state_dict())
    assert not any("balance" in name for name in balanced.student.state_dict())


def test_pictures_without_objects_leave_every_weight_finite(tiny: Study, ready: Study, tmp_path: Path) -> None:
    study = balanced_study(tiny, ready, tmp_path / "s")
    distiller = build(study, "mutineck")
    distiller.epoch = 1.0
    losses = step(distiller, study, empty=True)
    assert all(torch.isfinite(v).all() for name, v in losses.items() if "kd" in name or name.startswith("weight/"))
    assert float(losses["weight/direction"]) == 0.5, "not measured yet: the fixed weight"
    assert float(step(distiller, study)["weight/direction"]) != 0.5


def test_a_training_stopped_in_the_middle_of_measuring_ends_bit_for_bit_alike(
    tiny: Study, ready: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.detection.stopping import Stopped

    def study(name: str) -> Study:
        made = study_of(tiny, ready, tmp_path / name, epochs=2)
        spec = made.experiment.distillation.model_copy(update={"balance": STEPS + 2})
        made.experiment = made.experiment.model_copy(update={"distillation": spec})
        return made

    whole, stopped = study("whole"), study("stopped")
    distil(whole)
    stoppable(monkeypatch, tmp_path / "hook", "1 0 raise")
    with pytest.raises(Stopped):
        distil(stopped)
    state = torch.load(stopped.folder / "training" / "latest.pth", weights_only=True)["state_dict"]
    assert state["guidance.balance.count"].max() == STEPS
    distil(stopped)
    expected = weights(whole)
    assert all(torch.equal(value, expected[name]) for name, value in weights(stopped).items())
    rows = {(r["iteration"], r["term"]): r["value"] for r in curves(whole)}
    assert {(r["iteration"], r["term"]): r["value"] for r in curves(stopped) if "time" not in r["term"]} == {
        key: value for key, value in rows.items() if "time" not in key[1]
    }
    assert rows["8", "weight/centre"] != "5e-05" and EPOCHS > 2


@pytest.mark.parametrize(("given", "steps"), [("off", 0), (False, 0), (0, 0), (40, 40), (40.0, 40)])
def test_off_is_no_step(given: Any, steps: int) -> None:
    assert experiment_of(distillation={"balance": given}).distillation.balance == steps


@pytest.mark.parametrize("given", ["on", True])
def test_on_does_not_say_how_many_steps(given: Any) -> None:
    with pytest.raises((ValueError, ExperimentError), match="say in how many steps it is measured"):
        experiment_of(distillation={"balance": given})
