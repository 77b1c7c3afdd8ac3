"""A guest with numpy that rests after every step: a leg of seconds, in which something happens to it, takes no CPU time."""

from __future__ import annotations

from functools import cache

from tests.numpy_guest.archive import numpy_archive_with

_MAIN = """
import sys
import time

from pytest_glasshouse.agent.main import main
from pytest_glasshouse.workloads import loop

honest = loop.measure


def measure(trainer, **named):
    step = trainer.step

    def step_and_rest():
        step()
        time.sleep(0.05)

    trainer.step = step_and_rest
    return honest(trainer, **named)


loop.measure = measure
sys.exit(main())
"""


@cache
def resting_archive() -> bytes:
    """The archive of such a guest."""
    return numpy_archive_with({"__main__.py": _MAIN.encode()})
