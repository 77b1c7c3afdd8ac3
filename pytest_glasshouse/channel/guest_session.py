"""The session to one guest on another machine: installs the agent, forwards its socket, sends heartbeats, disconnects.

It knows no providers: the caller passes the route and the address.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING

from pytest_glasshouse.channel.bootstrap import bootstrap
from pytest_glasshouse.channel.guest_channel import GuestChannel
from pytest_glasshouse.channel.tunnel import Tunnel
from pytest_glasshouse.errors import BootTimeoutError, GlasshouseError, GuestGoneError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_glasshouse.channel.access import Access
    from pytest_glasshouse.channel.tunnel import Route

_HELLO_S = 10.0
_AGAIN_S = 0.5
#: A bootstrap takes at least this long.
_TRY_S = 1.5
_HEARTBEAT_S = 20.0


class GuestSession:
    """The session to one guest. May be closed twice; `secrets` must never be published."""

    def __init__(self, route: Route, *, allocation: str, archive: bytes) -> None:
        self._route = route
        self._allocation = allocation
        self._archive = archive
        self._tunnel: Tunnel | None = None
        self._closed = threading.Event()
        self._heartbeat: threading.Thread | None = None

    def connect(self, access: Access, *, timeout_s: float, on_phase: Callable[[str], None] = lambda _phase: None) -> str:
        """Install and start the agent, forward its socket, and wait for its answer; the path of the local socket.

        Raises `BootTimeoutError` after `timeout_s`, and `GuestUnusableError` at once when the guest cannot run the agent.
        """
        until = time.monotonic() + timeout_s
        self._route.aim(access)
        remote = self._bootstrap(until, on_phase)
        self._close_tunnel()
        self._tunnel = Tunnel(self._route, remote)
        path = str(self._route.socket)
        while True:
            left = until - time.monotonic()
            try:
                if self._tunnel.wait_until_up(max(min(left, _HELLO_S), 0.1)):
                    self._hello(min(max(left, 0.1), _HELLO_S))
                    break
            except GlasshouseError:
                pass
            if left <= 0 or self._closed.wait(_AGAIN_S):
                raise self._timeout("its agent did not answer through the tunnel")
        if self._heartbeat is None:
            self._heartbeat = threading.Thread(target=self._send_heartbeats, name="glasshouse-heartbeat", daemon=True)
            self._heartbeat.start()
        return path

    def shut_down(self) -> None:
        """Make the guest kill its legs and wipe its directory, and its watchdog end the instance. At most a few seconds."""
        with contextlib.suppress(GlasshouseError, OSError):
            channel = GuestChannel(str(self._route.socket), allocation_id=self._allocation, timeout_s=1.0)
            try:
                channel.request("shutdown")
            finally:
                channel.close()

    def close(self) -> None:
        """Disconnect and delete the keys. The guest runs on until its own deadline or lease."""
        self._closed.set()
        self._close_tunnel()
        if self._heartbeat is not None and self._heartbeat is not threading.current_thread():
            self._heartbeat.join(timeout=_HELLO_S)
        self._route.remove()

    def secrets(self) -> tuple[str, ...]:
        """See `Route.secrets`."""
        return self._route.secrets()

    def _bootstrap(self, until: float, on_phase: Callable[[str], None]) -> str:
        on_phase("connecting")
        while True:
            try:
                return bootstrap(
                    self._route,
                    archive=self._archive,
                    allocation=self._allocation,
                    timeout_s=max(until - time.monotonic(), 0.1),
                    on_phase=on_phase,
                )
            except GuestGoneError as error:
                # A try without enough time would replace this reason by a timeout.
                if until - time.monotonic() < _TRY_S or self._closed.wait(_AGAIN_S):
                    raise self._timeout(str(error)) from None

    def _timeout(self, reason: str) -> BootTimeoutError:
        return BootTimeoutError(
            f"allocation {self._allocation} was not reached in time: {reason}. Raise --glasshouse-boot-timeout, or try again",
            allocation_id=self._allocation,
        )

    def _hello(self, timeout_s: float) -> None:
        channel = GuestChannel(str(self._route.socket), allocation_id=self._allocation, timeout_s=timeout_s)
        try:
            channel.request("hello")
        finally:
            channel.close()

    def _send_heartbeats(self) -> None:
        # Between rows there are no requests; without heartbeats the guest's watchdog would end the instance.
        while not self._closed.wait(_HEARTBEAT_S):
            with contextlib.suppress(GlasshouseError, OSError):
                self._hello(_HELLO_S)

    def _close_tunnel(self) -> None:
        if self._tunnel is not None:
            self._tunnel.close()
            self._tunnel = None
