"""Requests that are carried out once, however often they arrive.

A host whose connection broke repeats the request in flight under the same number. Whoever carried it out already gives the
answer he gave: a leg is not started twice and no event is lost. What a request means is not known here.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from pytest_glasshouse.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_glasshouse.wire.canonical import Json

AgentReply = tuple[dict[str, "Json"], bytes]

#: Conversations remembered at once; the one that has been quiet longest is forgotten first.
_MOST_SESSIONS = 64


class _ClientSession:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.number = 0
        self.reply: AgentReply | None = None


class Sessions:
    """The last answer of every conversation. A conversation asks one thing at a time, so one answer is enough."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sessions: OrderedDict[str, _ClientSession] = OrderedDict()

    def answer(self, request: dict[str, Json], carry_out: Callable[[], AgentReply]) -> AgentReply:
        """Carry `request` out unless it was, and give its answer. One without a session is simply carried out.

        Raises `ProtocolError` for a number that is neither the last one nor the next.
        """
        name, number = request.get("session"), request.get("number")
        if not isinstance(name, str) or not isinstance(number, int):
            return carry_out()
        session = self._session(name)
        # A repetition may arrive while the first is still being carried out: it waits for that answer.
        with session.lock:
            if number == session.number and session.reply is not None:
                return session.reply
            if number <= session.number:
                raise ProtocolError(f"request {number} of a conversation that is at {session.number}")
            session.reply = carry_out()
            session.number = number
            return session.reply

    def _session(self, name: str) -> _ClientSession:
        with self._lock:
            session = self._sessions.setdefault(name, _ClientSession())
            self._sessions.move_to_end(name)
            while len(self._sessions) > _MOST_SESSIONS:
                self._sessions.popitem(last=False)
            return session
