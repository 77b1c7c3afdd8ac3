"""Sockets without a file, for one user."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading

import pytest

from pytest_glasshouse.wire import local_socket


def test_what_is_sent_arrives_and_the_address_is_no_path() -> None:
    listener, address = local_socket.listen("test")
    with listener, local_socket.connect(address) as ours, local_socket.accept(listener) as theirs:
        ours.sendall(b"hello")
        assert theirs.recv(5) == b"hello"
        assert "/" not in address


def test_two_listeners_have_two_addresses() -> None:
    (one, first), (two, second) = local_socket.listen("test"), local_socket.listen("test")
    with one, two:
        assert first != second


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_another_user_is_turned_away() -> None:
    """A name in the abstract namespace has no permissions of its own."""
    listener, address = local_socket.listen("test")
    with listener:
        code = (
            "import os, socket, sys; os.setresuid(54321, 54321, 54321); s = socket.socket(socket.AF_UNIX);"
            "s.connect(b'\\0' + sys.argv[1].encode()); sys.exit(len(s.recv(1)))"
        )
        other = subprocess.Popen([sys.executable, "-c", code, address[1:]])
        accepted: list[socket.socket] = []
        thread = threading.Thread(target=lambda: accepted.append(local_socket.accept(listener)))
        thread.start()
        assert other.wait(60) == 0
        assert accepted == []
        with local_socket.connect(address):
            thread.join(60)
        accepted[0].close()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_nobody_connects_to_another_users_process() -> None:
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
