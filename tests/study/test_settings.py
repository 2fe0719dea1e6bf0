"""The reference of an experiment's settings says what the records that read it say."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest

from mutineck.study.experiment import Experiment, load_experiment
from tests.scripts import load

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def settings() -> ModuleType:
    return load("settings")


def test_the_document_says_what_the_records_say(settings: ModuleType) -> None:
    assert settings.SETTINGS.read_text(encoding="utf-8") == settings.written(), "run: python scripts/settings.py"


def test_every_field_has_a_meaning() -> None:
    schema = Experiment.model_json_schema(by_alias=True)
    silent = [
        f"{record['title']}.{name}"
        for record in (schema, *schema["$defs"].values())
        for name, field in record["properties"].items()
        if not field.get("description")
    ]
    assert not silent, "a field's meaning stands below it, and is not the same sentence as its record's"


def test_links_lead_to_tables(settings: ModuleType) -> None:
    text = settings.reference()
    headings = {settings.anchor(line.removeprefix("## ")) for line in text.splitlines() if line.startswith("## ")}
    assert set(re.findall(r"\]\(#(.+?)\)", text)) <= headings


@pytest.mark.parametrize("name", ["shapes", "specialists_cards"])
def test_the_fields_of_an_experiment_are_there(settings: ModuleType, name: str) -> None:
    """Each path that a whole experiment has stands in a table, or in the one that its record shares."""
    text = settings.reference()
    shared = {"student.detector": "teachers[].detector", "student.schedule": "teachers[].schedule"}
    shared["intermediate.schedule"] = "teachers[].schedule"

    def paths(node: object, path: str) -> set[str]:
        path = shared.get(path, path)
        if isinstance(node, dict) and path not in ("dataset.aliases", "teachers[].aliases", "arms.NAME.weights"):
            parts = [paths(v, "arms.NAME" if path == "arms" else f"{path}.{k}".lstrip(".")) for k, v in node.items()]
            return {path}.union(*parts)
        if isinstance(node, list) and node and isinstance(node[0], dict):
            return {path}.union(*(paths(item, f"{path}[]") for item in node))
        return {path}

    found = paths(load_experiment(name).model_dump(mode="json", by_alias=True), "")
    missing = {path for path in found - {""} if f"`{path}`" not in text}
    assert not missing


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ({"type": "integer", "minimum": 1}, "integer ≥ 1"),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 1}, "number > 0 and ≤ 1"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "text or null"),
        ({"enum": ["sgd", "adamw"], "type": "string"}, "`sgd`, `adamw`"),
        ({"type": "array", "prefixItems": [{"type": "integer"}] * 2}, "list of 2 integers"),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 1}, "list of at least one integer"),
        ({"type": "object", "additionalProperties": {"type": "string"}}, "mapping of text to text"),
    ],
)
def test_types_are_said_in_words(settings: ModuleType, field: dict[str, object], words: str) -> None:
    assert settings.kind(field) == words
