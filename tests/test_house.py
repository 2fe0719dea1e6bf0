"""The house: which rooms import which, how many modules lie loose, and how long functions are."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "mutineck"
ROOMS = ("system", "detection", "study", "running", "dataset", "detectors", "teachers", "features", "clusters",
         "distillation", "ablations", "figures", "search")  # fmt: skip
"""From the ground floor up: a room imports those before it."""
NARROWER = {"detection": {"system"}, "running": {"system", "study"}}
"""Rooms that import less than all before them."""
LOOSE = {"__init__", "__main__", "cli", "doctor"}
LINES, ARGUMENTS = 60, 10


def trees(package: Path) -> dict[str, ast.Module]:
    """Return the syntax of every module of a package, by its name below it: `study.stage`."""
    names = {path: ".".join(path.relative_to(package).with_suffix("").parts) for path in package.rglob("*.py")}
    return {name: ast.parse(path.read_text(encoding="utf-8")) for path, name in sorted(names.items())}


def imported(tree: ast.AST) -> Iterator[str]:
    """Yield the modules of the package that a module imports, but for types only, by their names below it."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "mutineck":
            module = (node.module or "").partition(".")[2]
            yield from ([module] if module.count(".") else (f"{module}.{each.name}".lstrip(".") for each in node.names))
        elif isinstance(node, ast.Import):
            yield from (each.name.partition(".")[2] for each in node.names if each.name.startswith("mutineck."))
        yield from imported(node)


def upward(modules: dict[str, ast.Module]) -> list[str]:
    """Return imports of a room that does not lie below."""
    found = []
    for name, tree in modules.items():
        room = name.partition(".")[0]
        for other in {each.partition(".")[0] for each in imported(tree)} - {room}:
            below = NARROWER.get(room, set(ROOMS[: ROOMS.index(room)] if room in ROOMS else ROOMS))
            if room not in LOOSE and other not in below:
                found.append(f"{name} imports {other}")
    return found


def functions(modules: dict[str, ast.Module]) -> Iterator[tuple[str, int, int]]:
    """Yield every function: its name, its lines with its docstring, and its arguments without self."""
    for name, tree in modules.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                own = given and given[0].arg in ("self", "cls")
                yield f"{name}.{node.name}", (node.end_lineno or 0) - node.lineno + 1, len(given) - bool(own)


@pytest.fixture(scope="module")
def package() -> dict[str, ast.Module]:
    return trees(PACKAGE)


def test_rooms_import_only_those_below_them(package: dict[str, ast.Module]) -> None:
    assert {name.partition(".")[0] for name in package if "." in name} == set(ROOMS)
    assert upward(package) == []


def test_no_modules_import_each_other_in_a_circle(package: dict[str, ast.Module]) -> None:
    graph = {name: {each for each in imported(tree) if each in package} for name, tree in package.items()}
    assert sum(map(len, graph.values())) > 300, "imports are not found any more"
    graphlib.TopologicalSorter(graph).prepare()


def test_no_modules_lie_loose_but_the_commands(package: dict[str, ast.Module]) -> None:
    assert {name for name in package if "." not in name} <= LOOSE


def test_functions_are_short_and_take_few_arguments(package: dict[str, ast.Module]) -> None:
    found = [*functions(package)]
    assert [f"{name}: {lines} lines" for name, lines, _ in found if lines > LINES] == []
    assert [f"{name}: {count} arguments" for name, _, count in found if count > ARGUMENTS] == []


def test_these_checks_find_what_they_look_for(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "detection").mkdir()
    (tmp_path / "study" / "a.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from mutineck.figures.style import Drawing\n"
        "def f():\n    from mutineck.figures import style\n    import mutineck.study.b\n"
    )
    (tmp_path / "study" / "b.py").write_text("from mutineck.study.a import f\nfrom mutineck.system.files import g\n")
    (tmp_path / "detection" / "c.py").write_text("import mutineck.study.a\ndef g(self, a, b):\n" + 70 * "    a\n")
    found = trees(tmp_path)
    assert upward(found) == ["detection.c imports study", "study.a imports figures"]
    assert [*imported(found["study.a"])] == ["figures.style", "study.b"]
    assert [*functions(found)] == [("detection.c.g", 71, 2), ("study.a.f", 3, 0)]
    with pytest.raises(graphlib.CycleError):
        graphlib.TopologicalSorter({name: set(imported(tree)) for name, tree in found.items()}).prepare()
