"""The keeper: the process on a host of the user's own that an allocation is. It holds the GPU's lock and ends everything in time.

Sent to the host as text with `pod_init` and `host_lock`, which it imports; beside these the standard library only. It runs in a
directory of its own (mode 0700): `lease.json` says what it is for, `keeper.sock` is how its user reaches it. What it starts for
the host stays below it, and ends with it: the agent holds the other end of a pipe, and the lock as well.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import time
from typing import Any

from pytest_glasshouse.channel.host_lock import GpuLock
from pytest_glasshouse.channel.pod_init import PYTHON, ROOT, Watchdog, kill_all, log

#: The agent's standard input, at whose end it ends, and the lock, as numbers of descriptors: for the installer.
HELD = "GLASSHOUSE_POD_HELD"
LEASE, SOCKET, LOG = "lease.json", "keeper.sock", "keeper.log"
_TICK_S = 0.25
_MOST_BYTES = 1 << 16
_PR_SET_CHILD_SUBREAPER = 36


class Keeper:
    """One allocation on this machine."""

    def __init__(self, root: str, lease: dict[str, Any]) -> None:
        self._root = root
        self._lease = lease
        self._lock = GpuLock(lease["gpu"])
        self._watchdog = Watchdog(lease["limits"], root, time.time())
        self._queue_until = time.time() + lease["queue_s"]
        #: Its other end is the agent's standard input: it closes when this process is gone, however it went.
        self._life, self._kept = os.pipe()
        #: The object of each process is kept: one that is dropped would wait for the process itself.
        self._running: dict[int, tuple[subprocess.Popen[bytes], socket.socket]] = {}

    def take_lock(self) -> bool:
        """Take the lock, if it is free now."""
        return self._lock.fileno >= 0 or self._lock.take(self._lease["name"])

    def serve(self, listener: socket.socket) -> str:
        """Serve until this allocation has to end; returns why."""
        listener.settimeout(0.0)
        with selectors.DefaultSelector() as selector:
            selector.register(listener, selectors.EVENT_READ)
            while True:
                queued = not self.take_lock()
                reason = self._watchdog.verdict(time.time())
                if reason is None and queued and time.time() >= self._queue_until:
                    reason = "the GPU was not free in time"
                if reason is not None:
                    return reason
                self._reap()
                if selector.select(_TICK_S):
                    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                        if not self._answer(listener.accept()[0], queued=queued):
                            return "its host ended it"

    def end(self) -> None:
        """Kill everything below this process, and remove the directory and the lock. Nothing is left then."""
        kill_all()
        shutil.rmtree(self._root, ignore_errors=True)
        self._lock.release()

    def _answer(self, client: socket.socket, *, queued: bool) -> bool:
        """Answer one request; False for the one that ends this."""
        client.settimeout(5.0)
        message, files, _, _ = socket.recv_fds(client, _MOST_BYTES, 3)
        try:
            request = json.loads(message)
            if request["op"] == "end":
                return False
            if request["op"] == "run" and not queued and len(files) == 3:  # noqa: PLR2004
                process = self._start(request["command"], files)
                self._running[process.pid] = (process, client)
                return True
            holder = self._lock.holder() if queued else None
            client.sendall(json.dumps({"queued": queued, "holder": holder}).encode())
            client.close()
            return True
        finally:
            for file in files:
                os.close(file)

    def _start(self, command: str, files: list[int]) -> subprocess.Popen[bytes]:
        """Start a command of the host on its own streams: the installer, which starts the agent."""
        environment = {**os.environ, ROOT: self._root, PYTHON: sys.executable, HELD: f"{self._life},{self._lock.fileno}"}
        if self._lease["visible"]:
            environment["CUDA_VISIBLE_DEVICES"] = self._lease["visible"]
        return subprocess.Popen(
            ["/bin/sh", "-c", command], stdin=files[0], stdout=files[1], stderr=files[2], env=environment, cwd=self._root,
            pass_fds=(self._life, self._lock.fileno), start_new_session=True,
        )  # fmt: skip

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if pid in self._running:
                    process, client = self._running.pop(pid)
                    process.returncode = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 1
                    with contextlib.suppress(OSError):
                        client.sendall(b"%d" % process.returncode)
                    client.close()


def main(root: str) -> int:
    """Run in `root` until the allocation ends. Writes a line to standard output once it can be reached."""
    with open(os.path.join(root, LEASE), encoding="utf-8") as file:
        lease = json.load(file)
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    keeper = Keeper(root, lease)

    def stopped(_number: int, _frame: object) -> None:
        keeper.end()
        os._exit(0)

    signal.signal(signal.SIGTERM, stopped)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if not keeper.take_lock() and lease["queue_s"] <= 0:
        holder = GpuLock(lease["gpu"]).holder()
        keeper.end()
        print(json.dumps({"held": holder}), flush=True)  # noqa: T201
        return 0
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.join(root, SOCKET))
        listener.listen(8)
        print(json.dumps({"ready": True}), flush=True)  # noqa: T201
        output = os.open(os.path.join(root, LOG), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.dup2(output, 1)
        os.dup2(output, 2)
        log("the allocation {} began".format(lease["name"]))
        try:
            log(keeper.serve(listener) + "; ending everything here")
        finally:
            keeper.end()
    return 0
