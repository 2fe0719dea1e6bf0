"""What docs/method.md says of arms and weights is what the code does."""

from __future__ import annotations

import re

import pytest

from mutineck.distillation.losses import cwd, mgd, pkd
from mutineck.study.arms import ArmSpec, resolve_arm
from mutineck.study.experiment import DistillationSpec
from mutineck.study.experiment_file import repository

TEXT = (repository() / "docs" / "method.md").read_text(encoding="utf-8")


def table(first: str) -> list[list[str]]:
    """Return the rows of the document's table whose heading begins so."""
    _, _, rest = TEXT.partition(f"\n| {first} |")
    lines = rest.partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]


ARMS = table("arm")


@pytest.mark.parametrize("row", ARMS, ids=[row[0] for row in ARMS])
def test_the_table_of_arms(row: list[str]) -> None:
    name, whose, loss, regions, centroids = row[:5]
    arm = ArmSpec(**resolve_arm(re.sub("TEACHER|SOURCE", "big", name.strip("`")), None, ["big", "small"]))
    assert {"fgd": "FGD", "none": "nobody"}.get(arm.feature, arm.feature.upper()) == (
        "FGD" if loss == "region loss" else "nobody" if whose.startswith("nobody") else loss.partition(",")[0]
    )
    assert arm.regions == (loss == "region loss") == (regions == "yes")
    assert arm.centroids == centroids.startswith("of ")
    assert arm.needs_intermediate == whose.startswith("the intermediate teacher")


def test_the_table_of_weights() -> None:
    given = DistillationSpec().model_dump(by_alias=True)
    rows = {term: (weight, default) for term, weight, default, *_ in table("term") if "`peer`" not in weight}
    for weight, default in rows.values():
        names, numbers = re.findall(r"`(\w+)`", weight), re.findall(r"[\de.-]+", default)
        assert [given[name] for name in names] == [float(number) for number in numbers], weight
    assert given["peer"] is None
    peers = {term: default for term, weight, default, *_ in table("term") if "`peer`" in weight}
    numbers = {term: [float(n) for n in re.findall(r"[\d.]+(?:e-\d+)?", text)] for term, text in peers.items()}
    assert numbers == {
        "mgd": [mgd.PUBLISHED_WEIGHTS["two_stage"], mgd.PUBLISHED_WEIGHTS["one_stage"]],
        "pkd": [pkd.PUBLISHED_WEIGHT],
        "cwd": [cwd.PUBLISHED_WEIGHT],
    }


def test_formulas_are_closed() -> None:
    prose = re.sub(r"```math\n.*?\n```", "", TEXT, flags=re.DOTALL)
    assert "```" not in prose
    for paragraph in prose.split("\n\n"):
        assert paragraph.count("$") % 2 == 0, paragraph
    assert not [found for found in re.findall(r"\$[^$]+\$", prose) if "\n" in found]
    # Markdown takes these escapes away before the formula is read.
    assert not [found for found in re.findall(r"\$[^$]+\$", prose) if re.search(r"\\[,;|{}_]", found)]
