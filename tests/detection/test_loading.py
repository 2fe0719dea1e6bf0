"""Checkpoints that fit, and every kind that does not: refused whole, with counts, and never executed."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mutineck.detection.frozen import detector_categories
from mutineck.detection.loading import (
    CheckpointError,
    LoadReport,
    load_strictly,
    match_weights,
    read_checkpoint,
    read_weights,
    write_checkpoint,
)
from tests.detection.tiny import random_detector


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return random_detector("faster_rcnn", 3)[0]


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def spoilt(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value + 1 for name, value in model.state_dict().items()}


@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(lambda state: state, id="bare"),
        pytest.param(lambda state: {"state_dict": state, "meta": {"epoch": 3}}, id="mmcv"),
        pytest.param(lambda state: {"model": state}, id="model"),
        pytest.param(lambda state: {"state_dict": {f"module.{n}": v for n, v in state.items()}}, id="module."),
        pytest.param(
            lambda state: {f"student.{n}": v for n, v in state.items()} | {"teacher.w": torch.ones(1)}, id="student."
        ),
        pytest.param(
            lambda state: {f"module.student.{n}": v for n, v in state.items()} | {"module.adapter": torch.ones(1)},
            id="module.student.",
        ),
        pytest.param(
            lambda state: {n: v for n, v in state.items() if not n.endswith("num_batches_tracked")},
            id="without-counters",
        ),
    ],
)
def test_every_layout_of_a_checkpoint_loads_whole(model: nn.Module, tmp_path: Path, wrap: Any) -> None:
    state = {name: value.clone() for name, value in model.state_dict().items()}
    path = saved(tmp_path / "weights.pth", wrap(state))
    other = random_detector("faster_rcnn", 3)[0]
    other.load_state_dict(spoilt(other))
    report = load_strictly(other, path)
    assert report.complete
    for name, value in other.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(value, state[name]), name


def test_what_holds_a_detector_is_loaded_as_it_stands(model: nn.Module, tmp_path: Path) -> None:
    def around() -> nn.Module:
        return nn.ModuleDict({"detector": random_detector("faster_rcnn", 3)[0], "gate": nn.Linear(2, 2)})

    first, second = around(), around()
    first.load_state_dict({name: value + 1 for name, value in first.state_dict().items()})
    report = load_strictly(second, saved(tmp_path / "around.pth", {"state_dict": first.state_dict()}))
    assert report.complete
    assert all(torch.equal(value, first.state_dict()[name]) for name, value in second.state_dict().items())


def test_one_altered_prefix_is_refused_with_counts_and_nothing_is_loaded(model: nn.Module, tmp_path: Path) -> None:
    state = spoilt(model)
    neck = [name for name in state if name.startswith("neck.")]
    altered = {name.replace("neck.", "fpn.", 1) if name in neck else name: value for name, value in state.items()}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError) as error:
        load_strictly(model, saved(tmp_path / "altered.pth", altered))
    text = str(error.value)
    matched = len(state) - len(neck)
    assert f"{matched} matched, {len(neck)} missing, {len(neck)} unexpected, 0 of another shape" in text
    assert "altered.pth" in text and "neck.fpn_convs.0.conv.bias" in text and "fpn.fpn_convs.0.conv.bias" in text
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_another_number_of_categories_is_refused_naming_both_shapes(model: nn.Module, tmp_path: Path) -> None:
    other = random_detector("faster_rcnn", 5)[0]
    with pytest.raises(CheckpointError, match=r"2 of another shape") as error:
        load_strictly(model, saved(tmp_path / "five.pth", other.state_dict()))
    assert "roi_head.bbox_head.fc_cls.bias (checkpoint (6,), model (4,))" in str(error.value)


def test_non_finite_weights_are_refused_by_name(model: nn.Module, tmp_path: Path) -> None:
    state = {name: value.clone() for name, value in model.state_dict().items()}
    state["rpn_head.rpn_cls.bias"][0] = torch.nan
    state["neck.lateral_convs.1.conv.weight"][0] = torch.inf
    with pytest.raises(CheckpointError, match=r"non-finite weights in 2 tensors: .*rpn_head.rpn_cls.bias"):
        load_strictly(model, saved(tmp_path / "nan.pth", state))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.9], ids=["empty", "tenth", "nine-tenths"])
def test_a_truncated_file_is_refused_as_damaged(model: nn.Module, tmp_path: Path, share: float) -> None:
    path = saved(tmp_path / "cut.pth", model.state_dict())
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError, match=r"cut\.pth: (damaged or truncated|not read)"):
        load_strictly(model, path)


class Payload:
    """Creates a file when it is unpickled by a reader that trusts."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.target),)


def test_a_file_of_a_newer_torch_is_said_to_be_one(model: nn.Module, tmp_path: Path) -> None:
    path, newer = saved(tmp_path / "now.pth", model.state_dict()), tmp_path / "newer.pth"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(newer, "w", zipfile.ZIP_STORED) as new:
        for item in old.infolist():
            new.writestr(item.filename, b"99\n" if item.filename.endswith("/version") else old.read(item))
    with pytest.raises(CheckpointError, match=r"newer\.pth: written by a newer torch, which this 2\..* cannot read"):
        load_strictly(model, newer)


