"""A TCP relay between an SSH client and a pod's `sshd` that a test can cut."""

from __future__ import annotations

import contextlib
import select
import socket
import threading

from tests.limits import HANG_S


class Link:
    """Relays until it is cut. A cut drops every connection and refuses new ones; a silent one swallows every byte instead."""

    def __init__(self, to_port: int) -> None:
        self._to_port = to_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._cut = threading.Event()
        self._silent = False
        self._closing = threading.Event()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self.connections = 0
        #: Connections refused and pieces swallowed while it was cut.
        self.lost = 0
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def cut(self, *, silent: bool = False) -> None:
        self._silent = silent
        self._cut.set()
        if not silent:
            self._drop()

    def heal(self) -> None:
        """Swallowed bytes are lost, so the old connections end."""
        self._drop()
        self._cut.clear()

    def close(self) -> None:
        self._closing.set()
        self._listener.close()
        self._drop()
        for thread in self._threads:
            thread.join(HANG_S)

    def _drop(self) -> None:
        for pair in list(self._pairs):
            for one in pair:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while not self._closing.is_set():
            ready, _, _ = select.select([self._listener], [], [], 0.1)
            if not ready or self._closing.is_set():
                continue
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self._cut.is_set():
                self.lost += 1
                near.close()
                continue
            self.connections += 1
            thread = threading.Thread(target=self._relay, args=(near,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _relay(self, near: socket.socket) -> None:
        try:
            far = socket.create_connection(("127.0.0.1", self._to_port), timeout=HANG_S)
        except OSError:
            near.close()
            return
        pair = (near, far)
        self._pairs.append(pair)
        with near, far:
            with contextlib.suppress(OSError):
                while not self._closing.is_set():
                    ready, _, _ = select.select(pair, [], [], 0.1)
                    for one in ready:
                        data = one.recv(65536)
                        if not data:
                            return
                        if self._cut.is_set() and self._silent:
                            self.lost += 1
                        else:
                            (far if one is near else near).sendall(data)
            self._pairs.remove(pair)
