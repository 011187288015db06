"""Several processes that share one piece of work, as `torchrun` starts them; alone, all of this is nothing."""

from __future__ import annotations

import atexit
import datetime
import os
from dataclasses import dataclass

import torch
import torch.distributed as dist

PATIENCE = datetime.timedelta(days=2)  # one process may have the slower half of a large set


@dataclass(frozen=True)
class Processes:
    """This process is number `rank` of `size`."""

    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls) -> Processes:
        """As the environment of torchrun says; they find each other over gloo, and over NCCL for what lies on GPUs."""
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls()
        if not dist.is_initialized():
            dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
            atexit.register(dist.destroy_process_group)
        return cls(dist.get_rank(), size)

    @property
    def first(self) -> bool:
        """Whether this is the one that does what only one may do."""
        return self.rank == 0

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            dist.all_reduce(torch.zeros(1))  # on the CPU: a barrier of NCCL would want to know its GPU

    def share(self, items: int, block: int) -> range:
        """This process's part of `items`, in whole blocks of `block`: the blocks are those of a single process."""
        blocks = -(-items // block)
        each = -(-blocks // self.size)
        start = min(self.rank * each * block, items)
        return range(start, min(start + each * block, items))
