"""One leg in a process of its own: receive the order, run it, report a failure, exit.

Both legs start here, import the same modules and read their material from memory files that the agent passed.
Exit status: 0 done, 3 the training failed, 4 refused or not verified, 5 anything else.
"""

from __future__ import annotations

import os
import socket
import traceback
from typing import TYPE_CHECKING

from pytest_glasshouse.errors import GlasshouseError
from pytest_glasshouse.guest.control import Control
from pytest_glasshouse.guest.opener import map_file
from pytest_glasshouse.guest.protected import Protected
from pytest_glasshouse.guest.raw import Raw
from pytest_glasshouse.wire.guest_messages import failure
from pytest_glasshouse.workloads.base import NonFiniteLossError

if TYPE_CHECKING:
    from pytest_glasshouse.wire.canonical import Json

DONE, TRAINING_FAILED, NOT_VERIFIED, BROKEN = 0, 3, 4, 5


def run_leg(control_fd: int) -> int:
    """Run the leg the agent asks for on `control_fd`; returns its exit status."""
    control = Control(socket.socket(fileno=control_fd))
    _, order = control.receive("begin")
    material = {name: _mapped(fd) for name, fd in _fds(order).items()}
    try:
        if order["kind"] == "protected":
            Protected(control, order, material["package"]).run()
        else:
            Raw(control, order, material).run()
    except NonFiniteLossError as error:
        control.send("failed", {**failure(error), "reason": "non-finite loss"})
        return TRAINING_FAILED
    except GlasshouseError as error:
        control.send("failed", failure(error))
        return NOT_VERIFIED
    except Exception as error:  # noqa: BLE001  (a leg must report why it ends; the agent spools it)
        where = traceback.extract_tb(error.__traceback__)[-1]
        control.send("failed", failure(error, f"{where.name}:{where.lineno}: {error}"))
        return BROKEN
    return DONE


def _fds(order: dict[str, Json]) -> dict[str, int]:
    named = order["material"]
    if not isinstance(named, dict):
        raise TypeError(f"expected material to name memory files; saw {type(named).__name__}")
    return {name: fd for name, fd in named.items() if isinstance(fd, int)}


def _mapped(fd: int) -> memoryview:
    """A read-only view of a memory file; dropping the view frees the file."""
    view = map_file(fd)
    os.close(fd)
    return view
