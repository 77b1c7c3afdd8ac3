"""Idempotent requests: each is carried out once, however often it arrives.

A host whose connection broke repeats the request in flight under the same number. A request that was carried out gets the
cached reply: a leg is not started twice and no event is lost.
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

#: Sessions remembered at once; the least recently used is forgotten first.
_MOST_SESSIONS = 64


class _ClientSession:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.number = 0
        self.reply: AgentReply | None = None


class ReplyCache:
    """The last reply of every session. A session has one request in flight at a time, so one reply is enough."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sessions: OrderedDict[str, _ClientSession] = OrderedDict()

    def answer(self, request: dict[str, Json], carry_out: Callable[[], AgentReply]) -> AgentReply:
        """The reply to `request`, carried out unless it was before. A request without a session is always carried out.

        Raises `ProtocolError` for a number that is neither the last one nor the next.
        """
        name, number = request.get("session"), request.get("number")
        if not isinstance(name, str) or not isinstance(number, int):
            return carry_out()
        session = self._session(name)
        # A repetition may arrive while the first is still being carried out: it waits for that reply.
        with session.lock:
            if number == session.number and session.reply is not None:
                return session.reply
            if number <= session.number:
                raise ProtocolError(f"expected request {session.number} again, or a later one, in this session; saw {number}")
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
