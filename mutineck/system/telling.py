"""What somebody who waits for a run has to see: such a line reaches the terminal at once, past all others."""

from __future__ import annotations

MARK = "! "
"""What such a line begins with in a notebook and its log; the terminal shows it without."""


def tell(text: str) -> None:
    """Print a line, or several, that the terminal of a run is to show."""
    for line in text.splitlines():
        print(f"{MARK}{line}", flush=True)
