"""An experiment's file: found by its name, read over the file that it builds on, single fields set from outside."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from mutineck.system.errors import ExperimentError, unknown

BASE = "base"
"""Key that names the file an experiment builds on, relative to its own folder."""
STUDIES = "studies"
"""Key of a series: a file that holds no experiment but names several, which are run one after another."""
REPLACED = ("arms",)
"""Mappings that are replaced like lists: arms are a list in all but spelling, and those of other teachers must go."""
RELATIVE_TO = "relative_to"
"""Key that names the folder in which an experiment's paths are looked for first."""
PATHS = (
    "dataset.root",
    "dataset.sources.root",
    *(f"teachers.{field}" for field in ("config", "checkpoint", "study", "detector.config", "detector.pretrained")),
    *(f"student.detector.{field}" for field in ("config", "pretrained")),
)
"""Fields that name a file or folder, or may; those of a list's records are named by the list."""


def repository() -> Path:
    """Return the folder that holds `experiments/` and `notebooks/`."""
    return Path(__file__).resolve().parents[2]


def places(given: str | Path, beside: str | Path | None) -> list[Path]:
    """Return where a path that an experiment names may lie, in the order in which they are tried.

    A relative path lies in the folder of the experiment's file (`beside`), else in the working directory, else in the
    repository.
    """
    named = Path(given).expanduser()
    folders = [Path.cwd(), repository()] if beside is None else [Path(beside), Path.cwd(), repository()]
    return list(dict.fromkeys(Path(os.path.abspath(folder / named)) for folder in folders))


def find_path(field: str, given: str | Path, beside: str | Path | None, *, hint: str = "") -> Path:
    """Return the file or folder that a field of an experiment names, as named: it may be a symbolic link.

    Args:
        field: where in the experiment the path stands.
        given: the path.
        beside: folder of the experiment's file, if it has one.
        hint: what else to say where there is none.

    Raises:
        ExperimentError: it is in none of the places; the message names them.
    """
    looked_at = places(given, beside)
    for path in looked_at:
        if path.exists():
            return path
    raise ExperimentError(f"{field}: {given} is not there (looked for {' and '.join(map(str, looked_at))}){hint}")


def find_file(path: str | Path) -> Path:
    """Find a file given relative to the working directory or to the repository's root, or one of its experiments.

    A name without a folder, with or without its ending, is also one of the repository's own experiments. A path is
    never taken for another one that ends alike.

    Raises:
        ExperimentError: it is in neither place; the message lists the experiments that exist.
    """
    given = Path(path).expanduser()
    own = repository() / "experiments"
    ending = f"{given.name.removesuffix('.yaml')}.yaml"
    candidates = [given, repository() / given, (repository() / given).parent / ending]
    if given == Path(given.name):
        candidates.append(own / ending)
    for candidate in candidates:
        if candidate.is_file():
            return candidate.resolve()
    if (own / ending).is_file():
        raise ExperimentError(
            f"{path}: no such file; the repository's own experiment of that name is {ending.removesuffix('.yaml')!r}, "
            "without a folder"
        )
    known = sorted(p.name for p in own.glob("*.yaml"))
    raise ExperimentError(f"{path}: no such experiment; " + unknown("experiment", given.name, known))


def read_fields(file: Path) -> dict[str, Any]:
    """Read an experiment's fields, over those of the file that it builds on (`base`), and so on.

    Mappings are merged field by field; lists, plain values and `arms` are replaced as a whole.

    Raises:
        ExperimentError: not a mapping in YAML, a base that does not exist, or files that build on one another.
    """
    chain = [file]
    fields = _read_mapping(file)
    while BASE in fields:
        following = _beside(chain[-1], fields.pop(BASE), BASE)
        chain.append(following)
        if following in chain[:-1]:
            raise ExperimentError(f"{file}: builds on itself: {' -> '.join(link.name for link in chain)}")
        under = _read_mapping(following)
        _tell_paths_from(file.parent, under, following.parent)
        fields = merge(under, fields)
    return fields


def _tell_paths_from(folder: Path, fields: dict[str, Any], base: Path) -> None:
    """Turn paths to what lies in another file's folder into paths from `folder`, in place."""
    # By the place that they are set in: to YAML's aliases one record stands in several.
    found = {(id(record), key): record for record, key in _path_fields(fields)}
    for (_, key), record in found.items() if base != folder else ():
        given = Path(record[key]).expanduser()
        if not given.is_absolute() and (base / given).exists():
            record[key] = os.path.relpath(base / given, folder)


