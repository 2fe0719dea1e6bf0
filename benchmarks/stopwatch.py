"""Where the time of a run goes, by parts that are named functions."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import wraps
from typing import Any
from unittest import mock

import torch

from benchmarks.table import clock_of

REST = "the rest"


Parts = Mapping[str, Sequence[tuple[Any, str]]]
"""Name to functions, each as owner (a class or module) and attribute."""


def shares(run: Callable[[], object], parts: Parts, *, runs: int = 5) -> dict[str, float]:
    """Return which share of a run's time each part takes, largest first; what no part takes is `the rest`.

    Args:
        run: called `runs` times.
        parts: of nested ones the inner one counts.
        runs: how often.
    """
    seconds = dict.fromkeys((*parts, REST), 0.0)
    running = [REST]
    last = _now()

    def switch() -> None:
        nonlocal last
        now = _now()
        seconds[running[-1]] += now - last
        last = now

    def timed(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            switch()
            running.append(part)
            try:
                return function(*args, **kwargs)
            finally:
                switch()
                running.pop()

        return call

    with within(parts, timed):
        last = _now()
        for _ in range(runs):
            run()
        switch()
    total = sum(seconds.values())
    return dict(sorted(((part, value / total) for part, value in seconds.items()), key=lambda item: -item[1]))


@contextlib.contextmanager
def within(parts: Parts, wrap: Callable[[str, Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """Within the block, every function of the parts is the one that `wrap` makes of its part's name and it."""
    with contextlib.ExitStack() as stack:
        for part, functions in parts.items():
            for owner, name in functions:
                stack.enter_context(mock.patch.object(owner, name, wrap(part, getattr(owner, name))))
        yield


def tell(title: str, found: Mapping[str, float]) -> str:
    """Print the shares of `shares`, and return those of a hundredth and more as a row's note."""
    print(f"{title}:")
    for part, share in found.items():
        print(f"  {100 * share:5.1f} %  {part}")
    return ", ".join(f"{part} {100 * share:.0f} %" for part, share in found.items() if share >= 0.01)


def _now() -> float:
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.synchronize()
    return clock_of(gpu=gpu)()
