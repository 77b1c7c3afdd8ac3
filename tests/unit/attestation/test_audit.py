"""A line is whole, has the decision, and no name."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pytest_glasshouse.attestation.audit import AuditLine, AuditLog, name_digest
from pytest_glasshouse.attestation.audit_file import AuditFile
from pytest_glasshouse.attestation.server import AttestationServer
from pytest_glasshouse.errors import ConfigurationError, RefusedError
from pytest_glasshouse.tamper.testbed import PLAN, SUB, TamperTestbed
from tests.ordinary_user import ordinary_user


@pytest.fixture(name="lines")
def collected_lines() -> list[AuditLine]:
    return []


@pytest.fixture(name="testbed")
def an_audited_stage(lines: list[AuditLine]) -> Iterator[TamperTestbed]:
    class Audited(TamperTestbed):
        full = False

        def _write(self, line: AuditLine) -> None:
            if self.full:
                raise OSError("no space")
            lines.append(line)

        def _serve(self):  # type: ignore[no-untyped-def]  # noqa: ANN202
            embedded = super()._serve()
            embedded.server._audit = self._write
            return embedded

    with Audited() as testbed:
        yield testbed


def test_a_line_is_json_with_a_time() -> None:
    read, write = os.pipe()
    AuditLog(write, clock=lambda: 1_800_000_000.25)(AuditLine(event="release", decision="refused", reason="stale"))
    record = json.loads(os.read(read, 1000))
    os.close(read)
    os.close(write)
    assert record == {"time": "2027-01-15T08:00:00.250Z", "event": "release", "decision": "refused", "reason": "stale"}


def test_a_log_that_is_gone_is_an_error() -> None:
    read, write = os.pipe()
    os.close(read)
    with pytest.raises(OSError, match="pipe"):
        AuditLog(write)(AuditLine(event="release", decision="released"))
    os.close(write)


def test_a_release_that_cannot_be_logged_does_not_leave(testbed: TamperTestbed) -> None:
    attempt = testbed.attempt()
    testbed.full = True  # type: ignore[attr-defined]
    with pytest.raises(RefusedError) as caught:
        attempt.release()
    assert caught.value.reason == "internal"


def test_a_refusal_names_only_a_proven_key(testbed: TamperTestbed, lines: list[AuditLine]) -> None:
    """An unknown key's refusal has no name: unproven claims are not logged."""
    attempt = testbed.attempt()
    attempt.claims["container"] = "another"
    for _ in range(2):
        with pytest.raises(RefusedError):
            attempt.release()
    with pytest.raises(RefusedError):
        testbed.client.challenge(sub="a\nforged line", plan=PLAN)
    kid = attempt.claims["iss"]
    sub, nonce = name_digest("sub", SUB), name_digest("nonce", attempt.nonce)
    assert lines[-3:] == [
        AuditLine(event="release", decision="refused", reason="container", kid=str(kid), sub=sub, nonce=nonce),
        AuditLine(event="release", decision="refused", reason="nonce", kid=str(kid)),
        AuditLine(event="challenge", decision="refused", reason="sub"),
    ]


def test_an_overdue_release_is_logged_once(testbed: TamperTestbed, lines: list[AuditLine]) -> None:
    done, left = testbed.attempt(), testbed.attempt()
    done.run_lifecycle()
    left.release()
    lines.clear()
    server: AttestationServer = testbed.embedded.server
    server.audit_overdue()
    assert lines == []
    testbed.now += testbed.policy.completion_s
    server.audit_overdue()
    server.audit_overdue()
    assert lines == [
        AuditLine(event="complete", decision="overdue", sub=name_digest("sub", SUB), nonce=name_digest("nonce", left.nonce))
    ]


def test_a_name_has_one_digest_and_no_two_kinds_share_it() -> None:
    assert name_digest("sub", "x") == name_digest("sub", "x") != name_digest("nonce", "x")
    assert name_digest("sub", "") == ""


