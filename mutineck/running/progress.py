"""What somebody sees who waits for a run: Snakemake's events as lines."""

from __future__ import annotations

import logging
import textwrap
import time
from collections.abc import Mapping
from typing import Any, TextIO

FORCED = "Forced execution"
"""Snakemake's reason for what --forcerun names."""
SETTINGS = "settings changed (mutineck status says which)"


class ProgressHandler(logging.Handler):
    """Turns Snakemake's events into lines such as `[5/14] distillation fgd-mean/seed0 ...`.

    Args:
        screen: where they go.
        dry_run: say why a job would run, and not that it does.
        asking: say in a dry run, too, what a job asks of its scheduler.
        again_for: why jobs are forced, by their names; any other that is forced is so because somebody wants it.
    """

    def __init__(
        self,
        screen: TextIO,
        *,
        dry_run: bool,
        asking: bool,
        again_for: Mapping[str, str],
    ) -> None:
        super().__init__(logging.INFO)
        self.screen = screen
        self.dry_run = dry_run
        self.asking = asking
        self.again_for = again_for
        self.total = 0
        self._numbers: dict[int, int] = {}
        self._running: dict[int, tuple[str, float]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Print what a record means to somebody who waits."""
        event: Any = getattr(record, "event", None)
        details = record.__dict__
        if event == "run_info":
            self.total = int(details["stats"].get("total", 0))
        elif event == "job_info":
            again = details["jobid"] in self._numbers  # a profile may try what has failed once more
            number = self._numbers.setdefault(details["jobid"], len(self._numbers) + 1)
            label = details["rule_msg"] or details["rule_name"]
            self._running[details["jobid"]] = (label, time.monotonic())
            plain = _plain(details["reason"], forced=self.again_for.get(label, FORCED))
            reason = f": {plain}" if self.dry_run else " once more ..." if again else " ..."
            if self.asking and self.dry_run:
                reason = f" ({_asked(details)}){reason}"
            self._say(f"[{number}/{self.total}] {label}{reason}")
        elif event == "job_finished" and not self.dry_run:
            label, begun = self._running.pop(details["job_id"], ("", 0.0))
            self._say(f"  {label} done in {_duration(time.monotonic() - begun)}")
        elif event is None and "Nothing to be done" in record.getMessage():
            self._say("up to date: there is nothing to do")

    def _say(self, text: str) -> None:
        print(text, file=self.screen, flush=True)


def _asked(details: dict[str, Any]) -> str:
    """Return what a job asks of a scheduler in a few words."""
    given = details["resources"]
    words = [f"{details['threads']} cores", *(["1 GPU"] if given.gpu else [])]
    return ", ".join([*words, f"{given.mem_mb} MB", f"{given.runtime} min"])


def _plain(reason: str, *, forced: str) -> str:
    """Return Snakemake's reason for a job in one short line, with what it is if the job was forced."""
    parts = []
    for part in " ".join(reason.split()).split("; "):
        # Snakemake quotes all settings, before and now.
        part = SETTINGS if part.startswith("Params have changed") else part
        parts.append(forced if part == FORCED else part)
    return textwrap.shorten("; ".join(parts), 200, placeholder=" ...")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
