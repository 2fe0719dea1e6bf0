"""Records that are read and compared: validated fields, and what differs between two."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """Base of all records: immutable, and an unknown key is an error.

    What stands below a field is its description: `docs/settings.md` is written from it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, coerce_numbers_to_str=True)


def differences(before: Any, now: Any, path: str = "") -> Iterator[str]:
    """Yield each field whose value differs, as `path: before -> now`."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in sorted({*before, *now}):
            where = f"{path}.{key}" if path else key
            if key not in before:
                yield f"{where}: nothing -> {json.dumps(now[key])}"
            elif key not in now:
                yield f"{where}: {json.dumps(before[key])} -> nothing"
            else:
                yield from differences(before[key], now[key], where)
    elif before != now:
        yield f"{path}: {json.dumps(before)} -> {json.dumps(now)}"
