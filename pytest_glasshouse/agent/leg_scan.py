"""The agent's side of the memory scan: takes a leg's descriptors, scans when the leg asks, and reports the result.

Three scans: `loaded` and `trained` are the positive control, `wiped` is the one that counts; after it the leg's launcher,
which never held a secret, is searched for the same. The result is signed with the leg's exit; the host judges it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pytest_glasshouse.agent.memory_scan import DescriptorMemory, Memory, ranges_of, scan
from pytest_glasshouse.errors import ProtocolError
from pytest_glasshouse.wire import frames
from pytest_glasshouse.wire.fingerprints import Pattern, read_patterns
from pytest_glasshouse.wire.shapes import Fields, Whole
from pytest_glasshouse.wire.typed import check_typed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

    from pytest_glasshouse.agent.memory_scan import ScanResult
    from pytest_glasshouse.wire.canonical import Json
    from pytest_glasshouse.wire.peer_credentials import PeerCredentialSocket

#: How long a leg may take to serve one read of its memory.
_READ_S = 60.0
STAGES = ("loaded", "trained", "wiped")


class LauncherMemory(Protocol):
    """The process that forked a leg, as it is searched."""

    def memory(self) -> AbstractContextManager[Memory]: ...


class LegScan:
    """The scan of one leg, from its descriptors to the claims in its exit."""

    def __init__(self) -> None:
        self._reason = "the leg gave no access to its memory"
        self._memory: Memory | None = None
        self._descriptors: list[int] = []
        self._salt = b""
        self._patterns: list[Pattern] = []
        self._control: set[int] = set()
        self._looks: dict[str, ScanResult] = {}

    def attach(self, connection: PeerCredentialSocket, body: dict[str, Json], *, pid: int) -> None:
        """Take the leg's descriptors: of the memory of process `pid`, or of a memory file through which it serves reads."""
        self._memory, self._descriptors = memory_of(connection, body, pid=pid)
        self._reason = "the leg never asked for its memory to be scanned"

    def scan_stage(self, stage: str, body: dict[str, Json]) -> None:
        """One scan a stage, none after `wiped`. One that cannot be made leaves the finding unseen, with the reason."""
        salt, patterns = read_patterns(body)
        if self._memory is None or stage not in STAGES or stage in self._looks or "wiped" in self._looks:
            raise ProtocolError(f"expected the next of the scans {', '.join(STAGES)}; saw {stage!r}")
        if self._patterns and salt != self._salt:
            raise ProtocolError("expected one salt for all patterns of a leg; saw a second")
        self._salt = salt
        new = range(len(self._patterns), len(self._patterns) + len(patterns))
        self._patterns += patterns
        try:
            found = scan(self._memory, self._patterns, salt, until=new)
        except ImportError as error:
            self._reason = f"the guest cannot scan: {error}"
            return
        if not found.scanned_bytes:
            self._reason = f"nothing of the leg's memory could be read ({stage})"
            return
        self._looks[stage] = found
        self._reason = f"the leg was not scanned again after {stage}"
        if stage != "wiped":
            self._control |= found.copies.keys()

    def search_launcher(self, launcher: LauncherMemory) -> None:
        """After the last scan, the same search of the process that forked the leg: it may hold none of the patterns either."""
        if "wiped" not in self._looks:
            return
        with launcher.memory() as memory:
            found = scan(memory, self._patterns, self._salt)
        if found.scanned_bytes:
            self._looks["launcher"] = found

    def claims(self) -> dict[str, Json]:
        """The result for the leg's exit: integers and text."""
        patterns = Counter(pattern.kind for pattern in self._patterns)
        control = Counter(self._patterns[index].kind for index in self._control)
        last, launcher = self._looks.get("wiped"), self._looks.get("launcher")
        left: Counter[str] = Counter()
        for found in filter(None, (last, launcher)):
            for index, copies in found.copies.items():
                left[self._patterns[index].kind] += copies
        unfound = sorted(kind for kind, number in patterns.items() if control[kind] < number)
        if left:
            status, reason = "dirty", f"copies left: {', '.join(sorted(left))}"
        elif last is None:
            status, reason = "unseen", self._reason
        elif launcher is None:
            status, reason = "unseen", "nothing of the memory of the leg's launcher could be read"
        elif unfound or not patterns:
            status, reason = "unseen", f"the control did not find: {', '.join(unfound) or 'anything'}"
        else:
            status, reason = "clean", ""
        return {
            "status": status,
            "reason": reason,
            "patterns": {**patterns},
            "control": {kind: control[kind] for kind in patterns},
            "left": {**left},
            "copies": left.total(),
            "looks": {
                stage: {"bytes": found.scanned_bytes, "unreadable": found.unreadable_bytes, "ns": found.elapsed_ns}
                for stage, found in self._looks.items()
            },
        }

    def close(self) -> None:
        """Close the descriptors."""
        for descriptor in self._descriptors:
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self._descriptors, self._memory = [], None


class _ServedMemory:
    """Memory read by requests to the leg, which copies each range into a memory file that both hold."""

    def __init__(self, connection: PeerCredentialSocket, window: int, maps: int) -> None:
        self._connection, self._window, self._maps = connection, window, maps

    def ranges(self) -> list[tuple[int, int]]:
        return ranges_of(self._maps)

    def read(self, address: int, into: memoryview) -> int:
        until = time.monotonic() + _READ_S
        frames.send(self._connection, {"type": "read", "body": {"address": address, "length": len(into)}}, deadline=until)
        received = frames.receive(self._connection, deadline=until)
        if received is None or received[0].get("type") != "read-done":
            raise ProtocolError("expected the leg to serve a read; saw another message, or its end")
        body = received[0].get("body")
        Fields({"count": Whole(high=len(into))}).check(body, "read-done")
        count = check_typed(body, dict[str, int], "read-done")["count"]
        return os.preadv(self._window, [into[:count]], 0) if count else 0


def memory_of(connection: PeerCredentialSocket, body: Mapping[str, Json], *, pid: int) -> tuple[Memory, list[int]]:
    """The memory of process `pid`, which sent `body` and two descriptors, and these: the caller closes them."""
    descriptors = connection.descriptors(2)
    window, maps = descriptors
    try:
        _expect_target(maps, f"/proc/{pid}/maps")
        if body.get("served"):
            return _ServedMemory(connection, window, maps), descriptors
        _expect_target(window, f"/proc/{pid}/mem")
        return DescriptorMemory(window, maps), descriptors
    except ProtocolError:
        for descriptor in descriptors:
            os.close(descriptor)
        raise


def _expect_target(descriptor: int, expected: str) -> None:
    seen = str(Path(f"/proc/self/fd/{descriptor}").readlink())
    if seen != expected:
        raise ProtocolError(f"expected the leg's own memory, {expected}; saw {seen}")
