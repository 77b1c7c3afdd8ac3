"""From the harness to a chaos pod: one set of keys per lease, one `ssh` that forwards the agent's socket and is started again."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from pytest_glasshouse.errors import InfrastructureError
from pytest_glasshouse.providers.base import Access, Launch, Provider, SshAccess
from pytest_glasshouse.providers.lease import Lease

_POD = Path(__file__).with_name("pod.py")


class Road:
    """See `providers.reaching.Road`. `folder` is short: sockets lie in it."""

    def __init__(self, folder: Path, *, api: str, train_s: float) -> None:
        self._folder = folder
        self._api = api
        self._train_s = train_s
        self._number = 0
        self._of: dict[str, Path] = {}
        self._links: dict[str, subprocess.Popen[bytes]] = {}
        self._left: set[str] = set()

    def launch(self, lease: Lease, provider: Provider) -> Launch:
        self._number += 1
        own = self._folder / str(self._number)
        own.mkdir(mode=0o700)
        self._of[lease.name] = own
        for name in ("host", "me"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(own / name)], check=True)
        env = {
            "CHAOS_HOST_KEY": (own / "host").read_text().strip(),
            "CHAOS_NAME": lease.name,
            "CHAOS_PATHS": str(self._folder),
            "CHAOS_DONE": str(self._folder / "done"),
            "CHAOS_TRAIN_S": str(self._train_s),
            "CHAOS_DEADLINE": str(lease.deadline),
            "CHAOS_API": self._api,
        }
        return Launch(
            name=lease.name, image="registry.example/chaos@sha256:" + "0" * 64, env=env,
            start=(sys.executable, "-I", "-S", str(_POD)), public_key=(own / "me.pub").read_text().strip(),
        )  # fmt: skip

    def connect(self, lease: Lease, access: Access, *, timeout_s: float) -> str:
        assert isinstance(access, SshAccess)
        own, until = self._of[lease.name], time.monotonic() + timeout_s
        told = self._folder / lease.name
        while not told.exists():
            if time.monotonic() > until:
                raise InfrastructureError(f"allocation {lease.name}: no guest behind its port", allocation_id=lease.name)
            time.sleep(0.02)
        host_key = (own / "host.pub").read_text().strip()
        (own / "known").write_text(f"[{access.host}]:{access.port} {host_key}\n")
        command = [
            "ssh", "-N", "-T", "-F", "none", "-i", str(own / "me"), "-p", str(access.port), "-l", access.user,
            "-L", f"{own / 'a.sock'}:{told.read_text()}", "-o", f"UserKnownHostsFile={own / 'known'}",
            "-o", "StrictHostKeyChecking=yes", "-o", "StreamLocalBindUnlink=yes", "-o", "ExitOnForwardFailure=yes",
            "-o", "BatchMode=yes", "-o", "ConnectTimeout=3", "-o", "LogLevel=ERROR", access.host,
        ]  # fmt: skip
        threading.Thread(target=self._keep, args=(lease.name, command), daemon=True).start()
        while not (own / "a.sock").exists():
            if time.monotonic() > until:
                raise InfrastructureError(f"allocation {lease.name}: ssh did not connect", allocation_id=lease.name)
            time.sleep(0.02)
        return str(own / "a.sock")

    def _keep(self, name: str, command: list[str]) -> None:
        while name not in self._left:
            self._links[name] = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            (self._of[name] / "ssh.pid").write_text(str(self._links[name].pid))
            self._links[name].wait()
            time.sleep(0.1)

    def farewell(self, lease: Lease) -> None:
        """This guest holds nothing."""

    def leave(self, lease: Lease) -> None:
        self._left.add(lease.name)
        if lease.name in self._links:
            self._links[lease.name].kill()

    def secrets(self) -> tuple[str, ...]:
        return ()

    def pids(self) -> list[int]:
        """Of the ssh clients."""
        return [link.pid for link in self._links.values()]


def link_pids(folder: Path) -> list[int]:
    """The ssh clients of a run, for whoever wants to kill them."""
    found = [int(text) for path in folder.glob("*/ssh.pid") if (text := path.read_text())]
    return [pid for pid in found if _is_ssh(pid)]


def _is_ssh(pid: int) -> bool:
    try:
        return os.path.basename(Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]) == b"ssh"  # noqa: PTH119
    except OSError:
        return False
