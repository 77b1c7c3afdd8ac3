"""Gives the legs of one round their turns, one at a time, and reads at each border how much processor each has used.

It knows an order of turns that was drawn before and sees it through; what the readings mean is not known here. It works
in a thread of its own, so that reading is nobody's work: no leg trains while it reads.
"""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pytest_glasshouse.agent.cpu_time import Meter, processes
from pytest_glasshouse.errors import ProtocolError
from pytest_glasshouse.guest.clock import now_ns
from pytest_glasshouse.wire import evidence, tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from pytest_glasshouse.agent.spool import Spool
    from pytest_glasshouse.wire.canonical import Json


class Player(Protocol):
    """One leg as the conductor knows it."""

    def command(self, kind: str, turn: int) -> None:
        """Have the leg's own thread tell it: `turn` or `finish`."""

    @property
    def process_group(self) -> int:
        """The launcher's process id."""

    @property
    def thread(self) -> int:
        """The identifier of the agent's thread that serves this leg."""


@dataclass(frozen=True, kw_only=True)
class Heard:
    """What a leg did: `arrived` (warm, or its turn over), or `left`."""

    role: str
    what: str


class Conductor(threading.Thread):
    """One interleaved round. `turns` names the leg of each turn; `roles` is in the order in which the legs start."""

    def __init__(
        self, *, name: str, nonce: str, roles: Sequence[str], turns: Sequence[str], key: Ed25519PrivateKey, spool: Spool
    ) -> None:
        if not set(turns) <= set(roles) or len(set(roles)) != len(roles):
            raise ProtocolError("conduct: every turn belongs to one of the legs")
        super().__init__(name=f"conductor-{name}", daemon=True)
        self._label = name
        self._nonce = nonce
        self.roles = tuple(roles)
        self._turns = tuple(turns)
        self._key = key
        self._spool = spool
        self._heard: queue.Queue[Heard] = queue.Queue()
        self._players: dict[str, Player] = {}
        self._meters: dict[str, Meter] = {}
        self._waiting: set[str] = set()
        self._gone: set[str] = set()
        self._borders: list[Json] = []

    def join_in(self, role: str, player: Player) -> None:
        """A leg of this round begins."""
        if role not in self.roles or role in self._players:
            raise ProtocolError(f"conduct: no leg {role!r} is expected now")
        self._players[role] = player

    def arrived(self, role: str) -> None:
        """A leg is warm, or its turn is over; it now waits."""
        self._heard.put(Heard(role=role, what="arrived"))

    def left(self, role: str) -> None:
        """A leg has ended, however."""
        self._heard.put(Heard(role=role, what="left"))

    def dismiss(self) -> None:
        """No more legs will come: those that wait shall finish."""
        self._heard.put(Heard(role="", what="left"))

    def run(self) -> None:
        """The thread's body."""
        if self._assemble():
            self._meters = {
                role: Meter(root=player.process_group, threads=(player.thread,)) for role, player in self._players.items()
            }
            self._play()
        claims = evidence.borders_claims(nonce=self._nonce, roles=self.roles, turns=self._turns, borders=self._borders)
        token = tokens.sign(claims, key=self._key, typ=evidence.TYP_BORDERS)
        self._spool.append(self._label, "borders", {"borders": token})
        # The last to start finishes first: what it held on the device is gone before the other's end is looked at.
        for role in reversed(self.roles):
            if role in self._players:
                self._finish(role)

    def _assemble(self) -> bool:
        """Wait until every leg is warm; False when one left, or will not come."""
        while self._waiting != set(self.roles):
            if self._listen().what == "left":
                return False
        return True

    def _play(self) -> None:
        """Every turn, until one is not played to its end."""
        for number, role in enumerate(self._turns, 1):
            before = self._read()
            self._command(role, "turn", number)
            heard = self._listen()
            after = self._read()
            if heard != Heard(role=role, what="arrived"):
                return
            self._borders.append([before, after])
            self._spool.append(self._label, "turn", {"turn": number, "turns": len(self._turns), "leg": role})

    def _finish(self, role: str) -> None:
        while role not in self._waiting | self._gone:
            self._listen()
        if role in self._waiting:
            self._command(role, "finish", 0)
        while role not in self._gone:
            self._listen()

    def _command(self, role: str, kind: str, turn: int) -> None:
        self._waiting.discard(role)
        self._players[role].command(kind, turn)

    def _listen(self) -> Heard:
        heard = self._heard.get()
        if heard.what == "arrived":
            self._waiting.add(heard.role)
        else:
            self._waiting.discard(heard.role)
            self._gone.add(heard.role)
        return heard

    def _read(self) -> list[Json]:
        """The time, then each leg's processor time and number of processes, in the order of `roles`."""
        everyone = processes()
        read: list[Json] = [now_ns()]
        for role in self.roles:
            read += [self._meters[role].read_ns(everyone), self._meters[role].processes]
        return read
