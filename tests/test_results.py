"""The README's results are those that are kept beside the experiments."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def results() -> ModuleType:
    spec = importlib.util.spec_from_file_location("results", ROOT / "scripts" / "results.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readme_says_what_was_measured(results: ModuleType) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert results.with_table(readme) == readme, "run: python scripts/results.py table"


def test_every_kept_study_is_an_experiment_with_its_origin(results: ModuleType) -> None:
    kept = sorted(results.KEPT.glob("*.csv"))
    assert kept
    for path in kept:
        about = results.read_json(path.with_suffix(".json"))
        assert (ROOT / "experiments" / f"{path.stem}.yaml").is_file()
        assert about["revision"]["git"] and about["command"].startswith("mutineck run")
