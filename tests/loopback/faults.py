"""What goes wrong, request by request. A fault is taken by the first request it fits, and then it is used up."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Literal, get_args

#: What a request asks for, whatever API it comes by.
Operation = Literal["offers", "create", "get", "list", "terminate", "logs", "account", "volume"]

#: Played by the server before anything is done: nothing happens, and this is the answer.
Refusal = Literal[
    "429",  # too many requests; `retry_after_s` adds the header
    "500",
    "503",
    "html-502",  # a proxy's page
    "401",
    "hang-up",  # the connection is closed, nothing was done
]
#: Played by the server after the work was done: it happened, and the answer is not what it should be.
Lost = Literal[
    "lost-answer",  # the connection is closed
    "500-after",
    "html-after",
]
#: Played by the cloud: the work itself goes wrong.
Act = Literal[
    "null-pod",  # create: it exists, the answer names nothing
    "new-contract-in-error",  # create: refused, and still something exists (Vast.ai)
    "no-capacity",
    "no-funds",
    "bad-request",
    "late-create",  # create: 500, and it begins to exist only `after_s` later
    "stuck",  # create: it provisions for ever, and bills
    "error-state",
    "unknown-state",
    "wrong-gpu",
    "vanish",  # create: it runs, and is gone `after_s` later
    "restart",  # create: it runs, and restarts `after_s` later, with another boot id and another port
    "no-start",  # create: its state is running, and nothing in it runs
    "refused",  # terminate: an error, and it keeps running
    "silent",  # terminate: accepted, and it keeps running
    "comes-back",  # terminate: accepted, hidden, and `after_s` later it is listed and billing as before
    "lag",  # terminate: it ends, and the listing shows it `after_s` longer
    "second-page",  # list: more than one page
    "half",  # list: an entry is null, and an error beside the answer names it (GraphQL)
    "short-list",  # list: an entry is missing though the total counts it
]
Kind = Refusal | Lost | Act
REFUSALS: frozenset[str] = frozenset(get_args(Refusal))
LOST: frozenset[str] = frozenset(get_args(Lost))


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One fault: `kind` on the next `times` requests for `on`, after letting `skip` of them pass."""

    kind: Kind
    on: Operation = "create"
    times: int = 1
    skip: int = 0
    after_s: float = 0.5
    retry_after_s: int | None = None


class Script:
    """The faults still to come. Threads of the server take from it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._left: list[list[object]] = []

    def add(self, *faults: Fault) -> None:
        """More faults, behind those that wait already."""
        with self._lock:
            self._left += [[fault, fault.skip, fault.times] for fault in faults]

    def take(self, operation: Operation) -> Fault | None:
        """The fault for one request, if there is one."""
        with self._lock:
            for entry in self._left:
                fault, skip, times = entry
                assert isinstance(fault, Fault)
                assert isinstance(skip, int)
                assert isinstance(times, int)
                if fault.on != operation:
                    continue
                if skip:
                    entry[1] = skip - 1
                    continue
                entry[2] = times - 1
                if times == 1:
                    self._left.remove(entry)
                return fault
        return None

    def left(self) -> tuple[Fault, ...]:
        """Faults that no request has used up: a test that scripts one and never meets it proves nothing."""
        with self._lock:
            return tuple(entry[0] for entry in self._left if isinstance(entry[0], Fault))
