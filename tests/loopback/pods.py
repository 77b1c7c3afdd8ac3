"""Pods as processes: a directory, a port and an environment of their own, and an end that is certain."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from pytest_glasshouse.attacks.target_guest import children
from tests.limits import HANG_S

#: Set in every loopback pod and in nothing else: where its disk is, and which port of 127.0.0.1 its 22/tcp is.
ROOT_VARIABLE = "GLASSHOUSE_POD_ROOT"
PORT_VARIABLE = "GLASSHOUSE_POD_PORT"
BOOT_VARIABLE = "GLASSHOUSE_POD_BOOT_ID"

_INIT = Path(__file__).with_name("pod_init.py")

_ports_lock = threading.Lock()
_ports_given: set[int] = set()


def free_port() -> int:
    """A port of 127.0.0.1 that is free and that no other pod of this process was promised."""
    with _ports_lock:
        while True:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = int(probe.getsockname()[1])
            if port not in _ports_given:
                _ports_given.add(port)
                return port


class Pod:
    """One container: `command` is its first process, in the empty directory `root`, with `env` and nothing else."""

    def __init__(self, root: Path, command: Sequence[str], env: Mapping[str, str], *, restarts: bool) -> None:
        self.root = root
        self.log = root.with_name(f"{root.name}.log")
        root.mkdir(mode=0o700)
        self.environment = {
            "PATH": f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
            "HOME": str(root),
            **env,
            ROOT_VARIABLE: str(root),
        }
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_INIT), "restart" if restarts else "once", str(self.log), "--", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            cwd=root,
            env=self.environment,
            start_new_session=True,
        )

    @property
    def exited(self) -> bool:
        """Whether the first process ended and is not restarted."""
        return self._process.poll() is not None

    def processes(self) -> tuple[int, ...]:
        """Every running process of this pod, found by its environment."""
        mark = f"{ROOT_VARIABLE}={self.root}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:
                continue
        return tuple(found)

    def descendants(self) -> tuple[int, ...]:
        """The same, found by their parents: `sshd` writes a title over the environment of the processes it starts."""
        found, todo = list[int](), [self._process.pid]
        while todo:
            more = [child for pid in todo for child in children(pid)]
            found, todo = [*found, *more], more
        return tuple(found)

    def logs(self) -> str:
        """What it printed."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""

    def end(self) -> None:
        """End every process of it, and its disk. Raises where one survives."""
        if self._process.stdin is not None:
            # A byte before the end of the pipe: without it, the supervisor takes this process for dead.
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(b"end")
                self._process.stdin.flush()
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(timeout=HANG_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        # Whoever killed the supervisor freed its children; their environment still says where they belong.
        for _ in range(20):
            left = self.processes()
            if not left:
                break
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
        else:
            raise RuntimeError(f"processes of a pod survive: {self.processes()}")
        shutil.rmtree(self.root, ignore_errors=True)
