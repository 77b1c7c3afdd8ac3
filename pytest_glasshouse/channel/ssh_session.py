"""From an allocation that runs somewhere to a socket on this machine that its agent answers on, and back again.

This module knows keys, `sshd` and the agent. It does not know providers: who asks for an allocation tells it where it is.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING

from pytest_glasshouse.channel.bootstrap import bootstrap
from pytest_glasshouse.channel.guest_channel import GuestChannel
from pytest_glasshouse.channel.ssh import Doorway, Tunnel
from pytest_glasshouse.errors import BootTimeoutError, GlasshouseError, GuestGoneError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_glasshouse.channel.access import SshAccess
    from pytest_glasshouse.channel.pod_launch import PodKeys

_HELLO_S = 10.0
_AGAIN_S = 0.5
_TRY_S = 1.5
_HEARTBEAT_S = 20.0


class Reach:
    """The way to one guest. Safe to close twice; `secrets` must never be published."""

    def __init__(self, keys: PodKeys, *, allocation: str, archive: bytes) -> None:
        self._doorway = Doorway(keys)
        self._allocation = allocation
        self._archive = archive
        self._tunnel: Tunnel | None = None
        self._access: SshAccess | None = None
        self._closed = threading.Event()
        self._heart: threading.Thread | None = None

    def connect(self, access: SshAccess, *, timeout_s: float, tell: Callable[[str], None] = lambda _what: None) -> str:
        """Install and start the agent, forward its socket, and hear it answer; the socket's path here.

        Raises `BootTimeoutError` after `timeout_s`, and `Refused` at once when the guest says that it cannot serve.
        """
        until = time.monotonic() + timeout_s
        self._access = access
        self._doorway.point_to(access)
        remote = self._bootstrapped(until, tell)
        self._hang_up()
        self._tunnel = Tunnel(self._doorway, remote)
        path = str(self._doorway.socket)
        while True:
            left = until - time.monotonic()
            try:
                if self._tunnel.wait_until_up(max(min(left, _HELLO_S), 0.1)):
                    self._hello(min(max(left, 0.1), _HELLO_S))
                    break
            except GlasshouseError:
                pass
            if left <= 0 or self._closed.wait(_AGAIN_S):
                raise self._too_late("its agent did not answer through the tunnel")
        if self._heart is None:
            self._heart = threading.Thread(target=self._beat, name="glasshouse-heartbeat", daemon=True)
            self._heart.start()
        return path

    def shut_down(self) -> None:
        """Have the guest kill its legs and wipe its directory now, and its watchdog end the instance. At most a few seconds."""
        with contextlib.suppress(GlasshouseError, OSError):
            channel = GuestChannel(str(self._doorway.socket), allocation_id=self._allocation, timeout_s=1.0)
            try:
                channel.request("shutdown")
            finally:
                channel.close()

    def close(self) -> None:
        """Hang up and forget the keys. The guest goes on until its own deadline or lease."""
        self._closed.set()
        self._hang_up()
        if self._heart is not None and self._heart is not threading.current_thread():
            self._heart.join(timeout=_HELLO_S)
        self._doorway.remove()

    def client_pid(self) -> int | None:
        """The SSH client that holds the connection now."""
        return None if self._tunnel is None else self._tunnel.client_pid()

    def secrets(self) -> tuple[str, ...]:
        """Where the guest is, in the forms it could be printed in."""
        access = self._access
        own = (str(self._doorway.directory),)
        return own if access is None else (*own, f"{access.host}:{access.port}", f"{access.user}@{access.host}")

    def _bootstrapped(self, until: float, tell: Callable[[str], None]) -> str:
        tell("waiting for SSH")
        while True:
            try:
                return bootstrap(
                    self._doorway,
                    archive=self._archive,
                    allocation=self._allocation,
                    timeout_s=max(until - time.monotonic(), 0.1),
                    tell=tell,
                )
            except GuestGoneError as error:
                # A try that could not finish would only replace the reason by its own end.
                if until - time.monotonic() < _TRY_S or self._closed.wait(_AGAIN_S):
                    raise self._too_late(str(error)) from None

    def _too_late(self, what: str) -> BootTimeoutError:
        return BootTimeoutError(
            f"allocation {self._allocation} was not reached in time: {what}. Raise --glasshouse-boot-timeout, or try again",
            allocation_id=self._allocation,
        )

    def _hello(self, timeout_s: float) -> None:
        channel = GuestChannel(str(self._doorway.socket), allocation_id=self._allocation, timeout_s=timeout_s)
        try:
            channel.request("hello")
        finally:
            channel.close()

    def _beat(self) -> None:
        # Between rows nobody pulls; without this the guest's watchdog would take its host for dead.
        while not self._closed.wait(_HEARTBEAT_S):
            with contextlib.suppress(GlasshouseError, OSError):
                self._hello(_HELLO_S)

    def _hang_up(self) -> None:
        if self._tunnel is not None:
            self._tunnel.close()
            self._tunnel = None
