"""A guest with numpy that rests after every step: a leg of seconds, in which something happens to it, takes no CPU time.

In a pod that has the byte code which installing the libraries left, its agent begins with that, as guests of the mock provider
do (`bytecode.use_kept`).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from tests.loopback.pod_disk import Volume
from tests.numpy_guest.archive import numpy_archive_with
from tests.numpy_guest.bytecode import kept

#: Where a pod has it, and of what kind it is.
KEPT, KIND = "/srv/compiled", "numpy"
_MAIN = f"""
import os
import sys
import time

if sys.argv[1] == "agent" and os.path.isdir({KEPT!r}):
    import shutil

    shutil.copytree({KEPT!r}, os.path.join(sys.argv[sys.argv.index("--directory") + 1], "bytecode"), dirs_exist_ok=True)

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


def compiled_volumes(root: Path) -> list[Volume]:
    """For its pods: what is kept below this folder (`bytecode.keep_in_cache`)."""
    return [Volume(host=kept(root, KIND), inside=KEPT, why="what installing the libraries compiled")]


@cache
def resting_archive() -> bytes:
    """The archive of such a guest."""
    return numpy_archive_with({"__main__.py": _MAIN.encode()})
