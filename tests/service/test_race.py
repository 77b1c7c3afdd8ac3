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
from tests.service.serving import OutsideStage, serving

pytestmark = pytest.mark.soak

SOAK = bool(os.environ.get("SOAK"))
THREADS = 64


def race(pool: ThreadPoolExecutor, release: Callable[[int], object]) -> Counter[str]:
    """What became of one release asked for by every thread at once."""
    barrier = threading.Barrier(THREADS)

    def one(number: int) -> str:
        barrier.wait()
        try:
            release(number)
        except RefusedError as refusal:
            return refusal.reason
        return "released"

    return Counter(pool.map(one, range(THREADS)))


def in_process(attempt: Attempt, stage: TamperTestbed) -> Callable[[int], object]:
    message: dict[str, Any] = {"evidence": attempt.token(), "log": [*attempt.log]}
    return lambda _number: stage.embedded.server.release(message)


def test_threads_in_process_get_exactly_one_key() -> None:
    with TamperTestbed() as stage, ThreadPoolExecutor(THREADS) as pool:
        for number in range(1000 if SOAK else 10):
            stage.now += 60  # room for the next challenge
            if number % 500 == 0:
                stage.sealed = stage.seal()
                stage.policy = stage.make_policy(name=f"race {number}")
                stage.register(stage.sealed, stage.policy)
            sub = f"race-{number}"
            stage.enrol(sub)
            before = stage.embedded.server.releases()
            seen = race(pool, in_process(stage.attempt(sub), stage))
            assert seen == {"released": 1, "nonce": THREADS - 1}
            assert stage.embedded.server.releases() - before == 1


def test_threads_over_http_get_exactly_one_key(tmp_path: Path) -> None:
    """Through sockets, a thread of the server for each, and a ledger on disk."""
    with serving(tmp_path) as server, OutsideStage(server) as stage, ThreadPoolExecutor(THREADS) as pool:
        clients = [AttestationClient(server.url) for _ in range(THREADS)]
        rounds = 50 if SOAK else 3
        for number in range(rounds):
            sub = f"race-{number}"
            stage.enrol(sub)
            attempt = stage.attempt(sub)
            token = attempt.token()

            def ask(which: int, token: str = token, log: list[str] = attempt.log) -> object:
                return clients[which].release(evidence=token, log=log)

            assert race(pool, ask) == {"released": 1, "nonce": THREADS - 1}
        for client in clients:
            client.close()
        server.end()
        with server.ledger() as ledger:
            assert ledger.releases() == rounds
