"""Many threads, one nonce: exactly one key. A few times in `make test`, a thousand and more in `make soak`."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pytest_glasshouse.errors import RefusedError
from pytest_glasshouse.owner.client import AttestationClient
from pytest_glasshouse.tamper.testbed import Attempt, TamperTestbed
from tests.limits import HANG_S
from tests.service.serving import ServedTestbed, serving

pytestmark = pytest.mark.soak

SOAK = bool(os.environ.get("SOAK"))
THREADS = 64


def race(pool: ThreadPoolExecutor, release: Callable[[int], object]) -> Counter[str]:
    """What became of one release asked for by every thread at once."""
    barrier = threading.Barrier(THREADS)

    def one(number: int) -> str:
        barrier.wait(HANG_S)
        try:
            release(number)
        except RefusedError as refusal:
            return refusal.reason
        return "released"

    return Counter(pool.map(one, range(THREADS)))


def in_process(attempt: Attempt, testbed: TamperTestbed) -> Callable[[int], object]:
    message: dict[str, Any] = {"evidence": attempt.token(), "log": [*attempt.log]}
    return lambda _number: testbed.embedded.server.release(message)


def test_threads_in_process_get_exactly_one_key() -> None:
    with TamperTestbed() as testbed, ThreadPoolExecutor(THREADS) as pool:
        for number in range(1000 if SOAK else 10):
            testbed.now += 60  # room for the next challenge
            if number % 500 == 0:
                testbed.sealed = testbed.seal()
                testbed.policy = testbed.make_policy(name=f"race {number}")
                testbed.register(testbed.sealed, testbed.policy)
            sub = f"race-{number}"
            testbed.enrol(sub)
            before = testbed.embedded.server.releases()
            seen = race(pool, in_process(testbed.attempt(sub), testbed))
            assert seen == {"released": 1, "nonce": THREADS - 1}
            assert testbed.embedded.server.releases() - before == 1


def test_threads_over_http_get_exactly_one_key(tmp_path: Path) -> None:
    """Through sockets, a thread of the server for each, and a ledger on disk."""
    with serving(tmp_path) as server, ServedTestbed(server) as testbed, ThreadPoolExecutor(THREADS) as pool:
        clients = [AttestationClient(server.url, timeout_s=HANG_S) for _ in range(THREADS)]
        rounds = 50 if SOAK else 3
        for number in range(rounds):
            sub = f"race-{number}"
            testbed.enrol(sub)
            attempt = testbed.attempt(sub)
            token = attempt.token()

            def ask(which: int, token: str = token, log: list[str] = attempt.log) -> object:
                return clients[which].release(evidence=token, log=log)

            assert race(pool, ask) == {"released": 1, "nonce": THREADS - 1}
        server.end()
        with server.ledger() as ledger:
            assert ledger.releases() == rounds
