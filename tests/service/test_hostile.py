"""One address does its worst with 256 connections: an honest client is served, in bounded memory and threads."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from pytest_glasshouse.attestation.http import serve_embedded
from pytest_glasshouse.attestation.limits import Limits
from pytest_glasshouse.attestation.server import AttestationServer
from pytest_glasshouse.owner.client import AttestationClient
from pytest_glasshouse.owner.owner import Owner
from pytest_glasshouse.tamper.testbed import TamperTestbed
from pytest_glasshouse.wire import tokens
from pytest_glasshouse.wire.canonical import Json
from tests.limits import HANG_S, until
from tests.service.certificate import certificate
from tests.service.hostile import KINDS, Crowd, Pressed, crowds
from tests.service.serving import ServedTestbed, Serving, serving

MIB = 200
#: Connections, as many being closed, and the process's own.
THREADS = 2 * 256 + 8
#: No request is ever overdue: what cuts a hostile connection off is not the time that a test takes.
PATIENT = ("--request-seconds", "100000")


def status(server: Serving) -> dict[str, int]:
    """Of its process: `VmHWM` (kB, the most memory it ever held) and `Threads`, among others."""
    lines = Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
    fields = (line.replace(":", "").split() for line in lines)
    return {each[0]: int(each[1]) for each in fields if len(each) > 1 and each[1].isdigit()}


def is_bounded(server: Serving) -> None:
    found = status(server)
    assert found["VmHWM"] < MIB * 1024
    assert found["Threads"] <= THREADS


def goes_through_a_lifecycle(testbed: TamperTestbed, press: Callable[[], None]) -> None:
    """Package registered, guest enrolled, key released, leg completed: a crowd presses before each request and during it."""
    testbed.client = client = Pressed(testbed.embedded.url, press)
    testbed.register(testbed.sealed, testbed.policy)
    testbed.enrol("beside-them")
    testbed.attempt("beside-them").run_lifecycle()
    assert client.requests == 4 + 3


@pytest.mark.parametrize("kind", KINDS)
def test_an_honest_client_is_served_beside_a_hostile_address(kind: str, tmp_path: Path) -> None:
    """Not for the deadline of a request, which is of no help here: it is never reached."""
    with serving(tmp_path, *PATIENT) as server, ServedTestbed(server) as testbed, Crowd(server.port, kind) as crowd:
        goes_through_a_lifecycle(testbed, crowd.press)
        is_bounded(server)


class Answering(AttestationServer):
    """A server whose answers to those who ask for "held" wait until they are let go."""

    def __init__(self) -> None:
        super().__init__(owner=Owner.generate().public)
        self.held: list[str] = []
        self.let_go = threading.Event()

    def challenge(self, message: Mapping[str, Json]) -> dict[str, Json]:
        if message["sub"] == "held":
            self.held.append("one")
            assert self.let_go.wait(HANG_S)
        return {}


def test_two_messages_of_an_address_are_answered_at_once_and_other_addresses_do_not_wait_for_them() -> None:
    """A parsed message takes up to forty times its bytes."""
    server = Answering()
    listening = serve_embedded(server, limits=Limits(request_s=HANG_S))
    body = b'{"plan":"x","sub":"held"}'
    head = b"POST /v1/challenge HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    with contextlib.closing(listening), contextlib.ExitStack() as stack:
        stack.callback(server.let_go.set)
        for _ in range(10):
            address = ("127.0.0.1", int(listening.url.rpartition(":")[2]))
            hostile = stack.enter_context(socket.create_connection(address, HANG_S, source_address=("127.0.0.2", 0)))
            hostile.sendall(head + body)
        until(lambda: len(server.held) == 2, "that two messages of the address are being answered")
        client = AttestationClient(listening.url, timeout_s=HANG_S)
        for _ in range(10):
            assert client.challenge(sub="other", plan="x") == {}
        assert len(server.held) == 2


def test_a_client_that_shares_its_address_with_all_of_them_is_served_too(tmp_path: Path) -> None:
    """On loopback every worker has the address of every other."""
    with (
        serving(tmp_path, *PATIENT) as server,
        ServedTestbed(server) as testbed,
        crowds(server.port, number=22, address="127.0.0.1") as press,
    ):
        goes_through_a_lifecycle(testbed, press)
        is_bounded(server)


def test_an_unfinished_tls_handshake_does_not_delay_other_clients(tmp_path: Path) -> None:
    chain, private = certificate(tmp_path)
    with (
        serving(tmp_path, "--certificate", str(chain), "--key", str(private), *PATIENT) as server,
        Crowd(server.port, "half a handshake") as one,
        Crowd(server.port, "silent", address="127.0.0.3") as other,
    ):

        def press() -> None:
            one.press()
            other.press()

        client = Pressed(server.url, press, authority=chain)
        for _ in range(5):
            assert client.published_keys(tokens.public_key(server.key)).owner == server.owner.kid
        is_bounded(server)


def test_the_embedded_server_serves_its_workers_beside_them() -> None:
    with TamperTestbed() as testbed:
        testbed.limits = Limits(request_s=100_000)
        testbed.restart()
        with crowds(int(testbed.embedded.url.rpartition(":")[2]), number=22, address="127.0.0.1") as press:
            goes_through_a_lifecycle(testbed, press)


def test_a_handshake_must_be_over_in_time(tmp_path: Path) -> None:
    chain, private = certificate(tmp_path)
    options = ("--certificate", str(chain), "--key", str(private), "--request-seconds", "0.5")
    with serving(tmp_path, *options) as server:
        context = ssl.create_default_context(cafile=str(chain))
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = context.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
        with pytest.raises(ssl.SSLWantReadError):
            client.do_handshake()
        hello = outgoing.read()
        with socket.create_connection(("127.0.0.1", server.port), timeout=HANG_S) as slow:
            slow.sendall(hello[: len(hello) // 2])
            assert slow.recv(1) == b""
