"""The lease ledger: one JSON line per step of an allocation, its intent fsynced before the request that creates it.

It has the name, provider and deadline of every allocation of a run that could exist. It holds no key and no address.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from pytest_glasshouse.errors import InfrastructureError, IntegrityError, ProtocolError
from pytest_glasshouse.providers.base import InstanceId
from pytest_glasshouse.providers.lease import Lease
from pytest_glasshouse.wire.append_log import append_line
from pytest_glasshouse.wire.bounded_file import read_regular
from pytest_glasshouse.wire.canonical import parse_strict
from pytest_glasshouse.wire.typed import check_typed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

LEDGER = "ledger.jsonl"
_LIMIT = 64 << 20


class _Entry(TypedDict):
    """A line of the ledger, as far as ending an allocation needs it. `at` and an intent's `price` and `deadline` are numbers."""

    step: str
    name: str
    provider: NotRequired[str]
    base: NotRequired[str]
    instance: NotRequired[str]
    at: NotRequired[Any]
    price: NotRequired[Any]
    deadline: NotRequired[Any]


class LeaseLedger:
    """Append-only. An intent is on disk when `intent` returns."""

    def __init__(self, path: Path, *, wall: Callable[[], float] = time.time) -> None:
        self.path = path
        self._wall = wall
        self._lock = threading.Lock()

    def write(self, step: str, **fields: str | float | bool | None) -> None:
        """Record a step (`created`, `adopted`, `listed`, `ended`, `gone`, `not-created`, `not-ended`, ...), where that works.

        Without it the lease stays as the steps before left it, and is looked for: a full disk keeps no allocation from being
        ended.
        """
        with contextlib.suppress(OSError):
            self._append(step, fields)

    def _append(self, step: str, fields: Mapping[str, str | float | bool | None]) -> None:
        line = json.dumps({"step": step, "at": self._wall(), **fields}, sort_keys=True)
        with self._lock:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            append_line(self.path, line.encode())

    def intent(self, lease: Lease, *, base_url: str) -> None:
        """Record the intent, before the create request. Raises `InfrastructureError` where it cannot be written."""
        fields: dict[str, str | float | bool | None] = {
            "name": lease.name, "provider": lease.provider, "base": base_url,
            "price": lease.price_usd_per_hour, "deadline": lease.deadline,
        }  # fmt: skip
        try:
            self._append("intent", fields)
        except OSError as error:
            raise InfrastructureError(
                f"the lease ledger cannot be written to {self.path.parent} ({error.strerror or error}). Nothing was created; "
                "make room there and run again"
            ) from None


def read(path: Path) -> tuple[dict[str, Lease], dict[str, str]]:
    """Every lease in a ledger, by name, and the base URL each was requested from. Torn lines are passed over.

    The request of a torn intent was never sent. A whole line whose times or price cannot be read hides no allocation: it counts
    as written now. Raises `IntegrityError` for what is no regular file, or too large.
    """
    leases: dict[str, Lease] = {}
    bases: dict[str, str] = {}
    with contextlib.suppress(FileNotFoundError):
        for line in read_regular(path, limit=_LIMIT).splitlines():
            try:
                _apply(check_typed(parse_strict(line, floats=True), _Entry, "line"), leases, bases)
            except (KeyError, IntegrityError, ProtocolError):
                continue
    return leases, bases


def _apply(entry: _Entry, leases: dict[str, Lease], bases: dict[str, str]) -> None:
    step, name = entry["step"], entry["name"]
    if step == "intent":
        bases[name] = entry["base"]
        leases[name] = Lease(
            name=name, provider=entry["provider"], price_usd_per_hour=_number(entry.get("price"), 0.0),
            intent_at=_number(entry.get("at"), time.time()), deadline=_number(entry.get("deadline"), time.time()), ambiguous=True,
        )  # fmt: skip
        return
    lease = leases[name]
    if step in ("created", "adopted"):
        lease.instance_ids.add(InstanceId(entry["instance"]))
        # Adopted after its answer was lost: a second one may still appear.
        lease.ambiguous = step == "adopted"
    elif step == "listed":
        lease.seen_listed = True
    elif step == "not-created":
        lease.void = True
    elif step == "gone":
        lease.gone_at = _number(entry.get("at"), time.time())


def _number(value: object, otherwise: float) -> float:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else otherwise
