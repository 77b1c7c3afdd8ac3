"""The server's answers to one leg, as the host relays them: taken in by one thread, waited for by the leg's."""

from __future__ import annotations

import queue
from typing import TYPE_CHECKING

from pytest_glasshouse.errors import ProtocolError

if TYPE_CHECKING:
    from pytest_glasshouse.wire.host_messages import AnswerBody

#: How long the host may take to bring one: longer than it waits for a server itself.
_ANSWER_S = 1800.0


class ServerAnswers:
    """Answers in the order in which they arrive."""

    def __init__(self) -> None:
        self._answers: queue.Queue[tuple[str, AnswerBody]] = queue.Queue()

    def put(self, kind: str, body: AnswerBody) -> None:
        """One answer."""
        self._answers.put((kind, body))

    def next(self) -> tuple[str, AnswerBody]:
        """The next answer, of whatever kind. Raises `ProtocolError` when none comes."""
        try:
            return self._answers.get(timeout=_ANSWER_S)
        except queue.Empty:
            raise ProtocolError(f"expected the server's answer within {_ANSWER_S:g} s") from None

    def expect(self, *kinds: str) -> tuple[str, AnswerBody]:
        """The next answer. Raises `ProtocolError` for one of another kind, too."""
        kind, body = self.next()
        if kind not in kinds:
            raise ProtocolError(f"expected {' or '.join(kinds)} from the server; saw {kind!r}")
        return kind, body
