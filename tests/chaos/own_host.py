"""A host of the user's own in a chaos run, asked and killed as an account is: what "bills" there is whatever is left of an allocation."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.loopback.ssh_host import SshHost, UserSsh

HOST = "box"


@dataclass(frozen=True)
class Left:
    """What is left of one allocation: a directory, its lock or a process."""

    instance_id: str


class OwnHost:
    """The part of `loopback.cloud.Cloud` that a chaos run uses, over a real sshd."""

    def __init__(self) -> None:
        self.user = UserSsh()
        self.host: SshHost = self.user.add(name=HOST)
        #: Ids of everything that the run's ledger has.
        self.rented: set[str] = set()

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to find the host."""
        return {
            "PATH": f"{self.user.folder}:{os.environ['PATH']}",
            "GLASSHOUSE_HOST": HOST,
            "GLASSHOUSE_REMOTE_PYTHON": sys.executable,
        }

    def billing(self) -> tuple[Left, ...]:
        """Whatever is left, by its path or command line."""
        return tuple(map(Left, self.host.left()))

    def waiting(self) -> tuple[Any, ...]:
        """Nothing is made later than it is asked for."""
        return ()

    def kill(self, instance_id: str) -> None:
        """SIGKILL for the keepers: nothing of theirs cleans up."""
        del instance_id
        for pid in self.host.keepers():
            _kill(pid)

    restart = kill

    def vanish(self, instance_id: str) -> None:
        """All processes of all allocations at once."""
        self.kill(instance_id)
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and str((entry / "cwd").readlink()).startswith(f"{self.host.disk}/"):
                    _kill(int(entry.name))
            except OSError:
                continue

    def close(self) -> None:
        """End it."""
        self.user.close()


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
