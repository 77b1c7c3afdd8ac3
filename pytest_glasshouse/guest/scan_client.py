"""The leg's side of the memory scan: gives the agent access to its memory, and fingerprints of what must not be left there.

Where the leg may not open its own `/proc/self/mem` (a non-dumpable process of an ordinary user may not), it serves the
agent's reads through a memory file; either way nothing is copied within the memory that is searched.
"""

from __future__ import annotations

import ctypes
import os
import secrets
from typing import TYPE_CHECKING

from pytest_glasshouse.guest.sealed_weights import PLACES
from pytest_glasshouse.wire import evidence
from pytest_glasshouse.wire.fingerprints import SALT_BYTES, Patterns
from pytest_glasshouse.wire.leg_messages import ReadRequest
from pytest_glasshouse.wire.typed import check_typed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_glasshouse.guest.control import Control
    from pytest_glasshouse.wire.fingerprints import Pattern

#: How many samples of the last batch are looked for; each in several places.
_SAMPLES = 8
_PIECES = 8
_libc = ctypes.CDLL(None, use_errno=True)


class MemoryWindow:
    """The agent's access to this process's memory, which must be hardened: sent when it is made, served where it has to be."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._served: int | None = None
        maps = os.open("/proc/self/maps", os.O_RDONLY)
        try:
            window = os.open("/proc/self/mem", os.O_RDONLY)
        except PermissionError:
            window = self._served = os.memfd_create("glasshouse-scan")
        control.send_descriptors("memory", {"served": self._served is not None}, [window, maps])
        os.close(maps)
        if self._served is None:
            os.close(window)

    def serve(self, asked: ReadRequest) -> None:
        """Copy a range for the agent. Raises `ValueError` where it has descriptors of its own."""
        # The kernel copies and returns the count; no byte passes through memory of this process.
        if self._served is None:
            raise ValueError("the agent has this process's descriptors; expected no read request")
        count = _libc.pwrite(self._served, ctypes.c_void_p(asked["address"]), ctypes.c_size_t(asked["length"]), ctypes.c_long(0))
        self._control.send("read-done", {"count": max(count, 0)})

    def clear(self) -> None:
        """Keep nothing of what was served last."""
        if self._served is not None:
            os.ftruncate(self._served, 0)

    def close(self) -> None:
        """Serve nothing more."""
        if self._served is not None:
            os.close(self._served)
            self._served = None


class ScanClient:
    """Gives the agent access to this process's memory. Must be made after the process was hardened."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._patterns = Patterns(secrets.token_bytes(SALT_BYTES))
        self._window = MemoryWindow(control)

    def loaded(
        self, key: memoryview, derived: Iterable[memoryview], canary: memoryview, weights: Iterable[memoryview] = ()
    ) -> None:
        """The first scan, while the keys are in use: it must find every pattern given here. `weights` are a sealed model's."""
        make = self._patterns
        patterns = [make.of(evidence.SCAN_KEY, key)]
        patterns += make.of_windows(evidence.SCAN_KEY_HALF, key)
        for keys in derived:
            patterns += make.of_windows(evidence.SCAN_DERIVED, keys)
        patterns += make.of_windows(evidence.SCAN_CANARY, canary)
        patterns += make.of_samples(evidence.SCAN_WEIGHTS, weights, pieces=PLACES)
        self._scan("loaded", patterns)

    def shared(self, canary: memoryview) -> None:
        """The first scan of a rank that has no key: it must find the canary in the memory that the first rank shared."""
        self._scan("loaded", self._patterns.of_windows(evidence.SCAN_CANARY, canary))

    def trained(self, batch: Iterable[memoryview]) -> None:
        """The second scan, while the tensors still exist: it must find the last batch trained on."""
        samples = list(batch)
        chosen = samples[:: -(-len(samples) // _SAMPLES) or 1]
        self._scan("trained", self._patterns.of_samples(evidence.SCAN_BATCH, chosen, pieces=_PIECES))

    def wiped(self) -> None:
        """The last scan: it may find none of the patterns."""
        self._scan("wiped", [])
        self._window.close()

    def _scan(self, stage: str, patterns: list[Pattern]) -> None:
        listed = [pattern.to_json() for pattern in patterns]
        self._control.send("scan", {"stage": stage, "salt": self._patterns.salt.hex(), "patterns": listed})
        while True:
            kind, body = self._control.receive("read", "scanned")
            if kind == "scanned":
                break
            self._window.serve(check_typed(body, ReadRequest, "read"))
        self._window.clear()
