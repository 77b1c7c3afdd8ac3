"""The ledger outlives its process, loses nothing that was acted upon, and serves one server at a time."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from pytest_glasshouse.errors import ConfigurationError, IntegrityError
from pytest_glasshouse.trust.ledger import Ledger


def test_events_are_there_again(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    first = Ledger(path)
    first.append({"event": "release", "nonce": "a"})
    first.append({"event": "complete", "nonce": "a"})
    first.close()
    second = Ledger(path)
    assert second.events == [{"event": "release", "nonce": "a"}, {"event": "complete", "nonce": "a"}]
    second.append({"event": "release", "nonce": "b"})
    second.close()
    assert len(Ledger(path).events) == 3


def test_a_torn_last_line_was_never_acted_upon(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    path.write_bytes(b'{"event":"release","nonce":"a"}\n{"event":"rel')
    ledger = Ledger(path)
    assert len(ledger.events) == 1
    ledger.append({"event": "release", "nonce": "b"})
    ledger.close()
    assert [event["nonce"] for event in Ledger(path).events] == ["a", "b"]


def test_a_damaged_ledger_is_refused(tmp_path: Path) -> None:
    """Forgetting a release would allow it again."""
    path = tmp_path / "ledger"
    path.write_bytes(b'{"event":"rel\n{"event":"release","nonce":"b"}\n')
    with pytest.raises(IntegrityError):
        Ledger(path)


def test_two_servers_do_not_share_a_ledger(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    first = Ledger(path)
    with pytest.raises(ConfigurationError, match="another server"):
        Ledger(path)
    first.close()
    Ledger(path).close()


def test_the_file_is_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    Ledger(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_without_a_path_it_lasts_as_long_as_the_process() -> None:
    ledger = Ledger()
    ledger.append({"event": "release"})
    ledger.close()
    assert ledger.events == [{"event": "release"}]
