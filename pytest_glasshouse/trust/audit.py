"""One line for each decision of the server: when, what was asked, what was decided and why, about whom.

Knows names by their digests only. Refuses tokens, nonces and whatever a message said: a line has these fields and no other.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal

from pytest_glasshouse.wire.canonical import canonical, tagged

Decision = Literal["accepted", "released", "completed", "refused", "overdue", "started", "stopped"]


@dataclass(frozen=True, kw_only=True)
class AuditLine:
    """One decision. `reason` is the refusal's stable code; `sub` and `nonce` are digests, `kid` is a key's thumbprint."""

    event: str
    decision: Decision
    reason: str = ""
    kid: str = ""
    sub: str = ""
    nonce: str = ""


#: Where lines go. What it raises refuses the decision: one that cannot be written down is not made.
Audit = Callable[[AuditLine], None]


def no_audit(_line: AuditLine) -> None:
    """For a server that is embedded: the report says what was asked and answered."""


def name_digest(kind: Literal["sub", "nonce"], name: str) -> str:
    """A name as the log shows it: lines about the same one can be put together, and the name is not told."""
    return tagged(f"glasshouse-audit-{kind}/1", name.encode())[:16] if name else ""


class AuditLog:
    """JSON lines on a file descriptor, each one whole: other processes may append to the same file."""

    def __init__(self, fd: int, *, clock: Callable[[], float] = time.time) -> None:
        self._fd = fd
        self._clock = clock

    def __call__(self, line: AuditLine) -> None:
        """Write one line."""
        now = self._clock()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
        entry = {"time": f"{stamp}.{int(now % 1 * 1000):03d}Z", **asdict(line)}
        data = canonical({name: value for name, value in entry.items() if value}) + b"\n"
        if os.write(self._fd, data) != len(data):
            raise OSError("audit log: short write")
