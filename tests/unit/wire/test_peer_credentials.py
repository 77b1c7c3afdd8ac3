"""The agent's end of a leg's socket: the kernel decides whose bytes are accepted."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from pytest_glasshouse.errors import ProtocolError, RefusedError
from pytest_glasshouse.wire import frames
from pytest_glasshouse.wire.peer_credentials import PeerCredentialSocket, is_child


@pytest.fixture(name="pair")
def a_pair() -> Iterator[tuple[PeerCredentialSocket, socket.socket]]:
    end, theirs = socket.socketpair()
    with end, theirs:
        yield PeerCredentialSocket(end), theirs


def _sent_by_a_child(theirs: socket.socket) -> int:
    pid = os.fork()
    if pid == 0:
        frames.send(theirs, {"sent": "by the child"})
        os._exit(0)
    os.waitpid(pid, 0)
    return pid


def test_bytes_of_the_named_process_are_accepted(pair: tuple[PeerCredentialSocket, socket.socket]) -> None:
    ours, theirs = pair
    ours.pid = _sent_by_a_child(theirs)
    assert frames.receive(ours) == ({"sent": "by the child"}, bytearray())


def test_bytes_of_another_process_are_refused(pair: tuple[PeerCredentialSocket, socket.socket]) -> None:
    """It holds the very same socket."""
    ours, theirs = pair
    ours.pid = os.getpid()
    _sent_by_a_child(theirs)
    with pytest.raises(RefusedError, match=r"sender: expected process"):
        frames.receive(ours)


def test_two_processes_cannot_share_one_message(pair: tuple[PeerCredentialSocket, socket.socket]) -> None:
    """The beginning of a frame by the leg, its end by another process."""
    ours, theirs = pair
    ours.pid = os.getpid()
    theirs.sendall(bytes(7))
    _sent_by_a_child(theirs)
    with pytest.raises(RefusedError, match="sender"):
        frames.receive(ours)


def test_descriptors_come_with_credentials(pair: tuple[PeerCredentialSocket, socket.socket]) -> None:
    ours, theirs = pair
    ours.pid = os.getpid()
    reading, writing = os.pipe()
    socket.send_fds(theirs, [b"\0"], [reading, writing])
    received = ours.descriptors(2)
    os.write(received[1], b"x")
    assert os.read(received[0], 1) == b"x"
    for descriptor in (reading, writing, *received):
        os.close(descriptor)


def test_descriptors_that_are_unexpected_are_closed(pair: tuple[PeerCredentialSocket, socket.socket]) -> None:
    ours, theirs = pair
    ours.pid = os.getpid()
    reading, writing = os.pipe()
    socket.send_fds(theirs, [b"\0"], [writing])
    assert ours.recv_into(memoryview(bytearray(1))) == 1
    os.close(writing)
    assert os.read(reading, 1) == b""  # no copy of the other end is open
    os.close(reading)
    socket.send_fds(theirs, [b"\0"], [theirs.fileno()])
    with pytest.raises(ProtocolError, match="expected 2 descriptors"):
        ours.descriptors(2)


def test_a_child_is_distinguished_from_another_process() -> None:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(reading, 1)
        os._exit(0)
    assert is_child(pid, os.getpid())
    assert not is_child(1, os.getpid())
    os.write(writing, b"x")
    os.waitpid(pid, 0)
    assert not is_child(pid, os.getpid())
    os.close(reading)
    os.close(writing)
