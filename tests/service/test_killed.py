"""`kill -9` of the server at random points of a release: whatever key left was counted before. `make soak`: 200 times."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pytest_glasshouse.errors import InfrastructureError, RefusedError
from pytest_glasshouse.tamper.testbed import Attempt
from tests.limits import HANG_S
from tests.service.serving import ServedTestbed, Serving, serving

pytestmark = pytest.mark.soak

SOAK = bool(os.environ.get("SOAK"))
SEED = 20261121
#: Releases under way when the kill comes: of each of them some were not begun, some answered, one is in between.
AT_ONCE = 12


def _asked(attempt: Attempt) -> dict[str, str] | None:
    try:
        return attempt.release()
    except InfrastructureError:
        return None  # the server is gone: a lost reply is no key


def _kill_within(server: Serving, release: list[Attempt], wait_s: float) -> list[Attempt]:
    """Ask for every release at once and kill the server meanwhile; the attempts whose key came."""
    begun = threading.Event()

    def kill() -> None:
        assert begun.wait(HANG_S)
        until = time.perf_counter() + wait_s
        while time.perf_counter() < until:  # finer than a timer, so that every point of a release is met
            pass
        server.process.send_signal(signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with ThreadPoolExecutor(len(release)) as pool:
        begun.set()
        answers = list(pool.map(_asked, release))
    killer.join()
    assert server.end(signal.SIGKILL) == -signal.SIGKILL
    return [attempt for attempt, answer in zip(release, answers, strict=True) if answer is not None]


def test_every_released_key_is_in_the_ledger_whenever_the_server_is_killed(tmp_path: Path) -> None:
    draw = random.Random(SEED)
    partly = 0
    with serving(tmp_path) as server:
        testbed = ServedTestbed(server)
        earlier = 0
        for number in range(200 if SOAK else 4):
            names = [f"kill-{number}-{each}" for each in range(AT_ONCE)]
            testbed.reconnect(*names)
            attempts = [testbed.attempt(name) for name in names]
            served = _kill_within(server, attempts, draw.uniform(0, 0.06))
            partly += 0 < len(served) < AT_ONCE
            with server.ledger() as ledger:
                counted = [attempt for attempt in attempts if ledger.release(attempt.nonce) is not None]
                # 1. Never fewer than left.
                assert {each.nonce for each in served} <= {each.nonce for each in counted}
                # 2. What was counted before is still counted.
                assert ledger.releases() == earlier + len(counted)
                earlier += len(counted)
            server.start()
            # 3. The holder of a key can end its session, also one whose reply was lost; no one else can.
            for attempt in attempts:
                attempt.run_journal()
                if attempt in counted:
                    attempt.complete()
                else:
                    with pytest.raises(RefusedError) as caught:
                        attempt.complete()
                    assert caught.value.reason == "session"
        testbed.close()
        server.end()
        with server.ledger() as ledger:
            assert (ledger.releases(), ledger.outstanding()) == (earlier, [])
    if SOAK:
        assert partly > 20, "the kills came too early or too late to prove anything"
