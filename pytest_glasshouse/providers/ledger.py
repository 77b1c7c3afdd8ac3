"""The lease ledger: what is about to exist, written and fsynced before the call that makes it exist.

One JSON line per step. Whoever finds a ledger knows every allocation name that could be alive, where, and until when.
It holds no key and no endpoint.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.providers.base import InstanceId
from pytest_glasshouse.providers.lease import Lease

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LEDGER = "ledger.jsonl"


class Ledger:
    """Append-only; a step is on disk when `write` returns."""

    def __init__(self, path: Path, *, wall: Callable[[], float] = time.time) -> None:
        self.path = path
        self._wall = wall
        self._lock = threading.Lock()

    def write(self, step: str, **fields: str | float | bool | None) -> None:
        """Record one step (`intent`, `created`, `adopted`, `listed`, `ended`, `gone`, `not-created`, `not-ended`, ...)."""
        line = json.dumps({"step": step, "at": self._wall(), **fields}, sort_keys=True) + "\n"
        with self._lock:
            new = not self.path.exists()
            if new:
                self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.write(fd, line.encode())
                os.fsync(fd)
            finally:
                os.close(fd)
            if new:
                _sync_directory(self.path.parent)

    def intent(self, lease: Lease, *, base_url: str) -> None:
        """The step that has to be on disk before the create call."""
        self.write(
            "intent", name=lease.name, provider=lease.provider, base=base_url,
            price=lease.price_usd_per_hour, deadline=lease.deadline,
        )  # fmt: skip


def read(path: Path) -> tuple[dict[str, Lease], dict[str, str]]:
    """Every lease a ledger speaks of, by name, and the base URL each was asked from. A torn last line was never relied on."""
    leases: dict[str, Lease] = {}
    bases: dict[str, str] = {}
    with contextlib.suppress(FileNotFoundError):
        for line in path.read_bytes().splitlines():
            try:
                told: dict[str, Any] = json.loads(line)
                _apply(told, leases, bases)
            except (ValueError, KeyError, TypeError, IntegrityError):
                continue
    return leases, bases


def _apply(told: dict[str, Any], leases: dict[str, Lease], bases: dict[str, str]) -> None:
    step, name = told["step"], told["name"]
    if step == "intent":
        bases[name] = str(told["base"])
        leases[name] = Lease(
            name=name, provider=told["provider"], price_usd_per_hour=told["price"], intent_at=told["at"],
            deadline=told["deadline"], ambiguous=True,
        )  # fmt: skip
        return
    lease = leases[name]
    if step in ("created", "adopted"):
        lease.instance_ids.add(InstanceId(told["instance"]))
        # Adopted means that the answer was lost: a second one may still turn up.
        lease.ambiguous = step == "adopted"
    elif step == "listed":
        lease.seen_listed = True
    elif step == "not-created":
        lease.void = True
    elif step == "gone":
        lease.gone_at = told["at"]


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
