"""What happens around a training step: curves, progress, checkpoints to resume from, a stop at non-finite numbers."""

from __future__ import annotations

import csv
import math
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmcv.runner import HOOKS, EvalHook, Hook, LoggerHook, OptimizerHook, master_only
from tqdm import tqdm

from mutineck.detection.checkpoint_layouts import some
from mutineck.detection.loading import non_finite
from mutineck.detection.protocols import plain_detector
from mutineck.system.files import atomic_path, write_json

CURVES = "curves.csv"
LATEST = "latest.pth"
STATES = "states.json"
CURVE_FIELDS = ("iteration", "epoch", "term", "value")
LITTLE = 1.0
"""Seconds in which a state is written after every epoch, whatever its share."""
CHECKPOINT_SHARE = 0.1
"""Of the time; what goes into states that take longer."""
SHARE_BOUND = 0.95
"""Of the gradient; distillation terms that are together above it leave detection next to nothing."""


@HOOKS.register_module()
class CurvesHook(LoggerHook):
    """Appends every logged term, and each loss term's share of the total, to `curves.csv` (long format).

    Steps whose outputs hold `shares`, each loss term's share of the gradient, have rows `gradient/TERM` of their own.
    After a resume, rows beyond the point of resuming are dropped first. If the distillation terms together are nearly
    the whole gradient after the first measurement, that is warned of, once.
    """

    def __init__(self, interval: int = 10, **kwargs: Any) -> None:
        kwargs["by_epoch"] = True
        super().__init__(interval=interval, ignore_last=False, reset_flag=True, **kwargs)
        self.warned = False

    @master_only
    def before_run(self, runner: Any) -> None:
        """Open the file, keeping what a resumed run had written before its checkpoint."""
        super().before_run(runner)
        self.path = Path(runner.work_dir) / CURVES
        rows: list[dict[str, str]] = []
        if self.path.exists() and runner.iter:
            with open(self.path, newline="") as file:
                rows = [row for row in csv.DictReader(file) if row["value"] and int(row["iteration"]) <= runner.iter]
        with atomic_path(self.path) as temporary, open(temporary, "w", newline="") as file:
            writer = csv.DictWriter(file, CURVE_FIELDS)
            writer.writeheader()
            writer.writerows(rows)

    def after_train_iter(self, runner: Any) -> None:
        """Write the shares of the gradient, if this step has measured them, and what is due to be logged."""
        if (shares := runner.outputs.get("shares")) and runner.rank == 0:
            self._write(
                runner.iter + 1, runner.epoch + 1, [(f"gradient/{term}", value) for term, value in shares.items()]
            )
            self._warn(sum(value for term, value in shares.items() if term.startswith("loss_kd")), runner.iter + 1)
        super().after_train_iter(runner)

    @master_only
    def log(self, runner: Any) -> None:
        """Write one row a term."""
        tags = {key: value for key, value in self.get_loggable_tags(runner).items() if math.isfinite(value)}
        validating = any(key.startswith("val/") for key in tags)
        total = tags.get("train/loss")
        rows = []
        for key, value in tags.items():
            term = key.removeprefix("train/")
            if term in ("time", "data_time", "momentum", "val/time", "val/data_time"):
                continue
            rows.append((term.replace("learning_rate", "lr"), value))
            if total and key.startswith("train/") and term != "loss" and "loss" in term and not validating:
                rows.append((f"share/{term}", value / total))
        # Evaluation is logged after the last step of its epoch.
        self._write(runner.iter if validating else runner.iter + 1, runner.epoch + 1, rows)

    def _write(self, iteration: int, epoch: int, rows: Sequence[tuple[str, float]]) -> None:
        with open(self.path, "a", newline="") as file:
            csv.writer(file).writerows((iteration, epoch, term, f"{value:.6g}") for term, value in rows)

    def _warn(self, share: float, iteration: int) -> None:
        if share > SHARE_BOUND and iteration > 1 and not self.warned:
            self.warned = True
            warnings.warn(
                f"the distillation terms are {100 * share:.1f} % of the gradient at the student's maps at iteration "
                f"{iteration} (`loss_shares` in the report): the student hardly learns to detect. Lower their weights "
                "(distillation.*, or the arm's weights)",
                RuntimeWarning,
                stacklevel=2,
            )


