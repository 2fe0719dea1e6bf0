"""The processes that share an extraction or an evaluation: one, or those that `torchrun` started."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class Processes:
    """This process's number among all."""

    rank: int = 0
    size: int = 1

    def wait(self) -> None:
        """Wait until every process has come here."""
        if self.size > 1:
            import torch.distributed as dist

            dist.barrier()

    def gather(self, items: list[Item]) -> list[Item]:
        """Return the items of every process, process 0's first, to each of them."""
        if self.size == 1:
            return items
        import torch.distributed as dist

        parts: list[list[Item]] = [[] for _ in range(self.size)]
        dist.all_gather_object(parts, items)
        return [item for part in parts for item in part]


ALONE = Processes()
"""This process and no other."""


@contextlib.contextmanager
def processes() -> Iterator[Processes]:
    """Join the processes of `torchrun` (`RANK`, `WORLD_SIZE`), if there are any, for the block."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        yield Processes(dist.get_rank(), dist.get_world_size())
    elif int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # gloo: processes only wait for each other here; the slowest may be hours behind.
        dist.init_process_group("gloo", timeout=timedelta(days=1))
        try:
            yield Processes(dist.get_rank(), dist.get_world_size())
        finally:
            dist.destroy_process_group()
    else:
        yield ALONE
