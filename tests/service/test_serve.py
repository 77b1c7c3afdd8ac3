"""`glasshouse serve` as a process: what it keeps over a restart, its output, how it ends."""

from __future__ import annotations

import contextlib
import json
import resource
import select
import signal
import socket
import ssl
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_glasshouse.errors import InfrastructureError, RefusedError
from pytest_glasshouse.owner.client import AttestationClient
from pytest_glasshouse.tamper.testbed import PLAN, SUB
from pytest_glasshouse.wire import evidence as ev
from pytest_glasshouse.wire import tokens
from pytest_glasshouse.wire.canonical import sha256_hex
from tests.limits import HANG_S, until
from tests.service.certificate import certificate
from tests.service.serving import ServedTestbed, Serving, serving

#: What `serve` does before it reads its key, then PR_GET_DUMPABLE: 0 keeps the same user out of /proc/PID/mem.
FENCED = "import ctypes; from pytest_glasshouse.cli.serve import _protect_memory as f; f(); print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))"


@pytest.fixture(name="server")
def a_server(tmp_path: Path) -> Iterator[Serving]:
    with serving(tmp_path) as server:
        yield server


def test_a_whole_lifecycle_goes_through_it(server: Serving) -> None:
    with ServedTestbed(server) as testbed:
        testbed.attempt().run_lifecycle()
    server.end()
    with server.ledger() as ledger:
        assert (ledger.releases(), ledger.outstanding()) == (1, [])


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_leg_that_trains_while_the_server_restarts_is_completed(server: Serving, how: signal.Signals) -> None:
    """The key is out: losing the receipt would lose hours of training, and leave the release outstanding for ever."""
    with ServedTestbed(server) as testbed:
        attempt = testbed.attempt()
        result = attempt.release()["result"]
        server.end(how)
        server.start()
        attempt.run_journal()
        receipt = tokens.verify(attempt.complete(), key=testbed.embedded.public_key, typ=ev.TYP_RECEIPT)
        assert receipt["result_sha256"] == sha256_hex(result.encode())
        server.end(how)
        server.start()
        assert tokens.peek(attempt.complete())["jti"] == receipt["jti"]


def test_a_nonce_that_was_open_before_a_restart_is_refused(server: Serving) -> None:
    with ServedTestbed(server) as testbed:
        attempt = testbed.attempt()
        server.end(signal.SIGKILL)
        server.start()
        testbed.reconnect(SUB)
        with pytest.raises(RefusedError) as caught:
            attempt.release()
        assert caught.value.reason == "nonce"
        testbed.attempt().run_lifecycle()


def test_a_restarted_server_holds_no_data_key(server: Serving) -> None:
    """Its owner registers again; a guest alone gets nothing."""
    with ServedTestbed(server) as testbed:
        server.end()
        server.start()
        with pytest.raises(RefusedError) as caught:
            testbed.enrol(SUB)
        assert (caught.value.reason, server.process.poll()) == ("grant", None)


def test_it_is_the_same_server_after_a_restart_and_reads_data_keys_with_a_new_key(server: Serving) -> None:
    """Receipts are recognised for as long as the state directory is kept; a registration that was recorded opens no more."""
    before = server.key
    with ServedTestbed(server) as testbed:
        old = testbed.registration(testbed.sealed, testbed.policy)
        server.end()
        server.start()
        assert server.key == before == (server.state / "server.pub").read_text().strip()
        with pytest.raises(RefusedError) as caught:
            testbed.client.register(old)
        assert caught.value.reason == "registration"


def test_its_key_and_ledger_are_for_its_user_only(server: Serving) -> None:
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (server.state, *server.state.iterdir(), server.audit)}
    assert modes.pop("server.pub") & 0o022 == 0
    assert modes == {
        "state": 0o700, "server.key": 0o600, "ledger.sqlite3": 0o600, "ledger.sqlite3-wal": 0o600, "audit.jsonl": 0o600,
    }  # fmt: skip


