"""The fence of the real launcher, against a reader of the same unprivileged user. Attacks on a leg: `test_executes.py`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.limits import HANG_S

_ROOT = Path(__file__).parents[2]

_READERS = """
import ctypes, os, signal, sys

sys.path[:0] = [sys.argv[1]]
from pytest_glasshouse.guest.launcher import harden_process

libc = ctypes.CDLL(None, use_errno=True)
secret = ctypes.create_string_buffer(b"the same user must not read this")

class Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]

def unprivileged():
    if os.getuid() == 0:
        os.setgroups([]); os.setgid(65534); os.setuid(65534)
    libc.prctl(4, 1, 0, 0, 0)  # dumpable, as after an exec: only the fence may change it

def leg(fenced):
    reading, writing = os.pipe()
    if os.fork() == 0:
        unprivileged()
        if fenced:
            harden_process()
        child = os.fork()
        if child:
            os.write(writing, str(child).encode())
            os._exit(0)
        signal.pause()
    return int(os.read(reading, 20))

def reads(pid):
    reading, writing = os.pipe()
    if os.fork() == 0:
        unprivileged()
        done = []
        for name in ("mem", "environ"):
            try:
                with open(f"/proc/{pid}/{name}", "rb") as file:
                    file.seek(ctypes.addressof(secret) if name == "mem" else 0)
                    done.append(name if name != "mem" or file.read(8) == secret.raw[:8] else "")
            except OSError:
                pass
        into = ctypes.create_string_buffer(8)
        ours, theirs = Vector(ctypes.addressof(into), 8), Vector(ctypes.addressof(secret), 8)
        if libc.process_vm_readv(pid, ctypes.byref(ours), 1, ctypes.byref(theirs), 1, 0) == 8:
            done.append("process_vm_readv")
        if libc.ptrace(0x4206, pid, None, None) == 0:
            done.append("ptrace")
        os.write(writing, (",".join(done) or "nothing").encode())
        os._exit(0)
    return os.read(reading, 100).decode()

pids = [leg(False), leg(True)]
print(reads(pids[0]), reads(pids[1]))
for pid in pids:
    os.kill(pid, signal.SIGKILL)
"""


def test_same_unprivileged_user_reads_nothing_of_a_leg_its_launcher_fenced() -> None:
    """The control beside it is the same process without the fence."""
    done = subprocess.run(
        [sys.executable, "-c", _READERS, str(_ROOT)], capture_output=True, text=True, check=True, timeout=HANG_S
    )
    unfenced, fenced = done.stdout.split()
    assert (unfenced, fenced) == ("mem,environ,process_vm_readv,ptrace", "nothing")
