"""Pods as processes: a disk, a port and an environment of their own, and an end that is certain.

A pod sees no file of this machine but what `pod_disk.py` names and the test hands over, and no process but its own. It shares
the network: providers, API and `sshd` are all on 127.0.0.1.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.limits import HANG_S, until
from tests.loopback.pod_disk import DIRECTORY, Volume, disk, home

#: Which port of 127.0.0.1 is a pod's 22/tcp, and which boot this is.
PORT_VARIABLE = "GLASSHOUSE_POD_PORT"
BOOT_VARIABLE = "GLASSHOUSE_POD_BOOT_ID"

_INIT = Path(__file__).with_name("pod_init.py")


class Pod:
    """One container: `command` is its first process, on an empty disk, with `env` and nothing else.

    `folder` is what the host keeps of it; its disk is never there.
    """

    def __init__(
        self, folder: Path, command: Sequence[str], env: Mapping[str, str], *, restarts: bool, volumes: Sequence[Volume] = ()
    ) -> None:
        self.folder = folder
        (folder / "root").mkdir(parents=True, mode=0o700)
        (folder / "disk.json").write_text(json.dumps(disk(volumes)))
        self.environment = {
            "PATH": f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
            "HOME": home(),
            **env,
        }
        #: Each PID namespace that was seen of it. They are kept open, so that no other pod's gets the same number.
        self._namespaces: set[int] = set()
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_INIT), "restart" if restarts else "once", str(folder), "--", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env=self.environment,
            start_new_session=True,
        )

    @property
    def exited(self) -> bool:
        """Whether the first process ended and is not restarted."""
        return self._process.poll() is not None

    @property
    def first(self) -> int:
        """The first process, as this machine numbers it; 0 while there is none."""
        try:
            return int((self.folder / "first").read_text())
        except FileNotFoundError:
            return 0

    @property
    def disk(self) -> Path:
        """The pod's root directory as it is seen from outside, while it runs."""
        return Path(f"/proc/{self.first or 'none'}/root")

    @property
    def root(self) -> Path:
        """The directory of the product's files, seen from outside."""
        return self.disk / DIRECTORY.lstrip("/")

    def processes(self) -> tuple[int, ...]:
        """Every running process of this pod, as this machine numbers it."""
        with contextlib.suppress(OSError):
            namespace = os.open(f"/proc/{self.first or 'none'}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
            number = os.fstat(namespace).st_ino
            if number in self._namespaces:
                os.close(namespace)
            else:
                self._namespaces.add(number)
                weakref.finalize(self, os.close, namespace)
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if not entry.name.isdigit() or (entry / "ns" / "pid").stat().st_ino not in self._namespaces:
                    continue
                # One that ended and whose parent has not asked for its status runs no more.
                if (entry / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                    found.append(int(entry.name))
        return tuple(found)

    def signal(self, number: int) -> None:
        """Send a signal to the first process, as a provider does that stops a container."""
        until(lambda: self.first or self.exited, "the pod's first process")
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.first, number)

    def wait(self) -> int:
        """Wait until the first process ended, and is not restarted; its exit status."""
        return self._process.wait(timeout=HANG_S)

    def logs(self) -> str:
        """What it printed."""
        log = self.folder / "log"
        return log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""

    def end(self) -> None:
        """End every process of it, and its disk with them. Raises where one survives."""
        self.processes()
        if self._process.stdin is not None and not self._process.stdin.closed:
            # A byte before the end of the pipe: without it, the supervisor takes this process for dead.
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(b"end")
                self._process.stdin.flush()
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self.wait()
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        # Whoever killed the supervisor made the kernel end them, which may take a moment.
        until(lambda: not self.processes(), "the end of a pod's processes")
