"""The connection to a chaos pod: the real launch (first process, sshd, watchdog), the real SSH tunnel, and a tiny agent at its end.

Only the installation of the real agent is left out, because that brings torch.
"""

from __future__ import annotations

import shlex
import subprocess
import time
from pathlib import Path

from pytest_glasshouse.broker.rented_connection import RentedConnection
from pytest_glasshouse.broker.tunnel_connection import RoutedConnection, TunnelConnection
from pytest_glasshouse.channel.guest_channel import GuestChannel
from pytest_glasshouse.channel.tunnel import Route, Tunnel
from pytest_glasshouse.errors import BootTimeoutError, GlasshouseError, GuestGoneError
from pytest_glasshouse.providers.base import Access, Routed
from pytest_glasshouse.providers.lease import Lease

#: The pod's disk has no file of the tests: the command that starts this has its code.
_AGENT = Path(__file__).with_name("agent.py").read_text(encoding="utf-8")
_TRY_S = 5.0
#: Where a pod writes what the run's judge reads when the pod is gone: a volume, and a file there.
TOLD, DONE = "/mnt/judge", "done"


class _TinyAgents(TunnelConnection):
    """Starts the tiny agent over whatever route there is."""

    def prepare(self, *, train_s: float, told: str = TOLD) -> None:
        self.train_s, self.told = train_s, told
        self._ways: dict[str, tuple[Route, Tunnel]] = {}

    def connect(self, lease: Lease, access: Access, *, timeout_s: float) -> str:
        until = time.monotonic() + timeout_s
        route = self.route(lease)
        route.aim(access)
        remote = self._started(route, until, lease.name)
        tunnel = Tunnel(route, remote)
        self._ways[lease.name] = (route, tunnel)
        if not tunnel.wait_until_up(max(until - time.monotonic(), 0.1)):
            raise BootTimeoutError(f"allocation {lease.name}: no tunnel", allocation_id=lease.name)
        return str(route.socket)

    def _started(self, route: Route, until: float, name: str) -> str:
        arguments = ["python3", "-I", "-S", "-c", _AGENT, str(self.train_s), f"{self.told}/{DONE}"]
        while True:
            try:
                done = subprocess.run(
                    route.run_command(shlex.join(arguments)), env=route.environment(), stdin=subprocess.DEVNULL,
                    capture_output=True, text=True, timeout=_TRY_S, check=True,
                )  # fmt: skip
                return done.stdout.strip()
            except (subprocess.SubprocessError, OSError):
                if time.monotonic() > until:
                    raise BootTimeoutError(f"allocation {name} was not reached in time", allocation_id=name) from None
                time.sleep(0.1)

    def shut_down(self, lease: Lease) -> None:
        way = self._ways.get(lease.name)
        if way is None:
            return
        try:
            channel = GuestChannel(str(way[0].socket), allocation_id=lease.name, timeout_s=1.0)
            channel.request("shutdown")
            channel.close()
        except (GuestGoneError, GlasshouseError):
            return

    def disconnect(self, lease: Lease) -> None:
        super().disconnect(lease)
        way = self._ways.pop(lease.name, None)
        if way is not None:
            way[1].close()
            way[0].remove()


class ChaosConnection(_TinyAgents, RentedConnection):
    """To a rented pod."""

    def __init__(self, *, train_s: float, boot_s: float) -> None:
        super().__init__(image=None, boot_timeout_s=boot_s)
        self.prepare(train_s=train_s)


class ChaosHostConnection(_TinyAgents, RoutedConnection):
    """To a host of the user's own, or a job. `told` is the folder where its agents write: there is no other disk."""

    def __init__(self, provider: Routed, *, train_s: float, boot_s: float, told: str, queue_s: float | None = None) -> None:
        super().__init__(provider, boot_timeout_s=boot_s, queue_timeout_s=queue_s)
        self.prepare(train_s=train_s, told=told)
