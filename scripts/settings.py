"""Write the reference of an experiment's settings, `docs/settings.md`, from the records that read them.

    python scripts/settings.py

It holds pydantic's JSON schema of `mutineck.study.experiment.Experiment`: a table for each record, in the order of
the YAML; what stands below a field in the code is its meaning.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.table import with_section
from mutineck.study.experiment import Experiment
from mutineck.system.files import write_text

SETTINGS = Path(__file__).resolve().parent.parent / "docs" / "settings.md"
SCALARS = {"integer": "integer", "number": "number", "string": "text", "boolean": "true or false", "null": "null"}
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}

Schema = Mapping[str, Any]


def places(schema: Schema) -> list[tuple[str, str]]:
    """Return the path of each record and its name in the schema, in the order of the YAML; the whole comes first."""
    return [("", ""), *_below(schema, schema, "")]


def _below(schema: Schema, record: Schema, path: str) -> Iterator[tuple[str, str]]:
    for name, field in record["properties"].items():
        if found := _record(field):
            inner, suffix = found
            place = f"{path}{name}{suffix}"
            yield place, inner
            yield from _below(schema, schema["$defs"][inner], f"{place}.")


def _record(field: Schema) -> tuple[str, str] | None:
    """Return the record that a field holds, and what its path ends in: `[]` in a list, `.NAME` in a mapping."""
    if "$ref" in field:
        return field["$ref"].rpartition("/")[2], ""
    for option in field.get("anyOf", ()):
        if found := _record(option):
            return found
    for key, suffix in (("items", "[]"), ("additionalProperties", ".NAME")):
        if isinstance(inner := field.get(key), Mapping) and (found := _record(inner)):
            return found[0], suffix + found[1]
    return None


def kind(field: Schema) -> str:
    """Return a field's type and what it allows, in words."""
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(kind(option) for option in field["anyOf"]))
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "pattern" in field:
        return f"text like `{field['pattern']}`"
    if field["type"] == "array":
        given = field.get("prefixItems")
        each = kind(given[0] if given else field["items"])
        few = f"{len(given)} " if given else "at least one " if field.get("minItems") else ""
        return f"list of {few}{each}" + ("s" if each in SCALARS.values() and not few.endswith("one ") else "")
    if field["type"] == "object":
        return f"mapping of text to {kind(field['additionalProperties'])}"
    bounds = [f"{sign} {field[bound]:g}" for bound, sign in BOUNDS.items() if bound in field]
    return " ".join([SCALARS[field["type"]], " and ".join(bounds)]).strip()


def plain(value: Any) -> str:
    """Return a default as YAML has it on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {plain(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(plain, value))}]"
    return value if isinstance(value, str) and value else json.dumps(value)


def table(schema: Schema, record: Schema, path: str, links: Mapping[str, str]) -> list[str]:
    """Return a record's table, a row a field; the type of one that is a record itself leads to that one's table."""
    rows = ["| setting | type | default | meaning |", "|---|---|---|---|"]
    for name, field in record["properties"].items():
        default = f"`{plain(field['default'])}`" if "default" in field else "**required**"
        if found := _record(field):
            inner, suffix = found
            words = {"[]": "list of ", ".NAME": "mapping of "}.get(suffix, "")
            what = f"{words}[`{links[inner]}`](#{anchor(links[inner])})"
            what += " or null" if any(option.get("type") == "null" for option in field.get("anyOf", ())) else ""
            if isinstance(given := field.get("default"), Mapping):
                # What it has not of its own accord.
                own = schema["$defs"][inner]["properties"]
                unlike = {key: value for key, value in given.items() if value != own[key].get("default")}
                default = f"its own, but `{plain(unlike)}`" if unlike else "its own"
        else:
            what = kind(field)
        cells = (f"`{path}{name}`", what, default, field.get("description", ""))
        rows.append(f"| {' | '.join(' '.join(cell.replace('|', chr(92) + '|').split()) for cell in cells)} |")
    return rows


def anchor(heading: str) -> str:
    """Return what GitHub names a heading in links."""
    return re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-")


def reference() -> str:
    """Return every record's table; one that stands in several places is told at the first."""
    schema = Experiment.model_json_schema(by_alias=True)
    found = places(schema)
    links = {name: path for path, name in reversed(found)}
    lines = []
    for path, name in found:
        record = schema["$defs"][name] if name else schema
        if path != links[name]:
            continue
        also = [f"`{place}`" for place, other in found if other == name and place != path]
        lines += [f"## `{path}`" if path else "## The whole", "", record["description"], ""]
        if also:
            lines += [f"The same fields stand in {' and '.join(also)}.", ""]
        lines += [*table(schema, record, f"{path}." if path else "", links), ""]
    return "\n".join(lines)


def written() -> str:
    """Return the text of the document with the reference written anew."""
    return with_section(SETTINGS.read_text(encoding="utf-8"), "settings", reference(), "scripts/settings.py")


def main() -> int:
    """Write the reference."""
    write_text(SETTINGS, written())
    return 0


if __name__ == "__main__":
    sys.exit(main())
