"""The ranks of one leg: how they agree, wait for each other, and share the memory that the package was opened into.

A rank is a process with its own agent's thread, hardening, measurement, scan and exit. The first one of a node attests, gets the
key and opens the package. It has a socketpair to each other rank there, which that rank made after it was hardened; a descriptor
of the opened package goes over that, and never through the agent. Of several nodes, the first rank of each other one has a
connection to the leg's first rank (`node_links`).
"""

from __future__ import annotations

import ctypes
import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_glasshouse.errors import ProtocolError, RankLostError
from pytest_glasshouse.guest.control import Control, RankLink
from pytest_glasshouse.guest.memory import SharedArena
from pytest_glasshouse.guest.node_links import accept_nodes, connect_first
from pytest_glasshouse.wire.leg_messages import Agreed, Left, LinkedProcesses, SharedParts
from pytest_glasshouse.wire.typed import check_typed
from pytest_glasshouse.workloads.data_parallel import DataParallel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_glasshouse.wire.canonical import Json
    from pytest_glasshouse.wire.host_messages import NodesOrder
    from pytest_glasshouse.wire.leg_messages import RankPlace
    from pytest_glasshouse.workloads.base import DeviceName


@dataclass(kw_only=True)
class Ranks:
    """This process as one of the ranks of its leg; `join` makes it. Raises `RankLostError` when another one is gone."""

    rank: int
    """Among all ranks of the leg, on whatever node."""
    size: int
    leads: bool
    """Whether this is its node's first rank, which attests and opens the package."""
    up: Control | None
    """To the rank that this one follows: its node's first, or of that one the leg's first, which has none."""
    links: list[Control]
    """Of a node's first rank, one to each other rank of the node."""
    nodes: list[Control]
    """Of the leg's first rank, one to the first of each other node."""
    group: DataParallel

    @classmethod
    def join(cls, place: RankPlace, control: Control, device: DeviceName, nodes: NodesOrder | None = None) -> Ranks:
        """Meet the other ranks. This process must be hardened, and must have imported what it trains with."""
        leads = place["rank"] == 0
        up: Control | None = None
        links: list[Control] = []
        if leads:
            control.send("links", {})
            pids = check_typed(control.receive("links")[1], LinkedProcesses, "links")["pids"]
            if place["size"] > 1:
                ends = [socket.socket(fileno=fd) for fd in control.descriptors(place["size"] - 1)]
                links = [RankLink(end, pid) for end, pid in zip(ends, pids, strict=True)]
        else:
            up = _link_to_first(control)
        others: list[Control] = []
        if nodes is not None and leads:
            up, others = _link_nodes(place, nodes)
        node, count = (0, 1) if nodes is None else (nodes["node"], nodes["nodes"])
        rank, size = node * place["size"] + place["rank"], count * place["size"]
        group = DataParallel.join(rank, size, listener=place["listener"], device=device)
        return cls(rank=rank, size=size, leads=leads, up=up, links=links, nodes=others, group=group)

    @property
    def first(self) -> bool:
        """Whether this is the leg's first rank, whose turns, marks and count of steps are the leg's."""
        return self.rank == 0

    def agree(self, value: int) -> int:
        """The first rank's `value`, on every rank. Costs a message and no processor time while it is waited for."""
        if self.up is not None:
            value = check_typed(_receive(self.up, "agreed"), Agreed, "agreed")["value"]
        for link in (*self.nodes, *self.links):
            _send(link, "agreed", {"value": value})
        return value

    def barrier(self) -> None:
        """Return when every rank is here."""
        for link in (*self.links, *self.nodes):
            _receive(link, "here")
        if self.up is not None:
            _send(self.up, "here", {})
        self.agree(0)

    def share(self, arena: SharedArena, parts: Mapping[str, memoryview]) -> None:
        """A node's first rank: give every other one of the node the memory that the package was opened into."""
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
        up = self._up()
        told = check_typed(_receive(up, "shared"), SharedParts, "shared")
        descriptor = up.descriptors(1)[0]
        if os.fstat(descriptor).st_size != max(told["bytes"], 1):
            raise ProtocolError("expected shared memory of the size that was announced")
        arena = SharedArena(told["bytes"], descriptor=descriptor)
        arena.drop_descriptor()
        return arena, {name: arena.view[start:end] for name, (start, end) in told["parts"].items()}

    def leave(self, head: str) -> None:
        """Another rank: say that it holds nothing of the shared memory any more, and the head of its journal."""
        left: Left = {"head": head}
        _send(self._up(), "left", left)

    def all_left(self) -> list[str]:
        """A node's first rank: wait until every other one there has left; the heads of their journals, in their order."""
        return [check_typed(_receive(link, "left"), Left, "left")["head"] for link in self.links]

    def _up(self) -> Control:
        assert self.up is not None  # noqa: S101  (of a rank that follows another)
        return self.up


def _link_to_first(control: Control) -> Control:
    """A rank's link to the first of its node, whose process the agent names once that one has the other end."""
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        # Also what is sent before the other rank has its end says from whom it is.
        end.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    control.send_descriptors("link", {}, [theirs.fileno()])
    theirs.close()
    return RankLink(ours, check_typed(control.receive("linked")[1], LinkedProcesses, "linked")["pids"][0])


def _link_nodes(place: RankPlace, nodes: NodesOrder) -> tuple[Control | None, list[Control]]:
    """The links of a node's first rank: to the leg's first, and of that one to the others."""
    secret = bytes.fromhex(nodes["secret"])
    if nodes["node"] == 0:
        listening = place.get("links")
        if listening is None:
            raise ProtocolError("expected a socket that the other nodes connect to")
        with socket.socket(fileno=listening) as listener:
            return None, [Control(each) for each in accept_nodes(listener, secret=secret, nodes=nodes["nodes"])]
    meeting = nodes.get("meeting")
    if meeting is None:
        raise ProtocolError("expected to be told where the first node is")
    return Control(connect_first(meeting["address"], meeting["link_port"], secret=secret, node=nodes["node"])), []


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
