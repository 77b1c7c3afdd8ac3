"""After every test: what it rented on a loopback provider has stopped billing. Before it: no proxy of this machine is asked.

Loaded for the whole suite, so that no test that uses a loopback provider can forget it. A test that means to leave something
behind says `server.cloud.leave_billing("why")`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.loopback.cloud import Cloud


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
