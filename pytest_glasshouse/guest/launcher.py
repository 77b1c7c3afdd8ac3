"""Starts a leg, or the agent, behind its fences: non-dumpable first, then a fork without exec.

What is forked is so from its first instruction, and has memory of its own: a descriptor of `/proc/PID/mem` that somebody
opened before the fences stood shows the launcher's, which never holds a secret. Standard library only, and little of it:
nothing of site-packages is loaded before the fences stand. A launcher serves one process, so that every process start is a
draw of its own (address layout, allocator), and forks before any CUDA is touched.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
from typing import NoReturn

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
_SIGKILL = 9


def die_with_parent() -> None:
    """Ask the kernel to kill this process when the thread that forked it ends."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)


def raise_fences() -> None:
    """Make this process non-dumpable (no ptrace, no /proc/PID/mem for the same user) and end core dumps."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_DUMPABLE, 0)")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def launch(tell_pid: int) -> None:
    """Return in the leg, which was forked; the launcher itself waits for it and leaves with its exit status.

    The leg's process id is written to the descriptor `tell_pid`, for whoever has to know the leg from its launcher.
    """
    die_with_parent()
    raise_fences()
    # What the leg starts and abandons stays below this process, where its processor time is the leg's.
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    pid = os.fork()
    if pid == 0:
        die_with_parent()
        os.close(tell_pid)
        return
    os.write(tell_pid, str(pid).encode())
    _wait_for(pid)


def launch_agent() -> None:
    """Return in the agent, which was forked. Its key signs evidence: whoever reads that can attest what he likes."""
    raise_fences()
    pid = os.fork()
    if pid == 0:
        die_with_parent()
        return
    _wait_for(pid)


def _wait_for(pid: int) -> NoReturn:
    # The child's sockets are the child's alone: its agent must see them close.
    os.closerange(3, 256)
    status = 1
    with contextlib.suppress(ChildProcessError):
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os._exit(status if status >= 0 else 128 - status)
