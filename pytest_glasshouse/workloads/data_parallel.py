"""Data-parallel training: the ranks of a leg average their gradients before every optimizer step.

Each rank is a process on a GPU of its own, or on the CPU, that trains its share of every step. torch's process groups do the
rest: NCCL on GPUs, gloo on the CPU, found by torch's own variables RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT.
"""

from __future__ import annotations

import os
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.errors import RankLostError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_glasshouse.workloads.base import DeviceName

#: How long a rank waits for the others within a step. It is longer than any step: a rank that waits so long waits for one that
#: stands still.
COLLECTIVE_S = 600
_BACKENDS: dict[str, str] = {"cpu": "gloo", "cuda": "nccl"}


class DataParallel:
    """This process as one rank of its leg. `join` waits until all are there, and `close` must be called."""

    def __init__(self, rank: int, size: int, *, waits: bool) -> None:
        """`waits`: whether a collective has ended when its call returns."""
        self.rank, self.size = rank, size
        self._flat: Any = None
        #: Wall time spent in collectives so far, which on the CPU includes waiting for the slowest rank; on a GPU they are only
        #: queued, and nothing is counted.
        self.collective_ns = 0
        self._waits = waits

    @classmethod
    def join(cls, rank: int, size: int, *, listener: int | None, device: DeviceName) -> DataParallel:
        """Meet the other ranks. `listener` is the first rank's listening socket, at MASTER_ADDR and MASTER_PORT."""
        import torch.distributed as dist

        limit = timedelta(seconds=COLLECTIVE_S)
        store = dist.TCPStore(  # type: ignore[attr-defined]
            os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), size, is_master=rank == 0, timeout=limit,
            master_listen_fd=listener,
        )  # fmt: skip
        dist.init_process_group(_BACKENDS[device], store=store, rank=rank, world_size=size, timeout=limit)
        joined = cls(rank, size, waits=_BACKENDS[device] == "gloo")
        import torch

        # The first collective makes the connections, and on a GPU loads the kernels.
        joined.average([torch.zeros(1, device=device)])
        joined.collective_ns = 0
        return joined

    def average(self, gradients: Sequence[Any]) -> None:
        """Replace each of `gradients` by its mean over all ranks, in one collective. Raises `RankLostError`."""
        import torch
        import torch.distributed as dist

        sizes = [gradient.numel() for gradient in gradients]
        if self._flat is None or self._flat.numel() != sum(sizes):
            self._flat = torch.empty(sum(sizes), dtype=torch.float32, device=gradients[0].device)
        pieces = self._flat.split(sizes)
        with torch.no_grad():
            for piece, gradient in zip(pieces, gradients, strict=True):
                piece.copy_(gradient.reshape(-1))
            began = time.perf_counter_ns()
            try:
                dist.all_reduce(self._flat)
            except RuntimeError as error:
                raise RankLostError(f"a collective did not end: {error}") from None
            if self._waits:
                self.collective_ns += time.perf_counter_ns() - began
            self._flat /= self.size
            for piece, gradient in zip(pieces, gradients, strict=True):
                gradient.copy_(piece.reshape(gradient.shape))

    def share_of(self, count: int) -> tuple[int, int]:
        """The first and the next after the last of `count` items that are this rank's: each rank has as many."""
        return self.rank * count // self.size, (self.rank + 1) * count // self.size

    def close(self) -> None:
        """Leave the group and overwrite the last gradients. Other ranks may be gone."""
        import torch.distributed as dist

        if self._flat is not None:
            self._flat.zero_()
            self._flat = None
        dist.destroy_process_group()
