"""Checkpoints of likely layouts: which detector in them is meant, and what is said about the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mutineck.detection.checkpoint_layouts import find_detector
from mutineck.detection.loading import CheckpointError, load_strictly
from tests.detection.tiny import random_detector

State = dict[str, Tensor]


def under(prefix: str, state: State) -> State:
    return {prefix + name: value for name, value in state.items()}


def other(state: State) -> State:
    """Weights that must not be taken for the student's."""
    return {name: value + 1 for name, value in state.items()}


def averaged(state: State) -> State:
    """What mmcv's EMAHook leaves in a state dict."""
    return state | {f"ema_{name.replace('.', '_')}": value + 1 for name, value in state.items()}


ADAPTER = {"adapter.weight": torch.ones(2, 2)}
MULTI_NECK = {"multi_neck.0.conv.weight": torch.ones(2), "distill_losses.fgd.conv.weight": torch.ones(2)}

LAYOUTS: dict[str, tuple[Any, str]] = {
    "bare": (lambda s: s, ""),
    "mmcv": (lambda s: {"meta": {"epoch": 1}, "state_dict": s, "optimizer": {"state": {}}}, ""),
    "container in a container": (lambda s: {"model": {"state_dict": s}}, ""),
    "plain and averaged containers": (lambda s: {"state_dict": s, "state_dict_ema": other(s)}, "'state_dict' (state_dict_ema not used)"),
    "averaged alone": (lambda s: {"state_dict_ema": s}, ""),
    "data parallel": (lambda s: {"state_dict": under("module.", s)}, "the part 'module.'"),
    "compiled and wrapped": (lambda s: under("module._orig_mod.", s), "the part 'module._orig_mod.'"),
    "lightning": (lambda s: {"state_dict": under("model.", s) | {"criterion.weight": torch.ones(1)}}, "the part 'model.', 1 weights left aside (criterion)"),
    "averaged by torch": (lambda s: under("module.", s) | {"n_averaged": torch.tensor(3)}, "the part 'module.', 1 weights left aside (n)"),
    "student and teacher of FGD": (lambda s: {"state_dict": under("student.", s) | under("teacher.", other(s)) | MULTI_NECK}, "the part 'student.'"),
    "student and several teachers": (lambda s: under("module.student.", s) | under("module.teacher1.", other(s)) | under("module.teachers.0.", other(s)), "module.teacher1., module.teachers.0."),
    "mmrazor": (lambda s: under("architecture.student.", s) | under("distiller.teacher.", other(s)), "the part 'architecture.student.'"),
    "short names": (lambda s: under("model_s.", s) | under("model_t.", other(s)), "the part 'model_s.'"),
    "a student with teachers inside": (lambda s: s | under("teacher.", other(s)) | under("teacher_mask.", other(s)), "weights left aside (teacher., teacher_mask.)"),
    "averages in mmcv's buffers": (averaged, "weights left aside (ema)"),
    "model and its average": (lambda s: under("model.", s) | under("model_ema.", other(s)), "weights left aside (model_ema.)"),
    "a student's average and teachers": (lambda s: under("student.", s) | under("student_ema.", other(s)) | under("teacher.", other(s)), "the part 'student.'"),
    "a plain student with its adapters": (lambda s: s | ADAPTER | MULTI_NECK, "3 weights of no detector left aside (adapter, distill_losses, multi_neck)"),
}  # fmt: skip


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return random_detector("faster_rcnn", 3)[0]


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_likely_layout_is_loaded_whole_and_reported(name: str, model: nn.Module, tmp_path: Path) -> None:
    build, words = LAYOUTS[name]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    path = tmp_path / "MutiNeck-KD.pth"
    torch.save(build(state), path)
    receiver = random_detector("faster_rcnn", 3)[0]
    receiver.load_state_dict(other(receiver.state_dict()))
    report = load_strictly(receiver, path)
    assert report.complete and len(report.matched) == len(state)
    assert words in report.layout and bool(words) == ("read as: " in str(report)), report
    assert all(torch.equal(value, state[key]) for key, value in receiver.state_dict().items())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        pytest.param(
            lambda s: under("teacher.", s) | under("expert.", s),
            r"holds several detectors \(expert\., teacher\.\), and none is called a student",
            id="two teachers",
        ),
        pytest.param(lambda s: s | {"mask_head.w": torch.ones(1)}, "1 unexpected", id="a part that the model lacks"),
        pytest.param(
            lambda s: {n: v for n, v in s.items() if not n.startswith("neck")} | {"multi_neck.w": torch.ones(1)},
            r"missing, 1 unexpected(.|\n)*multi_neck",
            id="a neck by another name",
        ),
        pytest.param(lambda s: {"state_dict": {"student": 3}}, "holds no weights", id="nothing"),
    ],
)
def test_what_is_not_certain_is_refused(build: Any, message: str, model: nn.Module, tmp_path: Path) -> None:
    before = {key: value.clone() for key, value in model.state_dict().items()}
    torch.save(build(before), tmp_path / "MutiNeck-KD.pth")
    with pytest.raises(CheckpointError, match=message) as caught:
        load_strictly(model, tmp_path / "MutiNeck-KD.pth")
    assert "MutiNeck-KD.pth" in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_model_that_holds_a_detector_reads_its_own_state(model: nn.Module, tmp_path: Path) -> None:
    holder = nn.ModuleDict({"detector": model, "gate": nn.Linear(1, 1)})
    torch.save({"state_dict": holder.state_dict()}, tmp_path / "own.pth")
    assert load_strictly(holder, tmp_path / "own.pth").complete


def test_a_state_that_is_no_detector_is_left_as_it_is() -> None:
    state = {"layer.weight": torch.ones(1), "bias": torch.ones(1)}
    assert find_detector({"state_dict": state}) == (state, "")
    assert list(find_detector(under("module.", state))[0]) == list(state)