def rewritten(path: Path, change: Callable[[bytes], bytes]) -> Path:
    """Return a copy of a checkpoint whose pickle is another one."""
    copy = path.with_stem(f"{path.stem}_rewritten")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(copy, "w", zipfile.ZIP_STORED) as new:
        for item in old.infolist():
            content = old.read(item)
            new.writestr(item.filename, change(content) if item.filename.endswith("/data.pkl") else content)
    return copy


def test_what_numpy_1_wrote_is_read_as_what_numpy_2_did(tmp_path: Path) -> None:
    scores = {"best": np.float64(0.25), "epoch": np.int64(3), "half": np.float16(0.5), "name": np.str_("bbox")}
    path = saved(tmp_path / "now.pth", {"meta": {**scores, "curve": np.arange(3.0)}, "state_dict": {}})
    then = rewritten(path, lambda content: content.replace(b"numpy._core", b"numpy.core"))
    assert then.read_bytes() != path.read_bytes()
    for file in (path, then):
        meta = read_checkpoint(file)["meta"]
        assert {name: meta[name] for name in scores} == scores and meta["curve"].tolist() == [0, 1, 2]


class Log:
    """As mmengine's runner pickles its log: numbers, and methods by name."""

    def __init__(self) -> None:
        self.history = np.ones(2)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "methods": {"min": self.smallest}}

    def smallest(self) -> float:
        return float(self.history.min())


def test_a_checkpoint_of_mmdet_3_is_read_with_its_categories_and_without_its_log(tmp_path: Path) -> None:
    meta = {"dataset_meta": {"classes": ("cat", "dog")}}
    path = saved(tmp_path / "ours.pth", {"meta": meta, "message_hub": {"loss": Log()}, "state_dict": {}})
    ours, theirs = f"{Log.__module__}\nLog".encode(), b"mmengine.logging.history_buffer\nHistoryBuffer"
    with pytest.raises(CheckpointError, match=rf"holds more than tensors .*\({Log.__module__}\.Log\)\. Nothing"):
        read_checkpoint(path)
    path = rewritten(path, lambda content: content.replace(ours, theirs))
    assert read_checkpoint(path)["message_hub"]["loss"].methods == {"min": None}
    assert detector_categories(SimpleNamespace(model={}), path, owner="it", remedy="") == ["cat", "dog"]


def test_a_config_inside_a_checkpoint_is_text_and_nothing_else(model: nn.Module, tmp_path: Path) -> None:
    target = tmp_path / "owned"
    meta = {"config": f"import os\nos.mkdir({str(target)!r})"}
    assert load_strictly(model, saved(tmp_path / "a.pth", {"state_dict": model.state_dict(), "meta": meta})).complete
    assert not target.exists()


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_pickle_with_a_payload_is_refused_and_never_executed(model: nn.Module, tmp_path: Path, legacy: bool) -> None:
    target, path = tmp_path / "owned", tmp_path / "evil.pth"
    content = {"state_dict": model.state_dict(), "meta": Payload(target)}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match="Nothing of it was executed"):
        load_strictly(model, path)
    assert not target.exists()
    # The payload works: it is the reader that is careful.
    torch.load(path, weights_only=False)
    assert target.is_dir()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param([1, 2], "expected a mapping of weights, got list", id="list"),
        pytest.param({"meta": {"epoch": 1}}, "holds no weights", id="no-weights"),
        pytest.param({"state_dict": {}}, "holds no weights", id="empty"),
    ],
)
def test_a_file_without_weights_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_weights(saved(tmp_path / "other.pth", content))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"absent\.pth: no such checkpoint"):
        read_weights(tmp_path / "absent.pth")


def test_the_report_shows_five_names_and_counts_the_rest() -> None:
    report = LoadReport(
        "file.pth", matched=("a",), missing=tuple(f"m{i}" for i in range(8)), mismatched={"w": ((2,), (3,))}
    )
    assert str(report).splitlines() == [
        "file.pth: 1 matched, 8 missing, 0 unexpected, 1 of another shape",
        "  missing: m0, m1, m2, m3, m4 and 3 more",
        "  another shape: w (checkpoint (2,), model (3,))",
    ]
    assert not report.complete


def test_equal_weights_make_equal_files(model: nn.Module, tmp_path: Path) -> None:
    content = {"state_dict": model.state_dict(), "meta": {"CLASSES": ("a", "b")}}
    first, second = (write_checkpoint(tmp_path / name, content) for name in ("first.pth", "second.pth"))
    assert first.read_bytes() == second.read_bytes() and load_strictly(model, first).complete
    changed = write_checkpoint(tmp_path / "changed.pth", content | {"state_dict": spoilt(model)})
    assert changed.read_bytes() != first.read_bytes()


def test_matching_changes_nothing(model: nn.Module) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert match_weights(model, spoilt(model), "memory").complete
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
