"""What one client may take: shown with a clock of our own."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from pytest_glasshouse.attestation.limits import BURST_S, Connections, Limits, PeerRateLimiter, peer_of


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_peer_is_served_at_its_rate_with_a_small_burst() -> None:
    clock = Clock()
    limiter = PeerRateLimiter(2.0, clock=clock)
    asked = [limiter.admit("a") for _ in range(int(2 * BURST_S) + 2)]
    assert asked == ["admitted"] * int(2 * BURST_S) + ["refused", "refused again"]
    clock.now += 0.5
    assert [limiter.admit("a"), limiter.admit("a")] == ["admitted", "refused"]
    clock.now += 1000
    assert [limiter.admit("a") for _ in range(int(2 * BURST_S) + 1)].count("admitted") == int(2 * BURST_S)


def test_a_peer_that_never_pauses_is_served_at_its_rate() -> None:
    """Asking too often must not cost it what it may have."""
    clock = Clock()
    limiter = PeerRateLimiter(2.0, clock=clock)
    served = 0
    for _ in range(1000):
        served += limiter.admit("a") == "admitted"
        clock.now += 0.0625
    assert served == pytest.approx(1000 * 0.0625 * 2 + 2 * BURST_S, abs=2)


def test_each_peer_has_a_rate_of_its_own() -> None:
    limiter = PeerRateLimiter(1.0, clock=Clock())
    while limiter.admit("flood") == "admitted":
        pass
    assert limiter.admit("other") == "admitted"


def test_the_list_of_peers_is_bounded() -> None:
    limiter = PeerRateLimiter(1.0, clock=Clock())
    for number in range(10_000):
        limiter.admit(str(number))
    assert len(limiter._buckets) == 4096


def test_without_a_rate_nobody_is_refused() -> None:
    limiter = PeerRateLimiter(None)
    assert {limiter.admit("a") for _ in range(10_000)} == {"admitted"}


def pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair()


class Crowd:
    """Connections from addresses, and whether each is still open at its other end."""

    def __init__(self, most: int) -> None:
        self.clock = Clock()
        self.connections = Connections(Limits(connections=most), clock=self.clock)
        self.pairs: list[tuple[socket.socket, socket.socket]] = []
        self.stubborn = False

    def comes(self, address: str) -> int | None:
        """Its number, or None where it was not let in. Each comes a second after the one before."""
        self.clock.now += 1
        self.pairs.append(socket.socketpair())
        admitted = self.connections.admit(self.pairs[-1][0], address)
        for number, (ours, _) in enumerate(self.pairs):
            if not self.stubborn and not self.open(number):
                self.connections.remove(ours)
        return len(self.pairs) - 1 if admitted else None

    def open(self, number: int | None) -> bool:
        assert number is not None
        theirs = self.pairs[number][1]
        theirs.setblocking(False)
        try:
            return theirs.recv(1) != b""
        except BlockingIOError:
            return True


@pytest.fixture(name="crowd")
def a_crowd() -> Iterator[Crowd]:
    crowd = Crowd(8)
    yield crowd
    for both in crowd.pairs:
        for each in both:
            each.close()


def test_one_address_holds_half_and_its_longest_waiting_connection_is_closed(crowd: Crowd) -> None:
    """A worker behind the address of a flood is accepted too: it sends its request before it becomes the oldest."""
    flood = [crowd.comes("192.0.2.1") for _ in range(7)]
    assert [crowd.open(each) for each in flood] == [False] * 3 + [True] * 4
    other = [crowd.comes("192.0.2.2") for _ in range(4)]
    assert all(crowd.open(each) for each in (*flood[3:], *other))


def test_at_the_limit_a_connection_of_the_address_with_most_is_closed(crowd: Crowd) -> None:
    first = [crowd.comes(address) for address in ("192.0.2.1", "192.0.2.2", "192.0.2.2", "192.0.2.2", "192.0.2.1")]
    more = [crowd.comes(f"198.51.100.{each}") for each in range(3)]
    late = crowd.comes("203.0.113.1")
    assert [crowd.open(each) for each in first] == [True, False, True, True, True]
    assert all(crowd.open(each) for each in (*more, late))


def test_an_ipv6_network_counts_as_one_address(crowd: Crowd) -> None:
    flood = [crowd.comes(f"2001:db8:0:1::{each:x}") for each in range(20)]
    assert [crowd.open(each) for each in flood] == [False] * 16 + [True] * 4


def test_many_addresses_do_not_exclude_another(crowd: Crowd) -> None:
    flood = [crowd.comes(f"192.0.2.{each}") for each in range(30)]
    assert crowd.open(crowd.comes("203.0.113.1"))
    assert sum(crowd.open(each) for each in flood) == 7


def test_a_connection_being_answered_is_not_closed(crowd: Crowd) -> None:
    held = [crowd.comes("192.0.2.1") for _ in range(4)]
    for ours, _ in crowd.pairs[:3]:
        crowd.connections.answering(ours)
    assert crowd.open(crowd.comes("192.0.2.1"))
    assert [crowd.open(each) for each in held] == [True, True, True, False]
    crowd.connections.answering(crowd.pairs[4][0])
    assert crowd.comes("192.0.2.1") is None


def test_a_connection_being_closed_counts_until_it_has_ended(crowd: Crowd) -> None:
    """Each has a thread until then."""
    crowd.stubborn = True
    came = [crowd.comes("192.0.2.1") for _ in range(40)]
    assert sum(each is not None for each in came) == 16
    for ours, _ in crowd.pairs:
        crowd.connections.remove(ours)
    assert crowd.comes("192.0.2.1") is not None


def test_an_answer_that_the_client_does_not_read_is_cut(crowd: Crowd) -> None:
    one = crowd.comes("192.0.2.1")
    crowd.connections.answering(crowd.pairs[0][0])
    crowd.connections.writing(crowd.pairs[0][0])
    crowd.clock.now += 9
    crowd.connections.shut_down_overdue()
    assert crowd.open(one)
    crowd.clock.now += 2
    crowd.connections.shut_down_overdue()
    assert not crowd.open(one)


@pytest.mark.parametrize(
    ("address", "peer"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2002:c000:201::7", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:0DB8:1:2::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("no address", "no address"),
    ],
)
def test_a_peer_is_an_ipv4_address_or_an_ipv6_network(address: str, peer: str) -> None:
    assert peer_of(address) == peer


def test_a_network_has_one_rate() -> None:
    limiter = PeerRateLimiter(1.0, clock=Clock())
    asked = [limiter.admit(f"2001:db8::{each:x}") for each in range(10)]
    assert asked.count("admitted") == int(BURST_S)


def test_only_a_client_that_is_waited_for_is_cut() -> None:
    """A request that came whole is answered, however long the answer takes."""
    clock = Clock()
    connections = Connections(Limits(request_s=5), clock=clock)
    pairs = {name: pair() for name in ("slow", "answered", "prompt")}
    for ours, _ in pairs.values():
        assert connections.admit(ours, "192.0.2.1")
    connections.answering(pairs["answered"][0])
    clock.now += 4
    connections.reading(pairs["prompt"][0])
    clock.now += 1
    connections.shut_down_overdue()
    ended = []
    for name, (_, theirs) in pairs.items():
        theirs.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            ended += [name] if theirs.recv(1) == b"" else []
    assert ended == ["slow"]
    for both in pairs.values():
        for each in both:
            each.close()


def test_draining_accepts_no_connection_and_ends_waiting_ones() -> None:
    connections = Connections(Limits())
    (waiting, theirs), (late, other) = pair(), pair()
    assert connections.admit(waiting, "192.0.2.1")
    connections.drain(0)
    assert theirs.recv(1) == b""
    assert not connections.admit(late, "192.0.2.1")
    for each in (waiting, theirs, late, other):
        each.close()
