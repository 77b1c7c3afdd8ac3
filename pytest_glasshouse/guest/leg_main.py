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
from pytest_glasshouse.guest.launcher import keep_little
from pytest_glasshouse.guest.opener import map_file, releasing
from pytest_glasshouse.guest.protected import Protected
from pytest_glasshouse.guest.protected_rank import ProtectedRank
from pytest_glasshouse.guest.raw import Raw
from pytest_glasshouse.guest.training import hide_unneeded
from pytest_glasshouse.wire.guest_messages import OUT_OF_MEMORY, failure
from pytest_glasshouse.wire.host_messages import ProtectedOrder, RawOrder
from pytest_glasshouse.wire.leg_messages import Begin
from pytest_glasshouse.wire.typed import check_typed
from pytest_glasshouse.workloads.base import NonFiniteLossError
from pytest_glasshouse.workloads.cuda import is_out_of_memory

if TYPE_CHECKING:
    from pytest_glasshouse.wire.canonical import Json

#: The least size of blocks of memory that are given back at once in both legs of lora, beside whose model a step of training has
#: tens of MiB of them. A step of mlp is so short that asking the system for them anew would take a third of it.
_LARGE_BYTES = 1 << 18
DONE, TRAINING_FAILED, NOT_VERIFIED, BROKEN = 0, 3, 4, 5


def run_leg(control_fd: int) -> int:
    """Run the leg the agent asks for on `control_fd`; returns its exit status."""
    hide_unneeded()
    control = Control(socket.socket(fileno=control_fd))
    begin = check_typed(control.receive("begin")[1], Begin, "begin")
    order, descriptors, place = begin["order"], begin["descriptors"], begin.get("rank")
    if order["plan"]["workload"] == "lora":
        keep_little(_LARGE_BYTES)
    try:
        if order["kind"] == "protected":
            protected = check_typed(order, ProtectedOrder, "order")
            if place is not None and place["rank"]:
                ProtectedRank(control, protected, memoryview(b""), lambda _start, _end: None, place).run()
            else:
                package = descriptors["package"]
                # Its descriptor stays open: pages of it are freed as they are decrypted.
                view = map_file(package, whole="arrived" not in order)
                Protected(control, protected, view, releasing(package), place).run()
        else:
            material = {name: _mapped(fd) for name, fd in descriptors.items()}
            Raw(control, check_typed(order, RawOrder, "order"), material, place).run()
    except NonFiniteLossError as error:
        control.send("failed", {**failure(error), "reason": "non-finite loss"})
        return TRAINING_FAILED
    except Exception as error:  # noqa: BLE001  (a leg must report why it ends; the agent spools it)
        if isinstance(error, GlasshouseError) and not is_out_of_memory(error):
            control.send("failed", failure(error))
            return NOT_VERIFIED
        control.send("failed", broken(error))
        return BROKEN
    return DONE


def broken(error: Exception) -> dict[str, Json]:
    """The body of `failed` for what no leg raises on purpose. Memory that is used up has one name, whatever CUDA calls it."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    body = failure(error, f"{where.name}:{where.lineno}: {error}")
    return {**body, "reason": OUT_OF_MEMORY} if is_out_of_memory(error) else body


def _mapped(fd: int) -> memoryview:
    """A read-only view of a memory file; dropping the view frees the file."""
    view = map_file(fd)
    os.close(fd)
    return view
