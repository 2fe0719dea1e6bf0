"""What happens around a training step: curves, progress, checkpoints to resume from, a stop at non-finite losses."""

from __future__ import annotations

import csv
import math
import sys
from pathlib import Path
from typing import Any

from mmcv.runner import HOOKS, Hook, LoggerHook, master_only
from tqdm import tqdm

from mutineck.storage import atomic_path

CURVES = "curves.csv"
LATEST = "latest.pth"
CURVE_FIELDS = ("iteration", "epoch", "term", "value")


@HOOKS.register_module()
class CurvesHook(LoggerHook):
    """Appends every logged term, and each loss term's share of the total, to `curves.csv` (long format).

    After a resume, rows beyond the point of resuming are dropped first.
    """

    def __init__(self, interval: int = 10, **kwargs: Any) -> None:
        kwargs["by_epoch"] = True
        super().__init__(interval=interval, ignore_last=False, reset_flag=True, **kwargs)

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
        iteration = runner.iter if validating else runner.iter + 1
        epoch = runner.epoch + 1
        with open(self.path, "a", newline="") as file:
            csv.writer(file).writerows((iteration, epoch, term, f"{value:.6g}") for term, value in rows)


@HOOKS.register_module()
class ResumableCheckpointHook(Hook):
    """Keeps one checkpoint to resume from, `latest.pth`, replaced atomically after each epoch."""

    @master_only
    def after_train_epoch(self, runner: Any) -> None:
        """Write the training state: trainable weights, optimiser, epoch."""
        with atomic_path(Path(runner.work_dir) / LATEST) as temporary:
            runner.save_checkpoint(str(temporary.parent), filename_tmpl=temporary.name, create_symlink=False)


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Stops a run at the first non-finite loss, before the optimiser moves any weight, and names the term."""

    def after_train_iter(self, runner: Any) -> None:
        """Look at the terms of this step.

        Raises:
            RuntimeError: a term is NaN or infinite; names it, the step, and the pictures of the batch.
        """
        terms = runner.outputs["log_vars"]
        bad = [f"{name}={value}" for name, value in terms.items() if not math.isfinite(value)]
        if not bad:
            return
        metas = runner.data_batch["img_metas"].data
        pictures = [meta["filename"] for device in metas for meta in device]
        raise RuntimeError(
            f"non-finite loss at epoch {runner.epoch + 1}, iteration {runner.iter + 1}: {', '.join(bad)}; "
            f"pictures: {', '.join(pictures)}. The last good state is {Path(runner.work_dir) / LATEST} (if an epoch "
            "was finished). Try a lower learning rate, a longer warm-up, or smaller distillation weights."
        )


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
