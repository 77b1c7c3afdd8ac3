"""The first process of a job of a batch system: it ends the job at its deadline, and lets the host's streams reach the agent.

It is sent as text in the job's script, runs on any Python 3.8 or newer before anything is installed, and imports the standard
library and `pod_init`, which the script brings too. What the host starts here are its children, in the job's own step: they
outlive the streams that started them and end with the job. A stream arrives from `job_bridge`, at a socket in the abstract name
space, which a container with a file system of its own shares with its node.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.channel.pod_init import PYTHON, ROOT, Watchdog, kill_all, log, reap

if TYPE_CHECKING:
    from typing import TypedDict

    class JobSettings(TypedDict):
        """`deadline` and `contact_by` are in seconds since the epoch; names of all jobs of this project begin with `prefix`.

        Of a job over several `nodes`, each has such a process.
        """

        name: str
        nodes: int
        prefix: str
        deadline: float
        contact_by: float
        lease_s: float


_TICK_S = 0.5
_PR_SET_CHILD_SUBREAPER = 36
#: A request is one line: `{"run": [...]}` or `{"connect": "/path"}`.
_LONGEST_REQUEST = 1 << 16
_REQUEST_S = 10.0
#: The directory's name is part of a socket's path, which holds 107 bytes.
_LONGEST_DIRECTORY = 80


def make_root(settings: JobSettings) -> str:
    """A new directory for this job, with its name; those of earlier jobs whose deadline is over are removed."""
    for base in dict.fromkeys((os.environ.get("TMPDIR", ""), tempfile.gettempdir(), "/tmp", "/var/tmp")):  # noqa: S108
        if not os.path.isabs(base) or len(os.path.join(base, settings["name"])) > _LONGEST_DIRECTORY:
            continue
        with contextlib.suppress(OSError):
            remove_left_behind(base, settings["prefix"], time.time())
            return tempfile.mkdtemp(prefix=settings["name"] + ".", dir=base)
    raise OSError("expected a directory for the job's files: TMPDIR or /tmp, writable and with a short path")


def remove_left_behind(base: str, prefix: str, now: float) -> None:
    """Remove the directories of this user's jobs that were killed before they could: the deadline is the end of the name."""
    for entry in os.listdir(base):
        deadline = entry.partition(".")[0].rpartition("-")[2]
        path = os.path.join(base, entry)
        if entry.startswith(prefix) and deadline.isdigit() and int(deadline) < now:
            with contextlib.suppress(OSError):
                if os.lstat(path).st_uid == os.getuid():
                    shutil.rmtree(path, ignore_errors=True)


def peer_uid(connection: socket.socket) -> int:
    """The user at the other end, as this name space of users counts."""
    return struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))[1]  # type: ignore[no-any-return]


def serve(connection: socket.socket, root: str) -> None:
    """Answer one request with a descriptor: the streams of a program that was started, or a connection to a socket here."""
    with connection:
        connection.settimeout(_REQUEST_S)
        if peer_uid(connection) != os.getuid():
            return
        line = b""
        while not line.endswith(b"\n") and len(line) < _LONGEST_REQUEST:
            piece = connection.recv(_LONGEST_REQUEST)
            if not piece:
                return
            line += piece
        try:
            request = json.loads(line)
            with started(request["run"], root) if "run" in request else connected(request["connect"]) as end:
                send_descriptor(connection, b"+", end.fileno())
        except (OSError, ValueError, KeyError, TypeError) as error:
            connection.sendall(b"-" + type(error).__name__.encode())


def started(command: list[str], root: str) -> socket.socket:
    """Start a program of the host; the other end of its standard input and output."""
    near, far = socket.socketpair()
    with far:
        environment = {**os.environ, ROOT: root, PYTHON: sys.executable}
        words = [str(word) for word in command]
        subprocess.Popen(words, stdin=far.fileno(), stdout=far.fileno(), env=environment, start_new_session=True)
    return near


def connected(path: str) -> socket.socket:
    """A connection to a socket of this job."""
    found = socket.socket(socket.AF_UNIX)
    found.connect(path)
    return found


def send_descriptor(connection: socket.socket, message: bytes, descriptor: int) -> None:
    """`socket.send_fds` is younger than the oldest Python here."""
    ancillary: Any = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", descriptor))]
    connection.sendmsg([message], ancillary)


def end(root: str, reason: str) -> None:
    """Kill everything here, remove the job's files, and end: the job ends with this process."""
    log(reason + "; ending everything here")
    kill_all()
    shutil.rmtree(root, ignore_errors=True)
    os._exit(0)


def main(settings: JobSettings) -> None:
    """Run until the job ends."""
    root = make_root(settings)

    def stopped(_number: int, _frame: object) -> None:
        end(root, "the job was cancelled, or its time is over")

    signal.signal(signal.SIGTERM, stopped)
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    watched: Any = settings
    watchdog = Watchdog(watched, root, time.time())
    with socket.socket(socket.AF_UNIX) as listener:
        node = int(os.environ["SLURM_PROCID"]) if settings["nodes"] > 1 else 0
        listener.bind("\0" + settings["name"] + (f".{node}" if node else ""))
        listener.listen(64)
        listener.settimeout(_TICK_S)
        while True:
            reason = watchdog.verdict(time.time())
            if reason is not None:
                end(root, reason)
            with contextlib.suppress(OSError):
                serve(listener.accept()[0], root)
            reap()
