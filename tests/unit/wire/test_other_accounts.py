"""Another account is refused at both ends of a socket, shown without root: this process takes itself for another user."""

from __future__ import annotations

import os
import queue
import socket

import pytest

from pytest_glasshouse.wire import local_socket
from pytest_glasshouse.wire.local_socket import SocketServer
from tests.limits import HANG_S
from tests.ordinary_user import ordinary_user


def test_another_account_is_refused_at_both_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    accepted: queue.Queue[socket.socket] = queue.Queue()
    with ordinary_user():
        server, uid = SocketServer("test", accepted.put), os.geteuid()
        with monkeypatch.context() as other:
            other.setattr(os, "geteuid", lambda: uid + 1)
            with pytest.raises(PermissionError, match=f"{server.address} belongs to another user"):
                local_socket.connect(server.address)
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(HANG_S)
                connection.connect(b"\0" + server.address[1:].encode())
                assert connection.recv(1) == b""
        assert accepted.empty()
        with local_socket.connect(server.address):
            accepted.get(timeout=HANG_S).close()
        server.close()
