"""A hook that ends a training as a power cut would: at a chosen step of a chosen epoch, once."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from mmcv.runner import HOOKS, Hook


class Stopped(BaseException):
    """The power cut, where the test goes on in the same process."""


@HOOKS.register_module(force=True)
class StoppingHook(Hook):
    """Stops if the file `armed` is there, and removes it; counts every step in the file `steps`.

    Args:
        armed: file whose content is `EPOCH STEP raise` or `EPOCH STEP kill`, both numbers counted from 0.
        steps: file that grows by a letter a step.
    """

    def __init__(self, armed: str, steps: str) -> None:
        self.armed, self.steps = Path(armed), Path(steps)

    def after_train_iter(self, runner: Any) -> None:
        """Count the step; stop after the chosen one."""
        with open(self.steps, "a") as file:
            file.write(".")
        if self.armed.exists():
            epoch, step, how = self.armed.read_text().split()
            if (runner.epoch, runner.inner_iter) == (int(epoch), int(step)):
                self.armed.unlink()
                if how == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                raise Stopped