@HOOKS.register_module()
class FiniteOptimizerHook(OptimizerHook):
    """mmcv's optimiser step, never along a non-finite gradient, and its norm logged whether it is clipped or not.

    Args:
        grad_clip: arguments of `clip_grad_norm_`; None clips nothing.
        kwargs: as for `OptimizerHook`.
    """

    def __init__(self, grad_clip: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__({**(grad_clip or {"max_norm": math.inf}), "error_if_nonfinite": True}, **kwargs)

    def after_train_iter(self, runner: Any) -> None:
        """Take the step.

        Raises:
            RuntimeError: a gradient is NaN or infinite; names its weights, the step, and the pictures of the batch.
        """
        try:
            super().after_train_iter(runner)
        except RuntimeError as error:
            bad = non_finite({name: p.grad for name, p in runner.model.named_parameters() if p.grad is not None})
            if not bad:
                raise
            raise _stopped(runner, f"non-finite gradient of {len(bad)} weights ({some(bad)})") from error


def _stopped(runner: Any, what: str) -> RuntimeError:
    """Return the error of a training that numbers have stopped: what, where, on which pictures, and what to do."""
    metas = runner.data_batch["img_metas"].data
    pictures = [meta["filename"] for device in metas for meta in device]
    return RuntimeError(
        f"{what} at epoch {runner.epoch + 1}, iteration {runner.iter + 1}; pictures: {', '.join(pictures)}. "
        f"The last good state is {Path(runner.work_dir) / LATEST} (if an epoch was finished). Try a lower learning "
        "rate, a longer warm-up, or smaller distillation weights."
    )


@HOOKS.register_module()
class ResumableCheckpointHook(Hook):
    """Keeps one checkpoint to resume from, `latest.pth`, replaced atomically after each epoch.

    Where that takes seconds, as for large networks whose epochs are short, it is left out until a tenth of the time
    would go into it; after the last epoch it never is.
    """

    def __init__(self) -> None:
        self._not_before = -math.inf

    @master_only
    def after_train_epoch(self, runner: Any) -> None:
        """Write the training state: trainable weights, optimiser, epoch.

        Raises:
            RuntimeError: a weight or a running mean is NaN or infinite; the state before stays.
        """
        if bad := non_finite(runner.model.state_dict()):
            raise RuntimeError(
                f"non-finite weights after epoch {runner.epoch + 1}: {some(bad)}. The last good state is "
                f"{Path(runner.work_dir) / LATEST} (if an epoch was finished). Try a lower learning rate."
            )
        started = time.monotonic()
        if started < self._not_before and runner.epoch + 1 < runner.max_epochs:
            return
        with atomic_path(Path(runner.work_dir) / LATEST) as temporary:
            runner.save_checkpoint(str(temporary.parent), filename_tmpl=temporary.name, create_symlink=False)
        ended = time.monotonic()
        if ended - started > LITTLE:
            self._not_before = ended + (ended - started) / CHECKPOINT_SHARE


@HOOKS.register_module()
class BestStateHook(Hook):
    """Ends a training with the weights that had the highest bbox_mAP on val, those of its start among them.

    The start is evaluated, too; of equal states the first counts. The best weights and all values lie in the training's
    state, `latest.pth`: what is resumed ends as what was not stopped. Afterwards `states.json` has the values, the
    start's first, and which was kept. Needs an evaluation after every epoch, and comes after it and before the state.
    """

    def before_run(self, runner: Any) -> None:
        """Evaluate the start, unless this run goes on with another's state."""
        if runner.epoch == 0:
            evaluating = next(hook for hook in runner.hooks if isinstance(hook, EvalHook))
            evaluating.after_train_epoch(runner)
            self.after_train_epoch(runner)
            runner.log_buffer.clear()

    @master_only
    def after_train_epoch(self, runner: Any) -> None:
        """Keep these weights if none before had a value as high; no detection at all counts as 0."""
        messages = runner.meta.setdefault("hook_msgs", {})
        # A record of its own each time: a state that is being written holds the one before.
        values = [*messages.get("best", {}).get("values", ()), float(runner.log_buffer.output.get("bbox_mAP", 0.0))]
        if values[-1] > max(values[:-1], default=-math.inf):
            state = plain_detector(runner.model).state_dict()
            weights = {name: value.detach().cpu().clone() for name, value in state.items()}
            messages["best"] = {"values": values, "kept": len(values) - 1, "weights": weights}
        else:
            messages["best"] = {**messages["best"], "values": values}

    @master_only
    def after_run(self, runner: Any) -> None:
        """Take the best weights back, and write `states.json`."""
        best = runner.meta["hook_msgs"]["best"]
        plain_detector(runner.model).load_state_dict(best["weights"])
        write_json(Path(runner.work_dir) / STATES, {"bbox_mAP": best["values"], "kept": best["kept"]})


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Stops a run at the first non-finite loss, before the optimiser moves any weight, and names the term."""

    def after_train_iter(self, runner: Any) -> None:
        """Look at the terms of this step.

        Raises:
            RuntimeError: a term is NaN or infinite; names it, the step, and the pictures of the batch.
        """
        bad = [f"{name}={value}" for name, value in runner.outputs["log_vars"].items() if not math.isfinite(value)]
        if bad:
            raise _stopped(runner, f"non-finite loss {', '.join(bad)}")


@HOOKS.register_module()
class ProgressHook(Hook):
    """Progress with the time left: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        self.bar: Any = None

    @master_only
    def before_train_epoch(self, runner: Any) -> None:
        """Open the bar at the first epoch of this run."""
        if self.bar is None:
            interval = 0.5 if sys.stderr.isatty() else 20.0
            self.bar = tqdm(
                total=runner.max_iters or runner._max_epochs * len(runner.data_loader),
                initial=runner.iter,
                desc=Path(runner.work_dir).parent.name,
                unit="it",
                mininterval=interval,
                maxinterval=interval,
                file=sys.stderr,
                dynamic_ncols=True,
            )

    @master_only
    def after_train_iter(self, runner: Any) -> None:
        """Advance by one step."""
        self.bar.set_postfix_str(
            f"epoch {runner.epoch + 1}/{runner.max_epochs}, loss {runner.outputs['log_vars']['loss']:.3f}",
            refresh=False,
        )
        self.bar.update()

    @master_only
    def after_run(self, runner: Any) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None
