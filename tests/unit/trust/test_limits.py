"""What one client may take: shown with a clock of our own."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass

import pytest

from pytest_glasshouse.trust.limits import BURST_S, Connections, Limits, Peers


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_peer_may_ask_at_its_rate_and_save_up_a_little() -> None:
    clock = Clock()
    peers = Peers(2.0, clock=clock)
    asked = [peers.ask("a") for _ in range(int(2 * BURST_S) + 2)]
    assert asked == ["yes"] * int(2 * BURST_S) + ["no", "still no"]
    clock.now += 0.5
    assert [peers.ask("a"), peers.ask("a")] == ["yes", "no"]
    clock.now += 1000
    assert [peers.ask("a") for _ in range(int(2 * BURST_S) + 1)].count("yes") == int(2 * BURST_S)


def test_a_peer_that_never_pauses_is_served_at_its_rate() -> None:
    """Asking too often must not cost it what it may have."""
    clock = Clock()
    peers = Peers(2.0, clock=clock)
    served = 0
    for _ in range(1000):
        served += peers.ask("a") == "yes"
        clock.now += 0.0625
    assert served == pytest.approx(1000 * 0.0625 * 2 + 2 * BURST_S, abs=2)


def test_peers_do_not_pay_for_each_other() -> None:
    peers = Peers(1.0, clock=Clock())
    while peers.ask("flood") == "yes":
        pass
    assert peers.ask("other") == "yes"


def test_the_list_of_peers_does_not_grow_without_end() -> None:
    peers = Peers(1.0, clock=Clock())
    for number in range(10_000):
        peers.ask(str(number))
    assert len(peers._buckets) == 4096


def test_without_a_rate_nobody_is_turned_away() -> None:
    peers = Peers(None)
    assert {peers.ask("a") for _ in range(10_000)} == {"yes"}


def pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair()


def test_there_is_room_for_so_many_connections() -> None:
    connections = Connections(Limits(connections=1))
    (one, other), (two, another) = pair(), pair()
    assert (connections.admit(one), connections.admit(two)) == (True, False)
    connections.gone(one)
    assert connections.admit(two)
    for each in (one, other, two, another):
        each.close()


def test_only_who_keeps_us_waiting_is_cut() -> None:
    """A request that came whole is answered, however long the answer takes."""
    clock = Clock()
    connections = Connections(Limits(request_s=5), clock=clock)
    pairs = {name: pair() for name in ("slow", "answered", "prompt")}
    for ours, _ in pairs.values():
        assert connections.admit(ours)
    connections.answering(pairs["answered"][0])
    clock.now += 4
    connections.waiting(pairs["prompt"][0])
    clock.now += 1
    connections.cut_overdue()
    ended = []
    for name, (_, theirs) in pairs.items():
        theirs.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            ended += [name] if theirs.recv(1) == b"" else []
    assert ended == ["slow"]
    for both in pairs.values():
        for each in both:
            each.close()


def test_draining_lets_nobody_in_and_ends_who_waits() -> None:
    connections = Connections(Limits())
    (waiting, theirs), (late, other) = pair(), pair()
    assert connections.admit(waiting)
    connections.drain(0)
    assert theirs.recv(1) == b""
    assert not connections.admit(late)
    for each in (waiting, theirs, late, other):
        each.close()
