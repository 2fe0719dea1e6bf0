"""The kernel that notebooks run in: this very Python and package, whatever kernels the machine has."""

from __future__ import annotations

import os
import sys
import uuid
from typing import Any

from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.paths import jupyter_runtime_dir
from traitlets import default

from mutineck.study.experiment_file import repository

LAUNCH = """
import sys
here = sys.path.pop(0)  # a file of the working directory is not taken for a module of Python's
import logging, runpy
sys.path.insert(0, here)  # which ipykernel's launcher expects, and removes
logging.getLogger("IPKernelApp").addFilter(lambda record: "KeyboardInterrupt caught" not in record.getMessage())
runpy.run_module("ipykernel_launcher", run_name="__main__")
"""
"""Starts a kernel. jupyter_client interrupts a kernel before it asks it to end; an idle one then logged an error."""


class ThisPythonSpecs(KernelSpecManager):
    """Answers to every kernel's name with the running interpreter."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """Return the running interpreter as a kernel.

        A `python3` registered for the user may belong to another environment, and would otherwise win.
        """
        return KernelSpec(
            argv=[sys.executable, "-c", LAUNCH, "-f", "{connection_file}"],
            display_name="Python 3",
            language="python",
        )


class ThisPython(AsyncKernelManager):
    """Kernel manager for `ThisPythonSpecs`; the kernel imports the `mutineck` that started it."""

    kernel_log: str | None = None
    """File that receives what the kernel's process itself prints (a crash in a C library, say)."""

    @default("transport")
    def _transport_default(self) -> str:
        # Sockets that only this user may open, and no ports to run out of; but their paths have to be short.
        return "ipc" if len(jupyter_runtime_dir()) < 50 else "tcp"

    @default("ip")
    def _ip_default(self) -> str:
        if self.transport == "tcp":
            return "127.0.0.1"
        # jupyter_client's own default is one name a folder: two kernels at once would share their sockets.
        os.makedirs(jupyter_runtime_dir(), mode=0o700, exist_ok=True)
        return os.path.join(jupyter_runtime_dir(), f"mutineck-{uuid.uuid4().hex[:12]}")

    @default("kernel_spec_manager")
    def _kernel_spec_manager_default(self) -> KernelSpecManager:
        return ThisPythonSpecs(parent=self)

    async def _async_start_kernel(self, **options: Any) -> None:
        environment = dict(options.pop("env", None) or os.environ)
        paths = [str(repository()), *filter(None, [environment.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(paths)
        if self.kernel_log is None:
            await super()._async_start_kernel(env=environment, **options)
            return
        with open(self.kernel_log, "ab") as file:
            await super()._async_start_kernel(env=environment, stdout=file, stderr=file, **options)

    start_kernel = _async_start_kernel


def this_python(log: str | os.PathLike[str] | None) -> type[ThisPython]:
    """Return a kernel manager whose kernels print into ``log``, or where their starter does if None."""
    # nbclient takes a class and makes its own instance.
    return type("ThisPython", (ThisPython,), {"kernel_log": None if log is None else str(log)})
