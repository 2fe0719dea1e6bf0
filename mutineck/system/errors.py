"""What is said to somebody who asked for something that cannot be done."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ExperimentError(ValueError):
    """An experiment that cannot be run; the message names file, field and remedy."""


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Return the message for a name that is not there, with near matches."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
    return f"unknown {kind} {name!r}{hint} (known: {', '.join(known) or 'none'})"
