"""The ranks of one leg: how they agree, wait for each other, and share the memory that the package was opened into.

A rank is a process with its own agent's thread, hardening, measurement, scan and exit. The first one is the leg: it attests, gets
the key and opens the package. It has a socketpair to each other rank, which that rank made after it was hardened; a descriptor of
the opened package goes over that, and never through the agent.
"""

from __future__ import annotations

import ctypes
import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_glasshouse.errors import ProtocolError, RankLostError
from pytest_glasshouse.guest.control import Control
from pytest_glasshouse.guest.memory import SharedArena
from pytest_glasshouse.wire.leg_messages import Agreed, Left, SharedParts
from pytest_glasshouse.wire.typed import check_typed
from pytest_glasshouse.workloads.data_parallel import DataParallel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_glasshouse.wire.canonical import Json
    from pytest_glasshouse.wire.leg_messages import RankPlace
    from pytest_glasshouse.workloads.base import DeviceName


@dataclass(kw_only=True)
class Ranks:
    """This process as one of the ranks of its leg; `join` makes it. Raises `RankLostError` when another one is gone."""

    rank: int
    size: int
    links: list[Control]
    """Of the first rank, one to each other; of another, the one to the first."""
    group: DataParallel

    @classmethod
    def join(cls, place: RankPlace, control: Control, device: DeviceName) -> Ranks:
        """Meet the other ranks. This process must be hardened, and must have imported what it trains with."""
        rank, size = place["rank"], place["size"]
        if rank:
            ours, theirs = socket.socketpair()
            control.send_descriptors("link", {}, [theirs.fileno()])
            theirs.close()
            links = [Control(ours)]
        else:
            control.send("links", {})
            control.receive("links")
            links = [Control(socket.socket(fileno=fd)) for fd in control.descriptors(size - 1)]
        group = DataParallel.join(rank, size, listener=place["listener"], device=device)
        return cls(rank=rank, size=size, links=links, group=group)

    @property
    def first(self) -> bool:
        """Whether this is the rank that attests and opens the package."""
        return self.rank == 0

    def agree(self, value: int) -> int:
        """The first rank's `value`, on every rank. Costs a message and no processor time while it is waited for."""
        if self.first:
            for link in self.links:
                _send(link, "agreed", {"value": value})
            return value
        return check_typed(_receive(self.links[0], "agreed"), Agreed, "agreed")["value"]

    def barrier(self) -> None:
        """Return when every rank is here."""
        if self.first:
            for link in self.links:
                _receive(link, "here")
        else:
            _send(self.links[0], "here", {})
        self.agree(0)

    def share(self, arena: SharedArena, parts: Mapping[str, memoryview]) -> None:
        """The first rank: give every other one the memory that the package was opened into."""
        places = {name: _place(part, arena) for name, part in parts.items()}
        body: SharedParts = {"bytes": arena.size, "parts": places}
        for link in self.links:
            try:
                link.send_descriptors("shared", body, [arena.descriptor])
            except OSError as error:
                raise RankLostError(f"another rank does not answer: {error}") from None
        arena.drop_descriptor()

    def shared(self) -> tuple[SharedArena, dict[str, memoryview]]:
        """Another rank: that memory, mapped here, and its parts."""
        told = check_typed(_receive(self.links[0], "shared"), SharedParts, "shared")
        descriptor = self.links[0].descriptors(1)[0]
        if os.fstat(descriptor).st_size != max(told["bytes"], 1):
            raise ProtocolError("expected shared memory of the size that was announced")
        arena = SharedArena(told["bytes"], descriptor=descriptor)
        arena.drop_descriptor()
        return arena, {name: arena.view[start:end] for name, (start, end) in told["parts"].items()}

    def leave(self, head: str) -> None:
        """Another rank: say that it holds nothing of the shared memory any more, and the head of its journal."""
        left: Left = {"head": head}
        _send(self.links[0], "left", left)

    def all_left(self) -> list[str]:
        """The first rank: wait until every other one has left; the heads of their journals, in the order of the ranks."""
        return [check_typed(_receive(link, "left"), Left, "left")["head"] for link in self.links]


def _place(part: memoryview, arena: SharedArena) -> list[int]:
    start = ctypes.addressof(ctypes.c_char.from_buffer(part)) - arena.address if len(part) else 0
    return [start, start + len(part)]


def _send(link: Control, kind: str, body: Mapping[str, object]) -> None:
    try:
        link.send(kind, body)
    except OSError as error:
        raise RankLostError(f"another rank does not answer: {error}") from None


def _receive(link: Control, kind: str) -> dict[str, Json]:
    try:
        return link.receive(kind)[1]
    except (OSError, ProtocolError) as error:
        raise RankLostError(f"another rank does not answer: {error}") from None
