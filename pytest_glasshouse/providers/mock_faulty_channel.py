"""Faults that the mock provider plays on the connection: lost or changed messages, and guests that end or restart.

A `FaultyChannel` wraps the real channel and changes what passes.
"""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING

from pytest_glasshouse.channel.guest_channel import MOST_ITEM
from pytest_glasshouse.errors import GuestGoneError
from pytest_glasshouse.wire.tensors import parse_safetensors, tensor_digest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_glasshouse.channel.guest_channel import GuestChannel
    from pytest_glasshouse.wire.canonical import Json
    from pytest_glasshouse.workloads.base import Material

_REBOOT_S = 30.0


class FaultyChannel:
    """A channel with the mock's faults. `inject` lets the provider kill or reboot the guest."""

    def __init__(self, connect: Callable[[], GuestChannel], faults: tuple[str, ...], inject: Callable[[str], None]) -> None:
        self._connect = connect
        self._channel = connect()
        self._faults = faults
        self._inject = inject
        self._hellos = 0
        self._dropped_line = False

    def request(
        self,
        op: str,
        fields: Mapping[str, object] | None = None,
        payload: bytes | memoryview = b"",
        *,
        within_s: float | None = None,
    ) -> dict[str, Json]:
        """Forward a request, changed by the fault."""
        fields = fields or {}
        if op == "hello":
            self._hellos += 1
            if self._hellos == 2 and "reboot-between-legs" in self._faults:  # noqa: PLR2004
                self._reboot()
        order = fields.get("order")
        if op == "start" and isinstance(order, dict) and order["kind"] == "raw" and "guest-exit-before-raw" in self._faults:
            self._inject("kill")
        if op == "put" and "work-differs" in self._faults and str(fields["name"]).startswith("raw-"):
            payload = _rearranged(bytes(payload), str(fields["name"]))
        return self._channel.request(op, fields, payload, within_s=within_s)

    def fetch(self, name: str, *, limit: int = MOST_ITEM) -> bytes:
        """As the real one."""
        return self._channel.fetch(name, limit=limit)

    def pull(self, cursor: int, *, within_s: float | None = None) -> list[dict[str, Json]]:
        """Events, less what the fault loses."""
        events = self._channel.pull(cursor, within_s=within_s)
        if "guest-exit-mid-protected" in self._faults and any(_journals(event, "train_started") for event in events):
            self._inject("kill")
        if "raw-callback-lost" in self._faults:
            events = [event for event in events if event["type"] != "callback"]
        if "journal-truncated" in self._faults:
            events = [event for event in events if not _journals(event, "package_verified")]
        return events

    @property
    def gone(self) -> bool:
        """Whether the guest stopped answering."""
        return self._channel.gone

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def _reboot(self) -> None:
        self._channel.close()
        self._inject("reboot")
        until = time.monotonic() + _REBOOT_S
        while True:
            try:
                self._channel = self._connect()
            except GuestGoneError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)
            else:
                return


def poisoned(material: Material) -> Material:
    """The same material with NaN as initial weights: the owner sealed bad weights, and nothing was tampered with."""
    initial = bytearray(material.parts["initial"])
    entry = max(parse_safetensors(memoryview(bytes(initial))).values(), key=lambda e: e.end - e.start)
    initial[entry.start : entry.end] = b"\xff" * (entry.end - entry.start)
    parts = {**material.parts, "initial": bytes(initial)}
    return dataclasses.replace(material, parts=parts, initial_sha256=tensor_digest(bytes(initial)))


def _rearranged(part: bytes, name: str) -> bytes:
    """Other data for the raw leg: the largest tensor's rows in another order, every value still valid."""
    if name.endswith(("-config", "-initial")):
        return part
    entry = max(parse_safetensors(memoryview(part)).values(), key=lambda e: e.end - e.start)
    body = part[entry.start : entry.end]
    row = len(body) // entry.shape[0]
    return part[: entry.start] + body[row:] + body[:row] + part[entry.end :]


def _journals(event: dict[str, Json], step: str) -> bool:
    body = event["body"]
    return event["type"] == "journal" and isinstance(body, dict) and f'"type":"{step}"' in str(body["line"])
