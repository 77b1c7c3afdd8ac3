"""Starts a launcher of legs, or the agent, as a hardened process: non-dumpable first, then a fork without exec.

The forked process is non-dumpable from its first instruction and has its own memory: a descriptor of `/proc/PID/mem` that
another process opened earlier shows its parent's, which never holds a secret. Standard library only: nothing of site-packages
is loaded before the hardening.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import resource
from typing import NoReturn

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
_CLONE_NEWNET = 0x40000000
_SIGKILL = 9
#: glibc's parameter for the least size that gets a mapping of its own, which goes back to the system as soon as it is freed.
_M_MMAP_THRESHOLD = -3
#: And the one for how many heaps its threads have.
_M_ARENA_MAX = -8


def die_with_parent() -> None:
    """Ask the kernel to kill this process when the thread that forked it ends."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)


def harden_process() -> None:
    """Make this process non-dumpable (no ptrace, no /proc/PID/mem for the same user) and end core dumps."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_DUMPABLE, 0)")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def give_back_freed() -> None:
    """Give memory that this process has freed, and glibc keeps for later, back to the system."""
    gc.collect()
    with contextlib.suppress(AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def keep_little(large_bytes: int) -> None:
    """Let glibc keep little of what this process frees: blocks of `large_bytes` or more go back to the system at once.

    By itself it raises that size to that of the largest block that was freed, and keeps what is smaller: of tensors of megabytes,
    tens of MiB that nothing uses. And each thread gets a heap of its own, with holes of its own: one is enough here.
    """
    with contextlib.suppress(AttributeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, large_bytes)
        libc.mallopt(_M_ARENA_MAX, 1)


def launch_launcher(pid_fd: int) -> None:
    """Return in the forked launcher of legs; this process waits for it and exits with its status.

    Its process id is written to the descriptor `pid_fd`: the agent must tell the two apart.
    """
    die_with_parent()
    harden_process()
    pid = os.fork()
    if pid == 0:
        die_with_parent()
        os.close(pid_fd)
        return
    os.write(pid_fd, str(pid).encode())
    wait_for(pid)


def lead_leg(network_fd: int | None = None) -> None:
    """Make this process, forked by the launcher for one leg, the leader of the leg's own session.

    Orphans of the leg stay below it, where their processor time counts as the leg's. A rank of several enters the network
    namespace `network_fd`, where its leg has one.
    """
    die_with_parent()
    os.setsid()
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if network_fd is not None and libc.setns(network_fd, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns(CLONE_NEWNET)")


def launch_agent() -> None:
    """Return in the forked agent. Its key signs evidence, so a process that reads its memory could forge any."""
    harden_process()
    pid = os.fork()
    if pid == 0:
        die_with_parent()
        return
    wait_for(pid)


def wait_for(pid: int) -> NoReturn:
    """Wait for the child `pid`, and exit with its status."""
    # Close this process's copies of the child's sockets: the agent must see them close when the child ends.
    os.closerange(3, 256)
    give_back_freed()
    status = 1
    with contextlib.suppress(ChildProcessError):
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os._exit(status if status >= 0 else 128 - status)