def _path_fields(fields: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the record and key of each path that a raw experiment gives."""
    for path in PATHS:
        *way, key = path.split(".")
        records = [fields]
        for part in way:
            inner = [record.get(part) for record in records]
            every = [item for each in inner for item in (each if isinstance(each, list) else [each])]
            records = [item for item in every if isinstance(item, dict)]
        yield from ((record, key) for record in records if isinstance(record.get(key), str))


def study_files(path: str | Path) -> list[Path]:
    """Return the experiments that a file stands for: those that a series names, in its order, or itself.

    Raises:
        ExperimentError: no such file, or a series that names none, something else, or another series.
    """
    file = find_file(path)
    fields = _read_mapping(file)
    if STUDIES not in fields:
        return [file]
    known = ("description", STUDIES)
    for key in fields:
        if key not in known:
            raise ExperimentError(f"{file}: " + unknown("key", str(key), known))
    names = fields[STUDIES]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ExperimentError(f"{file}: {STUDIES}: expected a list of experiments beside this file, got {names!r}")
    found = [_beside(file, name, STUDIES) for name in names]
    for study in found:
        if STUDIES in _read_mapping(study):
            raise ExperimentError(f"{file}: {STUDIES}: {study.name} is a series itself; name its studies here")
    return found


def _read_mapping(file: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ExperimentError(f"{file}: not valid YAML: {error}") from error
    if not isinstance(data, dict):
        raise ExperimentError(f"{file}: expected a mapping of fields, got {type(data).__name__}")
    return data


def _beside(file: Path, given: Any, field: str) -> Path:
    """Return the file of that name beside another, or refuse with near matches."""
    if not isinstance(given, str):
        raise ExperimentError(f"{file}: {field}: expected the name of a file beside this one, got {given!r}")
    found = file.parent / given
    if not found.is_file():
        beside = sorted(path.name for path in found.parent.glob("*.yaml") if path != file)
        raise ExperimentError(f"{file}: {field}: " + unknown("file", found.name, beside))
    return found.resolve()


def merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of `under` with those of `over` in their place; neither is changed."""
    merged = dict(under)
    for key, value in over.items():
        below = under.get(key)
        if isinstance(value, dict) and isinstance(below, dict) and key not in REPLACED:
            value = merge(below, value)
        merged[key] = value
    return merged


def apply_override(data: dict[str, Any], override: str) -> None:
    """Set one `field.path=value` in a raw experiment, in place; the value is read as YAML, or is text as it stands.

    Raises:
        ExperimentError: no `=`, a value that is no YAML, or a path through something that has no fields.
    """
    path, separator, text = override.partition("=")
    if not separator or not path.strip():
        raise ExperimentError(f"--set {override!r}: expected field.path=value, e.g. dataset.root=PATH")
    try:
        value = read_value(text)
    except yaml.YAMLError as error:
        raise ExperimentError(f"--set {override!r}: the value is not valid YAML: {error}") from error
    try:
        set_field(data, path, value)
    except ExperimentError as error:
        raise ExperimentError(f"--set {override!r}: {error}") from None


def read_value(text: str) -> Any:
    """Return a value as a command line gives it: a number, a truth value, null, a list or a record of YAML, else text.

    Text is the shell's, letter by letter: `#`, `: `, `*`, `&`, `@` and blanks at the end mean nothing.

    Raises:
        yaml.YAMLError: a list, a record or a quoted text that is not valid YAML.
    """
    if text.strip()[:1] in ("[", "{", '"', "'", "") or "\n" in text.strip():
        return yaml.safe_load(text)
    kind = yaml.SafeLoader("").resolve(yaml.ScalarNode, text.strip(), (True, False)).rpartition(":")[2]
    return yaml.safe_load(text) if kind in ("int", "float", "bool", "null") else text


def set_field(data: dict[str, Any], path: str, value: Any) -> None:
    """Set the field at `field.path` in a raw experiment, in place; records on the way that are not there are made.

    Records on the way are copied: to YAML's aliases (`schedule: *schedule`) one record stands in several places, and
    the field is meant in one.

    Raises:
        ExperimentError: a path through something that has no fields, or to a list's item that is not there.
    """
    keys = [key.strip() for key in path.split(".")]
    node: Any = data
    for position, key in enumerate(keys):
        last = position == len(keys) - 1
        where = ".".join(keys[: position + 1])
        if isinstance(node, list):
            index = _list_index(node, key, where)
            node[index] = value if last else copy.copy(node[index])
            node = node[index]
        elif isinstance(node, dict):
            if last:
                node[key] = value
            else:
                node[key] = {} if node.get(key) is None else copy.copy(node[key])
            node = node[key]
        else:
            raise ExperimentError(f"{path}: {'.'.join(keys[:position])} is {node!r} and has no fields")


def get_field(data: dict[str, Any], path: str) -> Any:
    """Return the field at `field.path` of an experiment with all its fields.

    Raises:
        ExperimentError: there is no such field; the message has near matches.
    """
    node: Any = data
    for key in path.split("."):
        if isinstance(node, list):
            node = node[_list_index(node, key, path)]
        elif isinstance(node, dict) and key in node:
            node = node[key]
        else:
            raise ExperimentError(f"{path}: " + unknown("field", key, node if isinstance(node, dict) else ()))
    return node


def _list_index(node: list[Any], key: str, where: str) -> int:
    names = [str(item.get("name")) for item in node if isinstance(item, dict)]
    if key in names:
        return names.index(key)
    if key.isdigit() and int(key) < len(node):
        return int(key)
    raise ExperimentError(f"{where}: " + unknown("item", key, names))
