"""The lease ledger: what is about to exist, written and fsynced before the call that makes it exist.

One JSON line per step. Whoever finds a ledger knows every allocation name that could be alive, where, and until when.
It holds no key and no endpoint.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.errors import InfrastructureError, IntegrityError
from pytest_glasshouse.providers.base import InstanceId
from pytest_glasshouse.providers.lease import Lease
from pytest_glasshouse.wire.append_log import append_line
from pytest_glasshouse.wire.bounded_file import read_regular
from pytest_glasshouse.wire.canonical import parse_strict

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

LEDGER = "ledger.jsonl"
_LIMIT = 64 << 20


class LeaseLedger:
    """Append-only; an intent is on disk when `intent` returns."""

    def __init__(self, path: Path, *, wall: Callable[[], float] = time.time) -> None:
        self.path = path
        self._wall = wall
        self._lock = threading.Lock()

    def write(self, step: str, **fields: str | float | bool | None) -> None:
        """Record a step (`created`, `adopted`, `listed`, `ended`, `gone`, `not-created`, `not-ended`, ...), where that works.

        A step that is missing leaves the lease as the intent has it, still to be looked for: no full disk keeps anybody
        from ending what exists.
        """
        with contextlib.suppress(OSError):
            self._append(step, fields)

    def _append(self, step: str, fields: Mapping[str, str | float | bool | None]) -> None:
        line = json.dumps({"step": step, "at": self._wall(), **fields}, sort_keys=True)
        with self._lock:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            append_line(self.path, line.encode())

    def intent(self, lease: Lease, *, base_url: str) -> None:
        """The step that has to be on disk before the create call. Raises `InfrastructureError` where it is not."""
        told: dict[str, str | float | bool | None] = {
            "name": lease.name, "provider": lease.provider, "base": base_url,
            "price": lease.price_usd_per_hour, "deadline": lease.deadline,
        }  # fmt: skip
        try:
            self._append("intent", told)
        except OSError as error:
            raise InfrastructureError(
                f"the lease ledger cannot be written to {self.path.parent} ({error.strerror or error}). Nothing was created; "
                "make room there and run again"
            ) from None


def read(path: Path) -> tuple[dict[str, Lease], dict[str, str]]:
    """Every lease a ledger speaks of, by name, and the base URL each was asked from. A torn last line was never relied on.

    Raises `IntegrityError` for what is no regular file, or larger than any ledger.
    """
    leases: dict[str, Lease] = {}
    bases: dict[str, str] = {}
    with contextlib.suppress(FileNotFoundError):
        for line in read_regular(path, limit=_LIMIT).splitlines():
            try:
                told: Any = parse_strict(line, floats=True)
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
