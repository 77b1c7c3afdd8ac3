"""The audit log: one line for each decision of the server, with time, operation, decision, reason and session.

Knows names by their digests only. Refuses tokens, nonces and any content of a message: a line has these fields and no other.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal

from pytest_glasshouse.attestation.limits import PeerRateLimiter
from pytest_glasshouse.wire.canonical import Json, canonical, tagged

Decision = Literal["accepted", "marked", "released", "completed", "refused", "overdue", "started", "stopped"]
#: Rate limit for lines about refusals, per enrolled key, and for all requests without one together; the limit accumulates for
#: `REFUSALS_SAVED_S`. Refusals above it are only counted: a flood of them must not rotate releases out of the log.
REFUSALS_PER_S, REFUSALS_SAVED_S = 1.0, 1000.0


@dataclass(frozen=True, kw_only=True)
class AuditLine:
    """One decision. `reason` is the refusal's stable code; `sub` and `nonce` are digests, `kid` is a key's thumbprint."""

    event: str
    decision: Decision
    reason: str = ""
    kid: str = ""
    sub: str = ""
    nonce: str = ""


#: Writes a line. An exception refuses the decision: one that cannot be logged is not made.
Audit = Callable[[AuditLine], None]


def no_audit(_line: AuditLine) -> None:
    """For an embedded server: the report holds its requests and answers."""


def name_digest(kind: Literal["sub", "nonce"], name: str) -> str:
    """A name's pseudonym in the log: lines about the same name can be joined, and the name is not disclosed."""
    return tagged(f"glasshouse-audit-{kind}/1", name.encode())[:16] if name else ""


class AuditLog:
    """JSON lines on a file descriptor, one write each: other processes may append to the same file."""

    def __init__(self, fd: int, *, clock: Callable[[], float] = time.time) -> None:
        self._fd = fd
        self._clock = clock
        self._lock = threading.RLock()
        self._refusals = PeerRateLimiter(REFUSALS_PER_S, burst_s=REFUSALS_SAVED_S, clock=clock)
        self._left_out = 0
        self._torn = False

    def __call__(self, line: AuditLine) -> None:
        """Write one line, or count a refusal above the rate limit. `left_out` is the number counted since the last line."""
        with self._lock:
            if line.decision == "refused" and self._refusals.admit(line.kid) != "admitted":
                self._left_out += 1
                return
            left_out: dict[str, Json] = {"left_out": self._left_out} if self._left_out else {}
            self._append(self._line({**asdict(line), **left_out}))
            self._left_out = 0

    def _line(self, fields: dict[str, Json]) -> bytes:
        now = self._clock()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
        entry = {"time": f"{stamp}.{int(now % 1 * 1000):03d}Z", **fields}
        return canonical({name: value for name, value in entry.items() if value != ""}) + b"\n"

    def _append(self, data: bytes) -> None:
        whole = b"\n" + data if self._torn else data  # ends an incomplete line, so that this one can be read
        written = os.write(self._fd, whole)
        self._torn = written != len(whole)
        if self._torn:
            raise OSError("audit log: short write")
