"""Sockets without a file, for one user."""

from __future__ import annotations

import os
import queue
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from pytest_glasshouse.wire import local_socket
from pytest_glasshouse.wire.local_socket import SocketServer
from tests.limits import HANG_S


@pytest.fixture
def accepted() -> Iterator[queue.Queue[socket.socket]]:
    made: queue.Queue[socket.socket] = queue.Queue()
    yield made
    while not made.empty():
        made.get().close()


@pytest.fixture
def server(accepted: queue.Queue[socket.socket]) -> Iterator[SocketServer]:
    made = SocketServer("test", accepted.put)
    yield made
    made.close()


def test_what_is_sent_arrives_and_the_address_is_no_path(server: SocketServer, accepted: queue.Queue[socket.socket]) -> None:
    with local_socket.connect(server.address) as ours, accepted.get(timeout=HANG_S) as theirs:
        ours.sendall(b"hello")
        assert theirs.recv(5) == b"hello"
        assert "/" not in server.address


def test_two_servers_have_two_addresses(server: SocketServer) -> None:
    other = SocketServer("test", socket.socket.close)
    other.close()
    assert other.address != server.address


def test_a_closed_server_accepts_nobody(server: SocketServer) -> None:
    server.close()
    with pytest.raises(ConnectionRefusedError):
        local_socket.connect(server.address)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_another_user_is_refused(server: SocketServer, accepted: queue.Queue[socket.socket]) -> None:
    """A name in the abstract namespace has no permissions of its own."""
    code = (
        "import os, socket, sys; os.setresuid(54321, 54321, 54321); s = socket.socket(socket.AF_UNIX);"
        "s.connect(b'\\0' + sys.argv[1].encode()); sys.exit(len(s.recv(1)))"
    )
    other = subprocess.Popen([sys.executable, "-c", code, server.address[1:]])
    assert other.wait(HANG_S) == 0
    assert accepted.empty()
    with local_socket.connect(server.address):
        accepted.get(timeout=HANG_S).close()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_a_server_of_another_user_is_refused() -> None:
    code = (
        "import os, socket, sys; os.setresuid(54321, 54321, 54321); s = socket.socket(socket.AF_UNIX);"
        "s.bind(b'\\0glasshouse-test-of-another-user'); s.listen(); print('ready', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout is not None
    other.stdout.readline()
    with pytest.raises(PermissionError, match="another user"):
        local_socket.connect("@glasshouse-test-of-another-user")
    other.communicate()
