"""Run one notebook with papermill: known parameters only, this very Python, and a whole file or none."""

from __future__ import annotations

import argparse
import ast
import contextlib
import os
import re
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import yaml

from mutineck.study.experiment_file import repository
from mutineck.study.jobs import RUNNING
from mutineck.system.errors import ExperimentError, unknown
from mutineck.system.processes import end_with_parent
from mutineck.system.remedies import remedy
from mutineck.system.telling import MARK

if TYPE_CHECKING:
    from nbformat import NotebookNode

# jsonschema, which comes with nbformat, would build a grammar of international addresses: two seconds of each process
# that reads or runs a notebook. Nothing here holds such addresses, and jsonschema goes without where it is missing.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]

PARAMETERS_TAG = "parameters"
INJECTED_TAG = "injected-parameters"
KERNEL = "python3"
START_TIMEOUT = 300
"""Seconds that a kernel gets to start; a machine under load needs more than papermill's 60."""
_PAPERMILL = {"kernel_name": KERNEL, "language": "python", "progress_bar": False, "start_timeout": START_TIMEOUT}
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_FRAME = re.compile(r"File (\S+?):(\d+)")


class NotebookError(RuntimeError):
    """A notebook that stopped; the message begins with what its cell raised."""


def execute(
    notebook: str | os.PathLike[str],
    output: str | os.PathLike[str],
    parameters: Mapping[str, Any],
    *,
    kernel_cwd: str | os.PathLike[str] | None = None,
    log: str | os.PathLike[str] | None = None,
    label: str = "",
) -> Path:
    """Execute a notebook with this very Python and write it, with its outputs, when it has succeeded.

    While it runs it lies beside ``output`` as `NAME.running.ipynb`; if it stops, as `NAME.failed.ipynb`.

    Args:
        notebook: the notebook; it is not changed.
        output: where the executed notebook goes; its folder is made.
        parameters: values for names that the notebook's cell tagged `parameters` assigns.
        kernel_cwd: working directory of the notebook's code; the caller's if None.
        log: file that receives everything the cells print.
        label: put before the progress lines on standard output.

    Returns:
        The path of the executed notebook.

    Raises:
        ExperimentError: a parameter that the notebook does not declare; the message lists near matches.
        NotebookError: a cell raised, or the kernel died.
    """
    import papermill
    from papermill.exceptions import PapermillExecutionError

    from mutineck.running.kernel import this_python

    notebook, output = Path(notebook), Path(output)
    running, failed = running_copy(output), output.with_name(f"{output.stem}.failed.ipynb")
    source = _source(notebook, parameters)
    output.parent.mkdir(parents=True, exist_ok=True)
    running_name = str(running).replace("{", "{{").replace("}", "}}")  # papermill formats it with the parameters
    with contextlib.closing(Progress(label, log)) as cells:
        try:
            papermill.execute_notebook(
                source,
                running_name,
                dict(parameters),
                **_PAPERMILL,
                stdout_file=cells.stream(shown=True),
                stderr_file=cells.stream(shown=False),
                cwd=str(kernel_cwd or Path.cwd()),
                kernel_manager_class=this_python(log),
            )
        except PapermillExecutionError as error:
            os.replace(running, failed)
            raise NotebookError(_explain(error, notebook, failed)) from error
        except RuntimeError as error:  # DeadKernelError is one; a kernel that does not start is reported by bare ones
            if running.exists():
                os.replace(running, failed)
            raise NotebookError(_explain_death(error, notebook, failed, log)) from error
    os.replace(running, output)
    failed.unlink(missing_ok=True)
    return output


def read_notebook(path: str | os.PathLike[str]) -> NotebookNode:
    """Return a notebook in the format's version 4."""
    import nbformat

    return nbformat.read(path, as_version=4)


def running_copy(output: Path) -> Path:
    """Return where a notebook lies while it is executed into ``output``."""
    return output.with_name(f"{output.stem}{RUNNING}")


