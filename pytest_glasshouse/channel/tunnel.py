"""The way to a guest on another machine, and the tunnel kept open over it.

A `Route` knows the client programs: one that runs a command at the guest, and one that listens at a socket here and leads to
the agent's there. `Tunnel` keeps the second one running. What installs the agent and talks to it knows no more than these.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Protocol

from pytest_glasshouse.channel.access import RemoteSocket

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytest_glasshouse.channel.access import Access

_BACKOFF_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
#: After a client lived this long, the next failure starts with the shortest pause again.
_LIVED_S = 10.0

#: Sets PR_SET_PDEATHSIG, so that it dies with the thread that started it, then becomes the client.
_PDEATHSIG = """import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
if os.getppid() != int(sys.argv[1]): os._exit(1)
os.execvp(sys.argv[2], sys.argv[2:])"""


class Route(Protocol):
    """How one guest is reached. Its files are in a directory of mode 0700, which `remove` deletes."""

    @property
    def socket(self) -> Path:
        """The socket on this machine that leads to the agent while a tunnel is up."""
        ...

    def aim(self, access: Access) -> None:
        """Set or change where the guest is. Raises `IntegrityError` or `ConfigurationError` for an address of no use."""
        ...

    def run_command(self, remote: str) -> list[str]:
        """The command line of a client that runs `remote`, a command of `sh`, at the guest, joined to its standard streams."""
        ...

    def forward_command(self, remote_socket: RemoteSocket) -> list[str]:
        """The command line of a client that listens at `socket` and joins every connection to `remote_socket`, until killed."""
        ...

    def environment(self) -> dict[str, str]:
        """The environment of these clients."""
        ...

    def failure_reason(self, stderr: str, status: int) -> str:
        """Why a client failed, without an address: what it printed may hold one."""
        ...

    def secrets(self) -> tuple[str, ...]:
        """What must never be published: the guest's address and the directory here, in every form in which they are printed."""
        ...

    def remove(self) -> None:
        """Delete its files."""
        ...


class Tunnel:
    """Keeps the guest's socket reachable at `route.socket` until it is closed; calls `on_disconnect` with each failure.

    `remote_socket` comes from the guest: raises `IntegrityError` unless it is a plain path.
    """

    def __init__(self, route: Route, remote_socket: str, *, on_disconnect: Callable[[str], None] = lambda _why: None) -> None:
        self._route = route
        self._remote = RemoteSocket(remote_socket)
        self._on_disconnect = on_disconnect
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._client: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._keep, name="glasshouse-tunnel", daemon=True)
        self._thread.start()

    def wait_until_up(self, timeout_s: float) -> bool:
        """Whether the forwarded socket accepts a connection within `timeout_s`."""
        until = time.monotonic() + timeout_s
        while not self._answers():
            if time.monotonic() >= until or self._closing.wait(0.02):
                return False
        return True

    def close(self) -> None:
        """Disconnect; no process is left running."""
        self._closing.set()
        with self._lock:
            if self._client is not None:
                self._client.kill()
        self._thread.join()

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1.0)
            try:
                probe.connect(str(self._route.socket))
            except OSError:
                return False
            return True

    def _keep(self) -> None:
        # The client dies with this thread, which lives as long as the tunnel and ends with the process.
        failures = 0
        while not self._closing.is_set():
            began = time.monotonic()
            why = self._run_client()
            if self._closing.is_set():
                return
            self._on_disconnect(why)
            failures = 0 if time.monotonic() - began > _LIVED_S else failures + 1
            self._closing.wait(_BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)])

    def _run_client(self) -> str:
        with contextlib.suppress(FileNotFoundError):
            self._route.socket.unlink()
        with self._lock:
            if self._closing.is_set():
                return "closed"
            client = self._client = spawn_with_pdeathsig(self._route.forward_command(self._remote), self._route.environment())
        _, stderr = client.communicate()
        return self._route.failure_reason(stderr, client.returncode)


def spawn_with_pdeathsig(command: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
    """Start `command` so that it dies with this thread, with its standard error in a pipe."""
    wrapped = [sys.executable, "-I", "-S", "-c", _PDEATHSIG, str(os.getpid()), *command]
    return subprocess.Popen(  # noqa: S603
        wrapped,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=environment,
        start_new_session=True,
    )
