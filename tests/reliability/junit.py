"""What a run of the tests wrote down about itself (`pytest --junitxml`)."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Case(NamedTuple):
    """One test as it was run: its file's dotted name, its own, how it ended, and the files that it generated."""

    module: str
    name: str
    outcome: str
    files: int


def cases(path: Path) -> Iterator[Case]:
    """Yield every test of a run; ``outcome`` is `passed`, `failed` or `skipped`."""
    for node in ElementTree.parse(path).iter("testcase"):
        kinds = {child.tag for child in node}
        outcome = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        numbers = [item.get("value", "0") for item in node.iter("property") if item.get("name") == "files"]
        yield Case(node.get("classname", ""), node.get("name", ""), outcome, sum(map(int, numbers)))
