"""Listens at a socket here and starts one client program for each connection, joined to its standard input and output.

For ways to a guest that give a single stream, such as `srun`, where `ssh` forwards a socket by itself. It runs as a process of
its own until it is killed, and its clients end with it.

python -I -S -c CODE SOCKET COMMAND...
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading

#: A client that was told to end may have a stream to close at the other side.
_PDEATHSIG = """import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 15, 0, 0, 0)
if os.getppid() != int(sys.argv[1]): os._exit(1)
os.execvp(sys.argv[2], sys.argv[2:])"""
_PR_SET_PDEATHSIG = 1


def serve(connection: socket.socket, command: list[str], failed: threading.Event) -> None:
    """Join one connection to a client of its own, until that ends."""
    with connection:
        client = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _PDEATHSIG, str(os.getpid()), *command],
            stdin=connection.fileno(), stdout=connection.fileno(), start_new_session=True,
        )  # fmt: skip
    if client.wait() != 0:
        failed.set()


def main() -> None:
    """Serve until killed, or until a client failed: then the way may be gone, and whoever started this knows more."""
    path, *command = sys.argv[1:]
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    failed = threading.Event()
    with socket.socket(socket.AF_UNIX) as listener:
        os.umask(0o177)
        listener.bind(path + ".new")
        listener.listen(64)
        os.rename(path + ".new", path)
        listener.settimeout(0.2)
        while not failed.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            connection.settimeout(None)
            threading.Thread(target=serve, args=(connection, command, failed), daemon=True).start()


if __name__ == "__main__":
    main()
