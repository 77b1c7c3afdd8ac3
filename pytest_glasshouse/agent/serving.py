"""Serves the host on the agent's unix socket: one thread a connection, one frame a request."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from pathlib import Path

from pytest_glasshouse.agent.agent import Agent
from pytest_glasshouse.errors import ProtocolError
from pytest_glasshouse.guest.launcher import give_back_freed, keep_little
from pytest_glasshouse.wire import frames

#: Deadline for one frame once it has begun: a slow client must not occupy a thread of the agent.
_FRAME_S = 300.0
#: The least size of blocks of memory that are given back at once: messages of megabytes.
_LARGE_BYTES = 1 << 20


def serve(*, directory: str, allocation: str, site_packages: list[str], until_eof: bool, contact: str | None = None) -> int:
    """Serve the host on `<directory>/agent.sock` until killed; with `until_eof`, until standard input ends."""
    keep_little(_LARGE_BYTES)
    root = Path(directory)
    contact_file = None if contact is None else Path(contact)
    archive = Path(sys.argv[0]).read_bytes()
    agent = Agent(archive=archive, directory=root, allocation=allocation, site_packages=site_packages, contact=contact_file)
    del archive
    give_back_freed()
    listener = socket.socket(socket.AF_UNIX)
    path = root / "agent.sock"
    path.unlink(missing_ok=True)
    # Bound under another name and renamed: a visible socket already accepts connections.
    temporary = root / "agent.sock.new"
    temporary.unlink(missing_ok=True)
    listener.bind(str(temporary))
    listener.listen(16)
    temporary.rename(path)
    if until_eof:
        threading.Thread(target=_end_with_stdin, args=(agent,), daemon=True).start()
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_serve_connection, args=(agent, connection), daemon=True).start()


def _serve_connection(agent: Agent, connection: socket.socket) -> None:
    with connection:
        try:
            while (received := frames.receive(connection, rest_s=_FRAME_S)) is not None:
                reply, payload = agent.handle(*received)
                frames.send(connection, reply, payload, deadline=time.monotonic() + _FRAME_S)
        except (OSError, ProtocolError):
            return


def _end_with_stdin(agent: Agent) -> None:
    while os.read(0, 4096):
        pass
    agent.end()
    os._exit(0)
