"""The guest's outbox: every event and callback is on disk before it is delivered.

The host pulls with a cursor, so a cut connection loses no event and repeats none. Spooled is only what may be public on
the operator's machine: tokens, journal lines, callbacks. No key and no plaintext.
"""

from __future__ import annotations

import errno
import threading
from typing import TYPE_CHECKING

from pytest_glasshouse.guest.clock import now_ns
from pytest_glasshouse.wire.append_log import append_line
from pytest_glasshouse.wire.canonical import canonical, parse_strict
from pytest_glasshouse.wire.guest_messages import EVENTS_PER_PULL, PULL_BYTES

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_glasshouse.wire.canonical import Json

_LINE_LIMIT = 1024 * 1024
#: Events delivered from memory even where the disk is full: a leg's failure, and what its agent signs at its end.
_FINAL_EVENTS = frozenset({"failed", "marks", "stretches", "exit"})


class Spool:
    """An append-only file of JSON lines `{seq, t_ns, leg, type, body}`, fsynced line by line.

    `t_ns` is the guest's monotonic clock. A spool found on disk is continued: an agent restarted on the same disk still has
    every event of its predecessor.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._grown = threading.Condition()
        self._events: list[dict[str, Json]] = []
        self._sizes: list[int] = []
        for line in path.read_bytes().splitlines() if path.exists() else []:
            event = parse_strict(line, limit=_LINE_LIMIT)
            if isinstance(event, dict):
                self._events.append(event)
                self._sizes.append(len(line))

    def append(self, leg: str, kind: str, body: dict[str, Json]) -> None:
        """Write one event and wake the waiting pulls; it is on disk when this returns.

        Raises `OSError` where it cannot be written, except for an event of `_FINAL_EVENTS`.
        """
        with self._grown:
            event: dict[str, Json] = {
                "seq": len(self._events),
                "t_ns": now_ns(),
                "leg": leg,
                "type": kind,
                "body": body,
            }
            line = canonical(event)
            try:
                append_line(self._path, line)
            except OSError:
                if kind not in _FINAL_EVENTS:
                    raise OSError(errno.ENOSPC, "the guest's spool cannot be written") from None
            self._events.append(event)
            self._sizes.append(len(line))
            self._grown.notify_all()

    def since(self, cursor: int, *, wait_s: float) -> list[dict[str, Json]]:
        """Events with `seq >= cursor`, as many as one answer holds; waits up to `wait_s` seconds for the first of them."""
        with self._grown:
            self._grown.wait_for(lambda: len(self._events) > cursor, timeout=wait_s)
            end, left = cursor, PULL_BYTES
            while end < min(len(self._events), cursor + EVENTS_PER_PULL) and (left > self._sizes[end] or end == cursor):
                left -= self._sizes[end]
                end += 1
            return self._events[cursor:end]

    @property
    def cursor(self) -> int:
        """The sequence number of the next event."""
        with self._grown:
            return len(self._events)
