from __future__ import annotations

import resource
from pathlib import Path
from threading import Thread

import pytest

from pytest_glasshouse.agent.spool import Spool
from pytest_glasshouse.wire.canonical import canonical
from pytest_glasshouse.wire.guest_messages import EVENTS_PER_PULL, PULL_BYTES
from tests.limits import HANG_S
from tests.seen_waiting import SeenWaiting
from tests.unit.channel.lying_agent import event


def test_events_are_numbered_and_pulled_from_a_cursor(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.jsonl")
    for number in range(3):
        spool.append("leg", "progress", {"units": number})
    assert [event["seq"] for event in spool.since(1, wait_s=0)] == [1, 2]
    assert spool.since(3, wait_s=0) == []


def test_restarted_agent_still_has_the_events_of_its_predecessor(tmp_path: Path) -> None:
    """A cut connection or a restart must not lose a callback."""
    first = Spool(tmp_path / "spool.jsonl")
    first.append("leg", "callback", {"status": "completed"})
    second = Spool(tmp_path / "spool.jsonl")
    second.append("leg", "exit", {})
    assert [(event["seq"], event["type"]) for event in second.since(0, wait_s=0)] == [(0, "callback"), (1, "exit")]


def test_event_is_on_disk_before_append_returns(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.jsonl")
    spool.append("leg", "callback", {"status": "completed"})
    assert b'"status":"completed"' in (tmp_path / "spool.jsonl").read_bytes()


def test_waiting_pull_is_woken_by_the_next_event(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.jsonl")
    spool._grown = grown = SeenWaiting()
    pulled: list[object] = []
    waiting = Thread(target=lambda: pulled.extend(spool.since(0, wait_s=10 * HANG_S)), daemon=True)
    waiting.start()
    assert grown.waited.wait(HANG_S)
    spool.append("leg", "started", {})
    waiting.join(timeout=HANG_S)
    assert len(pulled) == 1


def test_one_answer_holds_no_more_events_than_the_host_takes(tmp_path: Path) -> None:
    """A long run's events in one frame would be refused, and with them every event of the guest."""
    spool = Spool(tmp_path / "spool.jsonl")
    for number in range(30):
        spool.append("leg", "failed", {"detail": "x" * 50_000, "reason": str(number)})
    first = spool.since(0, wait_s=0)
    assert len(first) < 30
    assert sum(len(canonical(event)) for event in first) <= PULL_BYTES
    seen: list[object] = []
    while len(seen) < 30:
        seen += [event["seq"] for event in spool.since(len(seen), wait_s=0)]
    assert seen == list(range(30))
    assert spool.cursor == 30
    assert [event["seq"] for event in Spool(tmp_path / "spool.jsonl").since(0, wait_s=0)] == [event["seq"] for event in first]


def test_small_events_are_counted_too(tmp_path: Path) -> None:
    path = tmp_path / "spool.jsonl"
    lines = [canonical(event("leg", "scan-loaded", {}, seq=number)) for number in range(EVENTS_PER_PULL + 1)]
    path.write_bytes(b"\n".join(lines) + b"\n")
    spool = Spool(path)
    assert len(spool.since(0, wait_s=0)) == EVENTS_PER_PULL
    assert [each["seq"] for each in spool.since(EVENTS_PER_PULL, wait_s=0)] == [EVENTS_PER_PULL]
    # One that is larger than an answer by itself is given all the same.
    spool.append("leg", "failed", {"detail": "x" * PULL_BYTES})
    assert len(spool.since(EVENTS_PER_PULL + 1, wait_s=0)) == 1


def test_a_full_disk_is_an_error_except_for_final_events(tmp_path: Path) -> None:
    """Without the exit, the host would wait for the leg's deadline."""
    spool = Spool(tmp_path / "spool.jsonl")
    spool.append("leg", "spawned", {})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "spool.jsonl").stat().st_size, before[1]))
    try:
        with pytest.raises(OSError, match="cannot be written"):
            spool.append("leg", "evidence", {})
        spool.append("leg", "failed", {"reason": "OSError", "detail": "full"})
        spool.append("leg", "exit", {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [event["type"] for event in spool.since(0, wait_s=0)] == ["spawned", "failed", "exit"]
