"""What goes wrong at a hub, request by request. A fault is armed for a kind of request or a file, and used up by those it meets."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

#: What a request asks for. `resolve` is the hub's address of a file, `small` and `large` are where it sends the client.
HubOperation = Literal[
    "info",  # GET /api/models/{repo}[/revision/{revision}]
    "tree",  # GET /api/models/{repo}/tree/{revision}[/{path}]
    "paths",  # POST /api/models/{repo}/paths-info/{revision}
    "refs",  # GET /api/models/{repo}/refs
    "resolve",  # GET or HEAD /{repo}/resolve/{revision}/{file}
    "small",  # GET or HEAD /api/resolve-cache/models/{repo}/{commit}/{file}
    "large",  # GET or HEAD, on the storage host
    "xet",  # GET /api/models/{repo}/xet-read-token/{commit}
    "other",  # what the hub has besides: whose token it is, names of programs
]


class Tap:
    """Holds the bytes of an answer back until a test lets some of them go. `waited` is set once the server holds bytes back."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._left = 0
        self._open = False
        self.waited = threading.Event()

    @property
    def opened(self) -> bool:
        """Whether everything may go."""
        with self._condition:
            return self._open

    def let(self, pieces: int) -> None:
        """Let so many more pieces go."""
        with self._condition:
            self._left += pieces
            self._condition.notify_all()

    def open(self) -> None:
        """Let everything go."""
        with self._condition:
            self._open = True
            self._condition.notify_all()

    def take(self) -> None:
        """Wait until a piece may go."""
        with self._condition:
            if not self._left and not self._open:
                self.waited.set()
            self._condition.wait_for(lambda: self._left or self._open)
            if not self._open:
                self._left -= 1


@dataclass(frozen=True, kw_only=True)
class Refused:
    """Answered with an error instead: 429 with `Retry-After`, 503, 403 for a link that has expired, or any other."""

    status: int = 503
    retry_after_s: int | None = None
    code: str | None = None
    says: str = "upstream unavailable"
    body: bytes | None = None


@dataclass(frozen=True, kw_only=True)
class HungUp:
    """The connection is closed without an answer."""


@dataclass(frozen=True, kw_only=True)
class Moved:
    """A ref is moved to another commit before this request is answered."""

    ref: str = "main"
    commit: str


@dataclass(frozen=True, kw_only=True)
class Redirected:
    """Sent to this address instead."""

    to: str
    status: int = 302


@dataclass(frozen=True, kw_only=True)
class Headers:
    """Headers of the answer are changed, or, with None, left out."""

    changed: Mapping[str, str | None]


@dataclass(frozen=True, kw_only=True)
class Changed:
    """The answer, JSON, is changed before it is sent. Bytes are sent as they are, an iterable of bytes piece by piece."""

    by: Callable[[Any], Any]
    what: str = ""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """The connection ends after so many bytes of the body, in order or, `reset`, as if the machine had died."""

    after_bytes: int
    reset: bool = False


@dataclass(frozen=True, kw_only=True)
class Flipped:
    """The lowest bit of one byte of the file is another. Counted from the beginning of the file, whatever range is asked for."""

    at: int = 0


@dataclass(frozen=True, kw_only=True)
class WrongSize:
    """`resolve`: the size in the headers is off by so much. `small`, `large`: the body itself is, and its `Content-Length` with it."""

    by: int


@dataclass(frozen=True, kw_only=True)
class Endless:
    """The body has no end: first the file's bytes, then these again and again, until the client hangs up."""

    repeated: bytes = b"\0" * 65536


@dataclass(frozen=True, kw_only=True)
class Drip:
    """The body comes in small pieces after its first bytes, each one when the tap lets it go or, without a tap, after a pause."""

    after_bytes: int = 0
    piece_bytes: int = 1
    tap: Tap | None = None
    pause_s: float = 0.02


@dataclass(frozen=True, kw_only=True)
class RangeIgnored:
    """A request for a range is answered with 200 and the whole file."""


@dataclass(frozen=True, kw_only=True)
class Compressed:
    """Sent as gzip and without a length, as the hub sends text to whoever accepts it.

    With `bomb_mib`, so many MiB of zeros follow, of a thousandth of that size; the whole is then faulty at its very end.
    """

    bomb_mib: int = 0


#: Played before anything is done, in place of an answer.
Instead = Refused | HungUp | Redirected
#: Played on the body of an answer to GET: a HEAD passes them by.
OnBody = Cut | Flipped | Endless | Drip | RangeIgnored | Compressed
HubFault = Instead | Moved | Headers | Changed | WrongSize | OnBody


@dataclass(kw_only=True)
class Armed:
    """A fault that waits: for the next `times` requests (None: for all) that fit, after letting `skip` of them pass."""

    fault: HubFault
    on: HubOperation
    file: str | None = None
    method: str | None = None
    skip: int = 0
    times: int | None = 1
    #: How many requests it has met.
    met: int = field(default=0, init=False)


class HubScript:
    """The faults still to come. Threads of both hosts take from it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._armed: list[Armed] = []

    def add(self, armed: Iterable[Armed]) -> None:
        with self._lock:
            self._armed += armed

    def take(self, operation: HubOperation, method: str, file: str | None) -> HubFault | None:
        """The fault for one request: the first that fits, as long as it is not used up."""
        with self._lock:
            for each in self._armed:
                if each.on != operation or each.file not in {None, file} or each.method not in {None, method}:
                    continue
                if each.times is not None and each.met >= each.times:
                    continue
                if isinstance(each.fault, OnBody) and method == "HEAD":
                    continue
                if each.skip:
                    each.skip -= 1
                    continue
                each.met += 1
                return each.fault
        return None

    def left(self) -> tuple[HubFault, ...]:
        """Faults that too few requests have met: a test that arms one and never meets it proves nothing."""
        with self._lock:
            return tuple(each.fault for each in self._armed if each.met < (each.times or 1))

    def release(self) -> None:
        """Let every tap go: the hub closes."""
        with self._lock:
            for each in self._armed:
                if isinstance(each.fault, Drip) and each.fault.tap is not None:
                    each.fault.tap.open()