def test_a_line_written_in_part_is_an_error() -> None:
    """A full disk or pipe takes a part of it: the decision is refused, as one that could not be written at all."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"x" * 4096)
    os.read(reading, 4096)
    with pytest.raises(OSError, match="short write"):
        AuditLog(writing)(AuditLine(event="release", decision="released", kid="k" * 8192))
    os.close(reading)
    os.close(writing)


def refusals(log: AuditLog, number: int, **about: str) -> None:
    for _ in range(number):
        log(AuditLine(event="request", decision="refused", reason="malformed", **about))


def test_a_flood_of_refusals_is_counted_and_one_key_does_not_hide_another(tmp_path: Path) -> None:
    """A flood of invalid requests must not push the records of releases out of the log."""
    now = [1_800_000_000.0]
    log = AuditFile(tmp_path / "log", limit=0, clock=lambda: now[0])
    refusals(log, 5000)
    refusals(log, 3, kid="a-guest")
    log(AuditLine(event="release", decision="released"))
    now[0] += 2
    refusals(log, 5)
    log.close()
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert len(lines) == 1000 + 3 + 1 + 2
    assert [line["kid"] for line in lines[1000:1003]] == ["a-guest"] * 3
    assert [line.get("left_out") for line in lines[999:]] == [None, 4000, None, None, None, None, None]


def test_a_log_stays_below_its_size_limit_and_records_what_was_dropped(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = AuditFile(path, limit=16_384)
    for number in range(2000):
        log(AuditLine(event="release", decision="released", sub=f"{number:016d}"))
    log.close()
    parts = [path, *(tmp_path / f"log.{number}" for number in range(1, 8))]
    assert sorted(tmp_path.iterdir()) == sorted(parts)
    assert sum(part.stat().st_size for part in parts) <= 16_384
    assert {stat.S_IMODE(part.stat().st_mode) for part in parts} == {0o600}
    parts_records = [[json.loads(line) for line in part.read_text().splitlines()] for part in parts]
    for newer, older in zip(parts_records, parts[1:], strict=False):
        assert (newer[0]["event"], newer[0]["decision"]) == ("audit", "continued")
        assert newer[0]["before_sha256"] == hashlib.sha256(older.read_bytes()).hexdigest()
        assert {"gone_bytes", "gone_sha256"} <= newer[0].keys()
    numbers = [int(line["sub"]) for part in reversed(parts_records) for line in part if "sub" in line]
    assert numbers == list(range(numbers[0], 2000))


def test_a_server_that_starts_again_goes_on_with_its_log(tmp_path: Path) -> None:
    for number in range(50):
        log = AuditFile(tmp_path / "log", limit=8192)
        log(AuditLine(event="serve", decision="started", sub=f"{number:0900d}"))
        log.close()
    assert sum(part.stat().st_size for part in tmp_path.iterdir()) <= 8 * 1400
    assert len(list(tmp_path.iterdir())) == 8


def test_two_servers_may_share_a_log(tmp_path: Path) -> None:
    """Each line of both is in one of the files, whichever server rotated it."""
    logs = [AuditFile(tmp_path / "log", limit=80_000) for _ in range(2)]

    def write(number: int) -> None:
        for each in range(300):
            logs[number](AuditLine(event="release", decision="released", sub=f"{number}-{each}"))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, range(2)))
    records = [json.loads(line) for part in tmp_path.iterdir() for line in part.read_text().splitlines()]
    assert sorted(line["sub"] for line in records if "sub" in line) == sorted(
        f"{n}-{each}" for n in range(2) for each in range(300)
    )
    for log in logs:
        log.close()


@pytest.mark.parametrize("limit", [0, 1 << 20])
def test_a_log_that_was_moved_away_is_begun_anew(limit: int, tmp_path: Path) -> None:
    log = AuditFile(tmp_path / "log", limit=limit)
    log(AuditLine(event="serve", decision="started"))
    (tmp_path / "log").rename(tmp_path / "yesterday")
    log(AuditLine(event="serve", decision="stopped"))
    log.close()
    assert [json.loads((tmp_path / name).read_text())["decision"] for name in ("yesterday", "log")] == ["started", "stopped"]


def test_a_link_to_a_log_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "logs" / "log")
    log = AuditFile(tmp_path / "link", limit=1024)
    for _ in range(20):
        log(AuditLine(event="release", decision="released"))
    log.close()
    assert (tmp_path / "link").is_symlink()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["link", "logs"]
    assert len(list((tmp_path / "logs").iterdir())) == 8


def test_a_line_after_half_a_line_is_whole() -> None:
    """The disk was full for a moment; what was refused then must not spoil what is decided now."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    log = AuditLog(writing)
    os.write(writing, b"x" * 65_536)
    os.read(reading, 4096)
    with pytest.raises(OSError, match="short write"):
        log(AuditLine(event="release", decision="released", kid="k" * 8192))
    os.read(reading, 65_536)
    log(AuditLine(event="release", decision="released"))
    assert json.loads(os.read(reading, 65_536).splitlines()[-1])["event"] == "release"
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize("what", ["directory", "fifo", "missing"])
def test_a_path_that_cannot_be_a_log_is_an_error_of_one_line(what: str, tmp_path: Path) -> None:
    path = tmp_path / "log"
    match what:
        case "directory":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case _:
            path = path / "deeper"
    with pytest.raises(ConfigurationError, match=r"--audit .*: cannot be written"):
        AuditFile(path, limit=1024)


def test_a_log_in_a_directory_that_may_not_be_written_to_is_refused_unless_another_tool_rotates_it() -> None:
    """A full log could not make way for the next: the server would stop in the middle of its work."""
    with ordinary_user() as folder:
        (folder / "log").write_bytes(b"")
        folder.chmod(0o555)
        with pytest.raises(ConfigurationError, match="expected a directory that this user may write to"):
            AuditFile(folder / "log", limit=1024)
        log = AuditFile(folder / "log", limit=0)
        log(AuditLine(event="release", decision="released"))
        log.close()
        assert b"released" in (folder / "log").read_bytes()
