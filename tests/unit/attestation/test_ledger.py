"""The ledger outlives its process, loses nothing that was acted upon, and serves one server at a time."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import os
import sqlite3
import stat
from pathlib import Path

import pytest

from pytest_glasshouse.attestation.ledger import BegunRound, Completion, Release, ReleaseLedger
from pytest_glasshouse.errors import ConfigurationError, IntegrityError

RELEASE = Release(
    nonce="n1", sub="s", run="r", manifest="m", policy="p", plan="q", ak="a", sig="g", attempt=1, result_sha256="h",
    released_at=5, deadline=9,
)  # fmt: skip
COMPLETION = Completion(nonce="n1", head_sha256="h", exit_sha256="e", receipt="t")


def release(nonce: str, **changes: str) -> Release:
    return dataclasses.replace(RELEASE, nonce=nonce, **changes)  # type: ignore[arg-type]


def test_everything_is_read_back_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    with contextlib.closing(ReleaseLedger(path)) as first:
        first.record_policy(name="n", version=2, sha256="x")
        assert first.attempt(subject="w", row="a", run="r1") == 1
        first.record_release(RELEASE)
        first.record_release(release("n2"))
        first.record_completion(COMPLETION)
    with contextlib.closing(ReleaseLedger(path)) as second:
        assert second.policies("n") == [(2, "x")]
        assert second.attempt(subject="w", row="a", run="r2") == 2
        assert second.release("n1") == RELEASE
        assert second.completion("n1") == COMPLETION
        assert second.releases() == 2
        assert [each["nonce"] for each in second.outstanding()] == ["n2"]


def test_records_survive_a_process_that_did_not_close_the_ledger(tmp_path: Path) -> None:
    """A kill closes nothing. The copy is what a reader finds then."""
    path, copied = tmp_path / "ledger", tmp_path / "copied"
    with contextlib.closing(ReleaseLedger(path)) as ledger:
        ledger.record_release(RELEASE)
        for suffix in ("", "-wal"):
            Path(f"{copied}{suffix}").write_bytes(Path(f"{path}{suffix}").read_bytes())
    with contextlib.closing(ReleaseLedger(copied)) as found:
        assert found.release("n1") == RELEASE


def test_releases_are_counted_by_session_and_by_package() -> None:
    with contextlib.closing(ReleaseLedger()) as ledger:
        for each in (RELEASE, release("n2"), release("n3", sub="other"), release("n4", manifest="other")):
            ledger.record_release(each)
        assert (ledger.releases_of_session("s"), ledger.releases_of_package("m"), ledger.releases()) == (3, 3, 4)


def test_attempts_are_placed_within_their_subject_and_row() -> None:
    with contextlib.closing(ReleaseLedger()) as ledger:
        places = [ledger.attempt(subject=s, row=row, run=run) for s, row, run in ("waa", "wba", "wab", "vaa", "waa", "wac")]
    assert places == [1, 1, 2, 1, 1, 3]


@pytest.mark.parametrize("second", [RELEASE, release("n1", sub="other")])
def test_a_nonce_is_released_once(second: Release) -> None:
    """Whatever state the server is in: two keys for one nonce have no place in the file."""
    with contextlib.closing(ReleaseLedger()) as ledger:
        ledger.record_release(RELEASE)
        with pytest.raises(sqlite3.IntegrityError):
            ledger.record_release(second)


def test_a_release_is_completed_once() -> None:
    with contextlib.closing(ReleaseLedger()) as ledger:
        ledger.record_release(RELEASE)
        ledger.record_completion(COMPLETION)
        with pytest.raises(sqlite3.IntegrityError):
            ledger.record_completion(dataclasses.replace(COMPLETION, head_sha256="fork"))


@pytest.mark.parametrize("damage", ["text", "torn", "foreign"])
def test_a_damaged_ledger_is_refused(tmp_path: Path, damage: str) -> None:
    """Forgetting a release would allow it again."""
    path = tmp_path / "ledger"
    if damage == "text":
        path.write_bytes(b'{"event":"release"}\n' * 200)
    elif damage == "torn":
        with contextlib.closing(ReleaseLedger(path)) as ledger:
            ledger.record_release(RELEASE)
        path.write_bytes(path.read_bytes()[:9000])
    else:
        with contextlib.closing(sqlite3.connect(path)) as foreign:
            foreign.execute("CREATE TABLE somebody (else_s TEXT)")
    with pytest.raises(IntegrityError, match="ledger"):
        ReleaseLedger(path)


def test_two_servers_do_not_share_a_ledger(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    first = ReleaseLedger(path)
    with pytest.raises(ConfigurationError, match="another server"):
        ReleaseLedger(path)
    first.close()
    ReleaseLedger(path).close()


def test_the_files_are_for_their_owner_only(tmp_path: Path) -> None:
    with contextlib.closing(ReleaseLedger(tmp_path / "ledger")) as ledger:
        ledger.record_release(RELEASE)
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"ledger": 0o600, "ledger-wal": 0o600}


def test_every_commit_is_synced(tmp_path: Path) -> None:
    """A power cut is no restart: what is not synced is gone."""
    with contextlib.closing(ReleaseLedger(tmp_path / "ledger")) as ledger:
        settings = [ledger._value(f"PRAGMA {name}") for name in ("synchronous", "journal_mode", "locking_mode")]
    assert settings == [2, "wal", "exclusive"]


def test_a_ledger_that_cannot_be_created_is_an_error_of_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be opened"):
        ReleaseLedger(tmp_path / "nowhere" / "ledger")


def test_a_ledger_closes_with_its_owner() -> None:
    """Python 3.13 warns of a database that is left open, in the middle of a user's tests."""
    ledger = ReleaseLedger()
    connection = ledger._db
    del ledger
    gc.collect()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.execute("SELECT 1")


def test_sqlites_own_files_are_as_private_as_the_ledger(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    ReleaseLedger(path).close()
    for beside in ("-wal", "-journal", "-shm"):
        other = path.with_name(path.name + beside)
        other.touch()
        other.chmod(0o666)
        with pytest.raises(ConfigurationError, match=rf"{beside} may be written to by others \(mode 0666\)"):
            ReleaseLedger(path)
        other.unlink()
        other.symlink_to(tmp_path)
        with pytest.raises(ConfigurationError, match=rf"{beside}: expected a regular file"):
            ReleaseLedger(path)
        other.unlink()
    ReleaseLedger(path).close()


def test_a_ledger_path_that_is_no_file_is_an_error_of_one_line(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    with pytest.raises(ConfigurationError, match="expected a regular file"):
        ReleaseLedger(tmp_path / "fifo")


def test_a_round_has_a_session_for_every_node_of_its_plan_and_no_more() -> None:
    with contextlib.closing(ReleaseLedger()) as ledger:
        for number in (1, 2):
            ledger.record_round(BegunRound(nonce=f"n{number}", run="r", row="row", attempt="a", plan="p"))
            claimed = [ledger.claim_round(run="r", plan="p", sub=f"{number}-{node}", most=2) for node in (0, 1, 2)]
            assert claimed == [True, True, False]
        assert ledger.claim_round(run="r", plan="p", sub="1-1", most=2)
        assert [each.sub for each in ledger.rounds("r")] == ["1-0", "2-0"]
        assert ledger.row_of(run="r", plan="p") == "row"
