"""The best state of a training: the start among them, the first of equals, and the same after any stop."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from mmcv.runner import EvalHook

from mutineck.detection.hooks import LATEST, STATES, BestStateHook, ResumableCheckpointHook
from mutineck.detection.repeatable import PromptEpochRunner
from mutineck.system.files import read_json


class Scripted(EvalHook):
    """An evaluation whose outcome is known beforehand, by the number of finished epochs."""

    def __init__(self, values: list[float | None]) -> None:
        self.values = values

    def before_run(self, runner: Any) -> None:
        pass

    def before_train_epoch(self, runner: Any) -> None:
        pass

    def before_train_iter(self, runner: Any) -> None:
        pass

    def after_train_iter(self, runner: Any) -> None:
        pass

    def after_train_epoch(self, runner: Any) -> None:
        runner.log_buffer.clear()  # as loggers do before an epoch
        value = self.values[runner.epoch + (runner.mode == "train")]
        runner.log_buffer.output.update({} if value is None else {"bbox_mAP": value})


class Model(torch.nn.Linear):
    """Its weight counts the steps."""

    def train_step(self, batch: Any, optimizer: Any, **_: Any) -> dict[str, Any]:
        with torch.no_grad():
            self.weight += 1
        return {"num_samples": 1}


def runner_of(folder: Path, values: list[float | None], epochs: int) -> Any:
    model: Any = Model(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    logger = logging.getLogger("best state")
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    runner = PromptEpochRunner(
        model, optimizer=optimizer, logger=logger, meta={}, max_epochs=epochs, work_dir=str(folder)
    )
    runner.register_hook(Scripted(values), priority="LOW")
    runner.register_hook(BestStateHook(), priority=80)
    runner.register_hook(ResumableCheckpointHook(), priority="VERY_LOW")
    return runner


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ([0.3, 0.2, 0.1], 0),
        ([0.1, 0.3, 0.2], 1),
        ([0.1, 0.2, 0.3], 2),
        ([0.3, 0.3, 0.3], 0),
        ([None, 0.2, None], 1),
        ([None, None, 0.0], 0),
    ],
    ids=["start", "middle", "end", "equal", "nothing found", "never anything"],
)
@pytest.mark.parametrize("stopped", [False, True], ids=["at once", "in two runs"])
def test_a_training_ends_with_its_best_state(
    tmp_path: Path, values: list[float | None], kept: int, stopped: bool
) -> None:
    data = [None] * 4
    if stopped:
        runner_of(tmp_path, values, 1).run([data], [("train", 1)])
    runner = runner_of(tmp_path, values, len(values) - 1)
    if stopped:
        (tmp_path / STATES).unlink()
        runner.resume(str(tmp_path / LATEST))
        assert runner.model.weight.item() == 4, "training goes on from the last state, whichever is the best"
    runner.run([data], [("train", 1)])
    assert runner.model.weight.item() == 4 * kept
    assert read_json(tmp_path / STATES) == {"bbox_mAP": [value or 0.0 for value in values], "kept": kept}
    # The last state of all is gone on from once more, as where a check has stopped the study.
    again = runner_of(tmp_path, values, len(values) - 1)
    again.resume(str(tmp_path / LATEST))
    again.run([data], [("train", 1)])
    assert again.model.weight.item() == 4 * kept
