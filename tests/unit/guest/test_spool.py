from __future__ import annotations

from pathlib import Path
from threading import Thread

from pytest_glasshouse.guest.spool import Spool


def test_events_are_numbered_and_pulled_from_a_cursor(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.jsonl")
    for number in range(3):
        spool.append("leg", "progress", {"units": number})
    assert [event["seq"] for event in spool.since(1, wait_s=0)] == [1, 2]
    assert spool.since(3, wait_s=0) == []


def test_restarted_agent_still_has_what_its_predecessor_said(tmp_path: Path) -> None:
    """A cut connection or a restart must not lose a callback."""
    first = Spool(tmp_path / "spool.jsonl")
    first.append("leg", "callback", {"status": "completed"})
    first.close()
    second = Spool(tmp_path / "spool.jsonl")
    second.append("leg", "exit", {})
    assert [(event["seq"], event["type"]) for event in second.since(0, wait_s=0)] == [(0, "callback"), (1, "exit")]


def test_event_is_on_disk_before_append_returns(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.jsonl")
    spool.append("leg", "callback", {"status": "completed"})
    assert b'"status":"completed"' in (tmp_path / "spool.jsonl").read_bytes()


def test_waiting_pull_is_woken_by_the_next_event(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.jsonl")
    pulled: list[object] = []
    waiting = Thread(target=lambda: pulled.extend(spool.since(0, wait_s=30)))
    waiting.start()
    spool.append("leg", "started", {})
    waiting.join(timeout=10)
    assert len(pulled) == 1
