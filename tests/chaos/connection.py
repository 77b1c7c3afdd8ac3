"""The connection to a chaos pod: the real launch (first process, sshd, watchdog), the real SSH tunnel, and a tiny agent at its end.

Only the installation of the real agent is left out, because that brings torch.
"""

from __future__ import annotations

import shlex
import subprocess
import time
from pathlib import Path

from pytest_glasshouse.broker.rented_connection import RentedConnection
from pytest_glasshouse.channel.access import SshAccess
from pytest_glasshouse.channel.guest_channel import GuestChannel
from pytest_glasshouse.channel.ssh import ALIAS, SshFiles
from pytest_glasshouse.channel.tunnel import Tunnel
from pytest_glasshouse.errors import BootTimeoutError, GlasshouseError, GuestGoneError
from pytest_glasshouse.providers.base import Access
from pytest_glasshouse.providers.lease import Lease

#: The pod's disk has no file of the tests: the command that starts this has its code.
_AGENT = Path(__file__).with_name("agent.py").read_text(encoding="utf-8")
_TRY_S = 3.0
#: Where a pod writes what the run's judge reads when the pod is gone: a volume, and a file there.
TOLD, DONE = "/mnt/judge", "done"


class ChaosConnection(RentedConnection):
    """See `broker.connection.Connection`."""

    def __init__(self, *, train_s: float, boot_s: float) -> None:
        super().__init__(image=None, boot_timeout_s=boot_s)
        self._train_s = train_s
        self._ways: dict[str, tuple[SshFiles, Tunnel]] = {}

    def connect(self, lease: Lease, access: Access, *, timeout_s: float) -> str:
        assert isinstance(access, SshAccess)
        until = time.monotonic() + timeout_s
        ssh_files = SshFiles(self._keys[lease.name])
        ssh_files.write_config(access)
        remote = self._started(ssh_files, until, lease.name)
        tunnel = Tunnel(ssh_files, remote)
        self._ways[lease.name] = (ssh_files, tunnel)
        if not tunnel.wait_until_up(max(until - time.monotonic(), 0.1)):
            raise BootTimeoutError(f"allocation {lease.name}: no tunnel", allocation_id=lease.name)
        return str(ssh_files.socket)

    def _started(self, ssh_files: SshFiles, until: float, name: str) -> str:
        arguments = ["python3", "-I", "-S", "-c", _AGENT, str(self._train_s), f"{TOLD}/{DONE}"]
        while True:
            try:
                done = subprocess.run(
                    ssh_files.command(ALIAS, shlex.join(arguments)), stdin=subprocess.DEVNULL, capture_output=True, text=True,
                    timeout=_TRY_S, check=True,
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
