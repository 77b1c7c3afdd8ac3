"""The first process of a loopback pod: starts the command, keeps every descendant, and ends them all at the end of its pipe.

    python -I -S pod_init.py RESTART LOG -- COMMAND...

It is a child subreaper, so whatever daemonises itself in the pod still has it for a parent. Nothing kills this process:
the end of its standard input is the order to end, and a dead test process ends every pod of its own for that reason.
"""

import ctypes
import os
import select
import shutil
import signal
import sys
import time

_PR_SET_CHILD_SUBREAPER = 36
_RESTART_PAUSE_S = 0.3


def _parents() -> dict[int, int]:
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", encoding="utf-8", errors="replace") as stat:
                    parents[int(entry)] = int(stat.read().rpartition(")")[2].split()[1])
            except OSError:
                continue
    return parents


def _descendants() -> set[int]:
    parents, found = _parents(), {os.getpid()}
    while True:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        if not more:
            return found - {os.getpid()}
        found |= more


def _reap() -> dict[int, int]:
    ended: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended[pid] = os.waitstatus_to_exitcode(status)


def _end_all() -> None:
    while True:
        living = _descendants()
        for pid in living:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        _reap()
        if not _descendants():
            return
        time.sleep(0.005)


def _start(command: list[str], log: str) -> int:
    """Its process id. No `Popen`: when one is collected it reaps a child that ended early, and that end goes unnoticed."""
    try:
        return os.posix_spawnp(
            command[0],
            command,
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD],
        )
    except OSError as error:
        with open(log, "ab") as out:
            out.write(f"cannot start: {error}\n".encode())
        return -1


def _empty() -> None:
    for name in os.listdir("."):
        if os.path.isdir(name) and not os.path.islink(name):
            shutil.rmtree(name, ignore_errors=True)
        else:
            os.unlink(name)


def main() -> int:
    restarts, log, command = sys.argv[1] == "restart", sys.argv[2], sys.argv[4:]
    ended_by_server = False
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    child_ended, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    first = _start(command, log)
    if first == -1 and not restarts:
        return 127
    while True:
        timeout = _RESTART_PAUSE_S if first == -1 else None
        ready, _, _ = select.select([0, child_ended], [], [], timeout)
        if 0 in ready and os.read(0, 4096):
            ended_by_server = True
        elif 0 in ready:
            _end_all()
            if not ended_by_server:
                # The process that serves this pod was killed: its disk is removed too.
                shutil.rmtree(os.path.dirname(log), ignore_errors=True)
            return 0
        if child_ended in ready:
            os.read(child_ended, 4096)
        ended = _reap()
        if first in ended:
            _end_all()
            if not restarts:
                return ended[first] if 0 <= ended[first] < 256 else 1
            first = -1  # a container whose first process ends is started again, on an empty disk
        elif first == -1 and not ready:
            _empty()
            first = _start(command, log)


if __name__ == "__main__":
    sys.exit(main())
