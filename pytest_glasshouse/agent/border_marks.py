"""The marks at the borders of a round's timed stretches, as the agent asks for them: before each stretch, and after it.

At a border the agent draws a nonce, has the host bring the attestation server's signed time for it, and goes on when it holds
that: no timed stretch begins before its mark was signed, and none has a mark that was signed before it ended. The leg waits
meanwhile with its clock stopped, so a mark is in no measured time.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from pytest_glasshouse.errors import IntegrityError, ProtocolError
from pytest_glasshouse.guest.clock import now_ns
from pytest_glasshouse.wire import tokens
from pytest_glasshouse.wire.evidence import TYP_MARKS
from pytest_glasshouse.wire.guest_messages import MOST_TURNS
from pytest_glasshouse.wire.host_messages import MarkAnswer
from pytest_glasshouse.wire.marks import marks_claims, read_mark
from pytest_glasshouse.wire.typed import check_typed

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

    from pytest_glasshouse.agent.spool import Spool
    from pytest_glasshouse.wire.canonical import Json
    from pytest_glasshouse.wire.host_messages import AnswerBody

#: Bytes of a border's nonce.
_NONCE_BYTES = 16


class BorderMarks:
    """The marks of one leg, or of all turns of a round, in order; every method is of one thread.

    `server` is the server's public key as text, None where no marks are wanted. `label` is what the events are about, `nonce` the
    round's. `answer` waits for what the host answers to an event, and returns its kind and body.
    """

    def __init__(
        self, server: str | None, *, nonce: str, label: str, spool: Spool, answer: Callable[[], tuple[str, AnswerBody]]
    ) -> None:
        self._server: Ed25519PublicKey | None = None if server is None else tokens.public_key(server)
        self._nonce = nonce
        self._label = label
        self._spool = spool
        self._answer = answer
        self._marks: list[Json] = []

    def cross(self) -> None:
        """Have the server sign its time now. Raises `ProtocolError` or `IntegrityError` where no mark of it comes."""
        if self._server is None:
            return
        if len(self._marks) > MOST_TURNS:
            raise ProtocolError("expected no more borders than a round can have turns")
        nonce, asked_ns = secrets.token_hex(_NONCE_BYTES), now_ns()
        self._spool.append(self._label, "mark-wanted", {"nonce": nonce})
        kind, body = self._answer()
        if kind != "mark":
            raise IntegrityError("mark", "the host brought no mark of the attestation server")
        read_mark(check_typed(body, MarkAnswer, "mark")["mark"], server=self._server, nonce=nonce)
        self._marks.append([nonce, asked_ns, now_ns()])

    def write(self, key: Ed25519PrivateKey) -> None:
        """Put the signed account of the marks into the spool."""
        if self._server is not None:
            token = tokens.sign(marks_claims(nonce=self._nonce, marks=self._marks), key=key, typ=TYP_MARKS)
            self._spool.append(self._label, "marks", {"marks": token})
