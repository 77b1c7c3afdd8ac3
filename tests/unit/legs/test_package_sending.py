"""A package that is sent as its leg makes room for it: no further than it asked for, and only to a leg that goes on."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_glasshouse.errors import ProtocolError
from pytest_glasshouse.legs import package_sending
from pytest_glasshouse.legs.leg_watch import Progress
from pytest_glasshouse.legs.package_sending import PackageSending, window_of
from pytest_glasshouse.legs.relay import Relay
from pytest_glasshouse.owner.owner import Owner
from pytest_glasshouse.owner.sealing import Sealing, sealing

SEGMENT = 1 << 12


class Guest:
    """Keeps what is put, and every answer."""

    def __init__(self) -> None:
        self.content = bytearray()
        self.answers: list[dict[str, Any]] = []

    def request(self, op: str, fields: dict[str, Any], payload: bytes = b"", **_more: Any) -> dict[str, Any]:
        if op == "put":
            assert fields["offset"] == len(self.content)
            self.content += payload
        else:
            self.answers.append(fields["body"])
        return {}


def a_round(guest: Guest, *, device: str = "cuda") -> Any:
    def broke_protocol(why: object) -> ProtocolError:
        return ProtocolError(str(why))

    return SimpleNamespace(
        channel=guest, grant=SimpleNamespace(device=device), emit=lambda _progress: None, number=1, rounds=1, nonce="0" * 64,
        run_id="r", node=0, row=SimpleNamespace(row_id="r-1"), leg_id=lambda _leg: "protected-1", broke_protocol=broke_protocol,
    )  # fmt: skip


@pytest.fixture(name="sealed")
def a_sealing() -> Sealing:
    parts = {"config": b"{}", "weights.0": bytes(20 * SEGMENT)}
    return sealing(parts, owner=Owner.generate(), run="r", round_nonce="n", workload={}, segment=SEGMENT)


def a_relay(current: Any, sealed: Sealing, sending: PackageSending) -> Any:
    return Relay(None, current, sealed, None, {}, sending)  # type: ignore[arg-type]


def test_only_a_device_gets_its_package_in_windows() -> None:
    """Elsewhere the arena is as large as the package, and opening has several threads."""
    assert window_of(a_round(Guest(), device="cpu")) is None
    assert (window_of(a_round(Guest())) or 0) > 0


def test_a_leg_gets_as_much_again_whenever_it_asks(sealed: Sealing, monkeypatch: pytest.MonkeyPatch) -> None:
    window = 4 * SEGMENT
    monkeypatch.setattr(package_sending, "_WINDOW", window)
    guest = Guest()
    current = a_round(guest)
    sending = PackageSending(current, sealed, "item")
    sending.send()
    relay = a_relay(current, sealed, sending)
    ends = [sending.sent]
    while sending.sent < sealed.size:
        relay.on_event("more", {"arrived": sending.sent})
        ends.append(sending.sent)
    assert all(window <= after - before <= window + SEGMENT for before, after in pairwise(ends[:-1]))
    assert [each["arrived"] for each in guest.answers] == ends[1:]
    assert len(guest.content) == sealed.size
    with pytest.raises(ProtocolError, match=f"expected it after {sealed.size} of {sealed.size} bytes"):
        relay.on_event("more", {"arrived": sealed.size})


@pytest.mark.parametrize("arrived", [0, 10**12])
def test_a_leg_that_asks_at_another_place_breaks_the_protocol(
    sealed: Sealing, arrived: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it was sent is known; another number is a lie, or the answer to one."""
    monkeypatch.setattr(package_sending, "_WINDOW", SEGMENT)
    current = a_round(Guest())
    sending = PackageSending(current, sealed, "item")
    sending.send()
    with pytest.raises(ProtocolError, match="more: expected it after"):
        a_relay(current, sealed, sending).on_event("more", {"arrived": arrived})


@pytest.mark.parametrize(("shown_from", "shown"), [(0, True), (1 << 40, False)])
def test_only_the_sealing_of_a_large_package_is_shown(
    shown_from: int, shown: bool, sealed: Sealing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(package_sending, "_SHOWN_FROM", shown_from)
    told: list[Progress] = []
    current = a_round(Guest(), device="cpu")
    current.emit = told.append
    PackageSending(current, sealed, "item").send()
    assert [each.phase for each in told[-1:]] == (["seal"] if shown else [])
    assert [each.fraction for each in told[-1:]] == ([1.0] if shown else [])