def declared_parameters(notebook: NotebookNode, name: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the names that a notebook's cell tagged `parameters` assigns, with their default values.

    Raises:
        ExperimentError: none or several such cells, or a default that is no plain value.
    """
    tagged = [cell for cell in notebook.cells if PARAMETERS_TAG in cell.metadata.get("tags", ())]
    if len(tagged) != 1:
        raise ExperimentError(f"{name}: expected one cell tagged {PARAMETERS_TAG!r}, got {len(tagged)}")
    declared: dict[str, Any] = {}
    for node in ast.parse(tagged[0].source).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets:
            if not isinstance(target, ast.Name):
                raise ExperimentError(
                    f"{name}: the cell tagged {PARAMETERS_TAG!r} may only assign plain values to names"
                )
            try:
                declared[target.id] = ast.literal_eval(node.value)  # type: ignore[attr-defined]
            except ValueError as error:
                raise ExperimentError(f"{name}: the default of parameter {target.id!r} is no plain value") from error
    return declared


class Progress:
    """What a notebook's cells print: all of it into a file, now and then a line to standard output.

    Args:
        label: put before each line shown.
        log: file, overwritten; None keeps nothing.
        interval: seconds between two lines shown.
    """

    def __init__(self, label: str, log: str | os.PathLike[str] | None = None, interval: float = 10.0) -> None:
        self.label = label
        self.interval = interval
        self._file: TextIO | None = None
        self._last = time.monotonic()
        if log is not None:
            Path(log).parent.mkdir(parents=True, exist_ok=True)
            Path(log).write_bytes(b"")
            # Appending, since the kernel's process appends to it too.
            self._file = open(log, "a", encoding="utf-8")  # noqa: SIM115 - closed by `close`

    def stream(self, *, shown: bool) -> ProgressStream:
        """Return a stream into this; ``shown`` says whether its plain lines reach standard output."""
        return ProgressStream(self, shown)

    def take(self, text: str, shown: bool) -> None:
        """Keep ``text``; show what is to be told, and the last line if it is time (progress bars, with `\\r`, too)."""
        if self._file:
            self._file.write(text)
            self._file.flush()
        lines = [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]
        told = [line for line in lines if line.startswith(MARK)] if shown else []
        due = lines and (shown or "\r" in text) and time.monotonic() - self._last >= self.interval
        for line in dict.fromkeys([*told, *(lines[-1:] if due else [])]):
            print(f"  {self.label + ': ' if self.label else ''}{line.removeprefix(MARK)}", flush=True)
        if due:
            self._last = time.monotonic()

    def close(self) -> None:
        """Close the file."""
        if self._file:
            self._file.close()


class ProgressStream:
    """The writable end of a `Progress`, as papermill wants it."""

    def __init__(self, progress: Progress, shown: bool) -> None:
        self._progress = progress
        self._shown = shown

    def write(self, text: str) -> None:
        """Take a piece of what a cell prints."""
        self._progress.take(text, self._shown)

    def flush(self) -> None:
        """Do nothing: every write is already on its way."""


def _source(notebook: Path, parameters: Iterable[str]) -> NotebookNode:
    """Return a notebook as it is executed.

    Raises:
        ExperimentError: a parameter that it does not declare.
    """
    source = _without_provenance(read_notebook(notebook))
    declared = declared_parameters(source, notebook)
    for name in parameters:
        if name not in declared:
            raise ExperimentError(f"{notebook.name}: " + unknown("parameter", name, declared))
    return source


def _without_provenance(notebook: NotebookNode) -> NotebookNode:
    """Remove what an earlier execution left: papermill's metadata, injected cells and outputs."""
    notebook.metadata.pop("papermill", None)
    notebook.cells = [cell for cell in notebook.cells if INJECTED_TAG not in cell.metadata.get("tags", ())]
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return notebook


def _explain(error: Any, notebook: Path, failed: Path) -> str:
    """Return a papermill error in a few lines: what was raised, where, and where all of it can be read."""
    raised = _ANSI.sub("", f"{error.ename}: {error.evalue}").strip()
    frames = _FRAME.findall(_ANSI.sub("", "\n".join(error.traceback)))
    inside = [f"{file}:{line}" for file, line in frames if Path(file).is_relative_to(repository())]
    # A refusal explains itself; where it was raised would only distract.
    at = f", at {inside[-1]}" if inside and error.ename not in ("ExperimentError", "FileNotFoundError") else ""
    cell = f"cell [{error.exec_count}] of {notebook.name}{at}"
    advice = remedy(raised, failed.parent)
    return f"{raised}\n{advice}{' ' if advice else ''}raised by {cell}; the notebook as far as it came: {failed}"


def _explain_death(error: RuntimeError, notebook: Path, failed: Path, log: str | os.PathLike[str] | None) -> str:
    """Return why a kernel died, as far as that is known, and what to do."""
    last = _last_words(log)
    advice = remedy(last, failed.parent) or remedy("out of memory", failed.parent)
    return (
        f"the kernel of {notebook.name} did not survive ({error}), most often for want of memory. {advice}{last}"
        f"\nThe notebook as far as it came: {failed}"
    )


def _last_words(log: str | os.PathLike[str] | None) -> str:
    """Return the last line of a log, as a sentence; nothing if there is none."""
    lines = Path(log).read_text(encoding="utf-8", errors="replace").split("\n") if log is not None else []
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f"\nThe last line of {log}: {last}" if last else ""


def main(arguments: list[str] | None = None) -> int:
    """Execute one notebook: `python -m mutineck.running.notebooks NOTEBOOK OUTPUT [PARAMETERS.yaml]`."""
    parser = argparse.ArgumentParser(prog="python -m mutineck.running.notebooks", description=main.__doc__)
    parser.add_argument("notebook", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("parameters", type=Path, nargs="?", help="YAML file with a mapping of parameters")
    parser.add_argument("--log", type=Path, help="file for everything that the cells print")
    given = parser.parse_args(arguments)
    end_with_parent()
    try:
        parameters = yaml.safe_load(given.parameters.read_text(encoding="utf-8")) if given.parameters else {}
        if not isinstance(parameters, dict):
            raise ExperimentError(f"{given.parameters}: expected a mapping of parameters, got {parameters!r}")
        execute(given.notebook, given.output, parameters, log=given.log)
    except (ExperimentError, NotebookError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
