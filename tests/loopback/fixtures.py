"""After every test: what it rented on a loopback provider has stopped billing, and nothing is left on a host of its own. Before
it: no proxy of this machine is asked.

Loaded for the whole suite, so that no test that uses a loopback provider can forget it. A test that means to leave something
behind says `server.cloud.leave_billing("why")`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from tests.loopback.cloud import Cloud
from tests.loopback.ssh_host import SshHost, UserSsh, need_sshd


@pytest.fixture(autouse=True)
def no_proxy_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loopback providers are here; a proxy that the developer's machine names is not asked for them."""
    for name in tuple(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def nothing_bills() -> Iterator[None]:
    """Judge every cloud that the test opened, closed or not."""
    before = len(Cloud.opened)
    yield
    opened = Cloud.opened[before:]
    del Cloud.opened[before:]
    try:
        for cloud in opened:
            cloud.assert_nothing_bills()
    finally:
        for cloud in opened:
            cloud.close()


@pytest.fixture
def ssh_host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., SshHost]]:
    """Start hosts of the user's own, each known to `ssh` by its name. Nothing may be left on them in the end."""
    started: list[UserSsh] = []

    def make(**options: object) -> SshHost:
        if not started:
            need_sshd()
            started.append(UserSsh())
            monkeypatch.setenv("PATH", f"{started[0].folder}:{os.environ['PATH']}")
        return started[0].add(**options)

    yield make
    left = [user.close() for user in started]
    assert left in ([], [{}])