def test_every_decision_is_one_line_of_the_audit_log(server: Serving) -> None:
    with ServedTestbed(server) as testbed:
        testbed.attempt().run_lifecycle()
        attempt = testbed.attempt()
        attempt.claims["container"] = "another"
        with pytest.raises(RefusedError):
            attempt.release()
        with pytest.raises(RefusedError):
            testbed.client.ask("/v1/nothing", {})
    assert server.end() == 0
    lines = [json.loads(line) for line in server.audit.read_text().splitlines()]
    decisions = [(line["event"], line["decision"], line.get("reason", "")) for line in lines]
    assert decisions == [
        ("serve", "started", ""),
        ("register", "accepted", ""),
        ("enrol", "accepted", ""),
        ("plan", "accepted", ""),
        ("challenge", "accepted", ""),
        ("release", "released", ""),
        ("complete", "completed", ""),
        ("challenge", "accepted", ""),
        ("release", "refused", "container"),
        ("request", "refused", "not-found"),
        ("serve", "stopped", ""),
    ]
    about = [line for line in lines if line["event"] in {"enrol", "challenge", "release", "complete"}]
    assert {line["kid"] for line in about} == {tokens.thumbprint(testbed.ak.public_key())}
    assert len({line["sub"] for line in about}) == 1
    assert SUB not in server.audit.read_text()


def test_sigterm_ends_it_cleanly_and_it_starts_again_after_sigkill(server: Serving) -> None:
    assert (server.end(signal.SIGTERM), server.errors) == (0, "")
    server.start()
    assert server.end(signal.SIGKILL) == -signal.SIGKILL
    server.start()
    assert server.end(signal.SIGINT) == 0
    server.start()
    assert server.end(signal.SIGHUP) == 0


def test_a_second_server_on_the_same_state_is_refused(server: Serving) -> None:
    again = subprocess.run(
        [sys.executable, "-m", "pytest_glasshouse", "serve", "--owner", str(server.owner_public), "--state", str(server.state),
         "--port", "0"], capture_output=True, text=True, check=False, timeout=HANG_S,
    )  # fmt: skip
    assert (again.returncode, again.stdout) == (4, "")
    assert "another server is using it" in again.stderr


def test_it_listens_on_loopback_and_publishes_its_keys(server: Serving) -> None:
    assert server.url.startswith("http://127.0.0.1:")
    client = AttestationClient(server.url, timeout_s=HANG_S)
    assert client.published_keys(tokens.public_key(server.key)).owner == server.owner.kid


def test_server_process_dumps_no_core_and_its_memory_cannot_be_read(server: Serving) -> None:
    limits = Path(f"/proc/{server.process.pid}/limits").read_text()
    (core,) = [line.split()[-3:-1] for line in limits.splitlines() if line.startswith("Max core")]
    assert core == ["0", "0"]
    result = subprocess.run([sys.executable, "-c", FENCED], capture_output=True, text=True, check=True)
    assert result.stdout == "0\n"


def slow_senders(server: Serving, stack: contextlib.ExitStack) -> list[socket.socket]:
    slow = [socket.create_connection(("127.0.0.1", server.port), timeout=HANG_S) for _ in range(3)]
    for each in slow:
        stack.enter_context(each)
        each.sendall(b"POST /v1/release HTTP/1.1\r\nContent-Length: 100\r\n")
    return slow


def test_a_slow_sender_is_cut_off(tmp_path: Path) -> None:
    """Its time is for the whole request: one byte after another does not lengthen it."""
    with serving(tmp_path, "--request-seconds", "0.5") as server, contextlib.ExitStack() as stack:
        slow = slow_senders(server, stack)

        def is_cut_off() -> bool:
            try:
                slow[0].sendall(b"X")
            except OSError:
                return True
            return bool(select.select(slow[:1], [], [], 0.1)[0])

        until(is_cut_off, "that the sender of one byte after another is cut off")
        assert [each.recv(1) for each in slow[1:]] == [b"", b""]


def test_others_are_served_beside_slow_senders_that_hold_every_connection_of_their_address(tmp_path: Path) -> None:
    """None of them is ever overdue: without room for it, the lifecycle would be answered by nobody."""
    with serving(tmp_path, "--request-seconds", "100000", "--connections", "6") as server, contextlib.ExitStack() as stack:
        slow_senders(server, stack)
        with ServedTestbed(server) as testbed:
            testbed.attempt().run_lifecycle()
        server.end()
        with server.ledger() as ledger:
            assert (ledger.releases(), ledger.outstanding()) == (1, [])


def test_a_head_that_is_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        for head in (b"GET /" + b"a" * 20_000, b"GET /v1/keys HTTP/1.1\r\n" + b"X: y\r\n" * 70, b"X" * (1 << 20)):
            with socket.create_connection(("127.0.0.1", server.port), timeout=HANG_S) as client:
                client.sendall(head)
                answer = b"".join(iter(lambda: client.recv(65_536), b""))
            assert answer.startswith(b"HTTP/1.1 431 ")
            assert answer.endswith(
                b'"reason":"head-too-large","status":431,"title":"refused","type":"urn:glasshouse:refusal:head-too-large"}'
            )


