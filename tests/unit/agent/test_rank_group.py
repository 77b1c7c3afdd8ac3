"""Which rank ended a leg, whatever the others say of it, and what the agent waits for."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_glasshouse.agent.rank_group import STOPPED, RankGroup, RankNetwork
from pytest_glasshouse.errors import ProtocolError, RankLostError
from tests.limits import HANG_S, until

LOST = {"reason": "RankLostError", "detail": "another rank does not answer"}


class FakeRank:
    """A rank that notes that it was ended."""

    def __init__(self, pid: int = 0) -> None:
        self.leg_pid = pid
        self.ended = 0

    def end_process(self) -> None:
        self.ended += 1

    def wait(self, timeout_s: float) -> bool:
        return timeout_s > 0


@pytest.fixture(name="group")
def a_group() -> Iterator[tuple[RankGroup, list[FakeRank]]]:
    group, ranks = RankGroup(2), [FakeRank(), FakeRank()]
    for number, rank in enumerate(ranks):
        group.add(number, rank)
    yield group, ranks
    group.close()


Group = tuple[RankGroup, list[FakeRank]]


def test_a_rank_that_fails_ends_all_and_is_named_with_its_reason(group: Group) -> None:
    ranks, fakes = group
    ranks.failed(1, {"reason": "OutOfMemoryError", "detail": "no room"})
    assert ranks.failure() == {"reason": "OutOfMemoryError", "detail": "rank 1: no room"}
    assert all(fake.ended for fake in fakes)


def test_a_rank_that_misses_another_is_not_to_blame_for_it(group: Group) -> None:
    """What is left of a leg tells of the one that is gone before the agent sees its end."""
    ranks, _ = group
    ranks.failed(0, LOST)
    assert ranks.failure() is None
    ranks.process_ended(1, 137)
    failure = ranks.failure()
    assert failure is not None
    assert failure["detail"] == "rank 1: its process ended with status 137 before its work was done"


def test_ranks_that_ended_well_or_were_ended_are_no_failure(group: Group) -> None:
    ranks, _ = group
    ranks.process_ended(1, 0)
    ranks.end_all()
    ranks.process_ended(0, 137)
    assert ranks.failure() is None


def test_who_waits_for_a_rank_that_is_gone_is_told(group: Group) -> None:
    ranks, _ = group
    ranks.process_ended(1, 3)
    for wait in (ranks.all_measured, ranks.take_links, ranks.challenge):
        with pytest.raises(RankLostError, match="a rank ended before"):
            wait()


def test_a_second_link_of_one_rank_is_refused(group: Group) -> None:
    ranks, _ = group
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ranks.link(1, os.dup(ours.fileno()))
        with pytest.raises(ProtocolError, match="one link of rank 1"):
            ranks.link(1, theirs.fileno())


def test_a_rank_that_is_stopped_ends_the_leg_with_its_name() -> None:
    group = RankGroup(2)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"]) as process:
        fakes = [FakeRank(), FakeRank(process.pid)]
        try:
            for number, rank in enumerate(fakes):
                group.add(number, rank)
            os.kill(process.pid, signal.SIGSTOP)
            until(lambda: group.stopped() == [1], "a process that is stopped")
            group.watch()
            until(lambda: group.failure() is not None, "a leg that has failed")
            until(lambda: bool(fakes[0].ended), "the other rank's end")
        finally:
            process.kill()
    assert group.failure() == {"reason": STOPPED, "detail": "rank 1: its process is stopped"}
    group.close()


def test_ranks_meet_on_loopback_only() -> None:
    """torch's own store would listen on every address of the machine."""
    group = RankGroup(2)
    try:
        assert group.network.listener is not None
        assert group.network.listener.getsockname() == ("127.0.0.1", group.network.port)
    finally:
        group.close()


def test_a_network_of_their_own_is_not_this_process_s() -> None:
    group = RankGroup(2)
    try:
        if group.network.namespace is None:
            pytest.skip("the system gives this user no network namespace")
        assert os.fstat(group.network.namespace).st_ino != Path("/proc/self/ns/net").stat().st_ino
        with socket.socket() as stranger:
            stranger.settimeout(HANG_S)
            with pytest.raises(OSError, match="refused"):
                stranger.connect(("127.0.0.1", group.network.port))
    finally:
        group.close()


def test_where_the_system_gives_no_network_the_ranks_use_this_machine_s_loopback() -> None:
    """A container's root may not have a namespace; the rows run all the same."""

    def refused() -> tuple[int, socket.socket]:
        raise PermissionError(1, "unshare")

    network = RankNetwork(refused)
    try:
        assert network.namespace is None
        with socket.create_connection(("127.0.0.1", network.port), timeout=HANG_S):
            pass
    finally:
        network.close()
