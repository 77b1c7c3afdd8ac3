"""One row without torch: attest to a real server, get the key, let the pod "train", and pass only if it reports that it did."""

from __future__ import annotations

import json
import os
import secrets
import time
from pathlib import Path
from typing import Any, Protocol

from pytest_glasshouse.channel.guest_channel import GuestChannel
from pytest_glasshouse.errors import GlasshouseError, GuestGoneError, RefusedError
from pytest_glasshouse.providers.base import Grant
from pytest_glasshouse.rows.spec import RowSpec
from pytest_glasshouse.tamper.testbed import TamperTestbed

#: How long a guest may be unreachable before its row is lost, and how long a leg may take.
_PATIENCE_S, _LEG_S = 2.0, 6.0

ROWS = [
    RowSpec(name="row-0", workload="mlp", gpu="a4000", order="raw-first", target_s=1.0),
    RowSpec(name="row-1", workload="mlp", gpu="h100", order="raw-first", target_s=1.0),
]


class Grants(Protocol):
    """The broker, or a client of it."""

    def acquire(self, row: RowSpec, *, worker: str) -> Grant: ...
    def release(self, grant: Grant, *, worker: str) -> None: ...


def write(path: Path, entry: dict[str, Any]) -> None:
    """One line, on disk before this returns."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(fd, json.dumps(entry).encode() + b"\n")
    os.fsync(fd)
    os.close(fd)


def run_row(number: int, grants: Grants, folder: Path, *, worker: str, dishonest: bool) -> None:
    """Run one row and write down how it ended, and every key that was released for it."""
    row = ROWS[number]
    try:
        grant = grants.acquire(row, worker=worker)
    except GlasshouseError as error:
        write(folder / "rows", {"row": row.name, "outcome": "infrastructure", "reason": f"{type(error).__name__}: {error}"})
        return
    try:
        nonce = _carry_out(grant, folder, dishonest=dishonest)
    except RefusedError as error:
        write(folder / "rows", {"row": row.name, "outcome": "failed", "reason": error.reason})
    except GlasshouseError as error:
        write(folder / "rows", {"row": row.name, "outcome": "infrastructure", "reason": f"{type(error).__name__}: {error}"})
    else:
        write(folder / "rows", {"row": row.name, "outcome": "green", "nonce": nonce})
    grants.release(grant, worker=worker)


def _carry_out(grant: Grant, folder: Path, *, dishonest: bool) -> str:
    agent = _ask(grant, {"op": "hello"})["agentNonce"]
    with TamperTestbed() as testbed:
        attempt = testbed.attempt()
        if dishonest:
            # Validly signed, and about another archive than the one the policy wants.
            claims: dict[str, Any] = attempt.claims
            claims["components"]["archive"] = "0" * 64
        testbed.reset_release_count()
        try:
            released = attempt.release()
            attempt.unseal(released).close()
        finally:
            write(folder / "keys", {"dishonest": dishonest, "released": testbed.releases_since_reset(), "nonce": attempt.nonce})
        nonce = secrets.token_hex(16)
        _ask(grant, {"op": "train", "nonce": nonce})
        until = time.monotonic() + _LEG_S
        while not _ask(grant, {"op": "done", "nonce": nonce})["done"]:
            if time.monotonic() > until:
                raise GuestGoneError("the leg did not end in time")
            time.sleep(0.05)
        if _ask(grant, {"op": "hello"})["agentNonce"] != agent:
            raise GuestGoneError("the guest came back as another")
        attempt.run_journal()
        attempt.complete()
        return nonce


def _ask(grant: Grant, request: dict[str, Any]) -> dict[str, Any]:
    until = time.monotonic() + _PATIENCE_S
    while True:
        try:
            channel = GuestChannel(grant.address, allocation_id=grant.allocation_id, timeout_s=1.0)
            try:
                return dict(channel.request(request["op"], {k: v for k, v in request.items() if k != "op"}))
            finally:
                channel.close()
        except GuestGoneError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)