def test_a_flood_of_nonsense_leaves_a_log_of_bounded_size(tmp_path: Path) -> None:
    with serving(tmp_path, "--audit-mib", "0.1") as server:
        for _ in range(1500):
            with socket.create_connection(("127.0.0.1", server.port), timeout=HANG_S) as client:
                client.sendall(b"nonsense\r\n\r\n")
                client.recv(1)
        with ServedTestbed(server) as testbed:
            testbed.attempt().run_lifecycle()
        assert server.end() == 0
        log = b"".join(path.read_bytes() for path in tmp_path.glob("audit.jsonl*"))
        assert len(log) <= 0.1 * (1 << 20)
        assert b'"decision":"released"' in log
        assert b'"left_out":' in log


def test_a_disk_that_is_full_for_the_log_refuses_decisions_with_a_reason(tmp_path: Path) -> None:
    """A decision that cannot be logged is refused; standard error has the reason, once, and when it is over."""
    with serving(tmp_path) as server, ServedTestbed(server) as testbed:
        testbed.attempt().run_lifecycle()
        attempt = testbed.attempt()
        pid, size = server.process.pid, server.audit.stat().st_size
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        for _ in range(2):
            with pytest.raises(RefusedError):
                testbed.client.challenge(sub=SUB, plan=PLAN)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        attempt.run_lifecycle()
        assert server.end() == 0
        assert server.errors.splitlines() == [
            "glasshouse serve: the audit log cannot be written (File too large): every decision is refused until it can",
            "glasshouse serve: the audit log is written again",
        ]


def test_a_log_that_cannot_be_written_at_the_start_is_an_error_of_one_line(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        again = subprocess.run(
            [sys.executable, "-m", "pytest_glasshouse", "serve", "--owner", str(server.owner_public), "--state",
             str(tmp_path / "other"), "--port", "0", "--audit", "/dev/full"],
            capture_output=True, text=True, check=False, timeout=HANG_S,
        )  # fmt: skip
    assert (again.returncode, again.stdout) == (4, "")
    assert again.stderr == "glasshouse serve: --audit: cannot be written (No space left on device); nothing is served\n"


def test_a_connection_limit_above_the_open_file_limit_is_an_error_of_one_line(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        again = subprocess.run(
            ["prlimit", "--nofile=128:128", sys.executable, "-m", "pytest_glasshouse", "serve", "--owner", str(server.owner_public),
             "--state", str(tmp_path / "other"), "--port", "0"], capture_output=True, text=True, check=False, timeout=HANG_S,
        )  # fmt: skip
    assert (again.returncode, again.stdout) == (4, "")
    assert "expected room for 576 open files, saw 128" in again.stderr


def test_with_a_certificate_it_speaks_tls_1_3_and_nothing_else(tmp_path: Path) -> None:
    chain, private = certificate(tmp_path)
    with serving(tmp_path, "--certificate", str(chain), "--key", str(private)) as server:
        assert server.url.startswith("https://127.0.0.1:")
        client = AttestationClient(server.url, authority=chain, timeout_s=HANG_S)
        assert client.published_keys(tokens.public_key(server.key)).owner == server.owner.kid
        old = ssl.create_default_context(cafile=str(chain))
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with socket.create_connection(("127.0.0.1", server.port), timeout=HANG_S) as plain, pytest.raises(ssl.SSLError):
            old.wrap_socket(plain, server_hostname="127.0.0.1")
        stalled = socket.create_connection(
            ("127.0.0.1", server.port), timeout=HANG_S
        )  # sends nothing, and delays no other client
        assert client.published_keys(tokens.public_key(server.key)).owner == server.owner.kid
        stalled.close()
        assert server.end() == 0


def test_a_peer_above_its_request_rate_is_refused(tmp_path: Path) -> None:
    """However slowly this machine asks: at one request in four seconds, each that comes earlier is turned away."""
    with serving(tmp_path, "--rate", "0.25") as server:
        client = AttestationClient(server.url, timeout_s=HANG_S)
        seen = set()

        def both_were_seen() -> bool:
            try:
                client.challenge(sub="nobody", plan=PLAN)
            except (RefusedError, InfrastructureError) as error:
                seen.add(getattr(error, "reason", "turned away"))
            return len(seen) > 1

        until(both_were_seen, "that one request is judged and another is turned away")
        assert seen == {"sub", "turned away"}
