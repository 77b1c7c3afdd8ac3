"""Anti-debug on the real leg: what is done to it is observed by it, judged by the server, and costs it the key."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_glasshouse.channel.archive import build_archive
from pytest_glasshouse.invariants import attestation_verified
from pytest_glasshouse.legs.progress import Progress
from pytest_glasshouse.providers.mock import MockProvider
from tests.rounds.conftest import Ran, carry_out, short_row

_ROOT = Path(__file__).parents[2]

_MAIN = """
import sys

sys.path.extend(value for flag, value in zip(sys.argv, sys.argv[1:]) if flag == "--site-packages")
from pytest_glasshouse.guest import leg, legrun, main

{arrange}
sys.exit(main.main())
"""
_ENVIRONMENT = """
honest = legrun.LegRun._environment
legrun.LegRun._environment = lambda self: {{**honest(self), {name!r}: {value!r}}}
"""
_TRACE = """
honest = leg.run_leg
def run_leg(control):
    sys.{setter}(lambda *_: None)
    return honest(control)
leg.run_leg = run_leg
"""


def _refused(ran: Ran, reason: str) -> bool:
    protected = ran.outcome.observation["rounds"][0]["protected"]
    assert attestation_verified(ran.outcome.observation).finding == "broken"
    assert "result" not in protected
    return bool(protected["refusal"]["reason"] == reason)


def _with(arrange: str, tmp_path: Path) -> Ran:
    archive = build_archive({"__main__.py": _MAIN.format(arrange=arrange).encode()})
    row = short_row(order="protected-first")
    return carry_out(row, tmp_path / "run", provider=MockProvider(archive=archive))


@pytest.mark.parametrize("name", ["LD_PRELOAD", "LD_AUDIT", "PYTHONPATH", "CUDA_INJECTION64_PATH"])
def test_variable_that_injects_code_costs_the_key(name: str, tmp_path: Path) -> None:
    """The policy pins this guest's archive, so that only the variable can be what is refused."""
    assert _refused(_with(_ENVIRONMENT.format(name=name, value="libz.so.1"), tmp_path), "antidebug-observed")


@pytest.mark.parametrize("setter", ["settrace", "setprofile"])
def test_trace_function_costs_the_key(setter: str, tmp_path: Path) -> None:
    """A trace function sees every line and every local of the leg."""
    assert _refused(_with(_TRACE.format(setter=setter), tmp_path), "antidebug-observed")


def _is_leg_of(entry: Path, directory: Path) -> bool:
    try:
        command = (entry / "cmdline").read_bytes()
    except OSError:
        return False
    return b"--control" in command and str(directory).encode() in command


_TRACER = """
import ctypes, sys

libc = ctypes.CDLL(None, use_errno=True)
done = [libc.ptrace(0x4206, int(pid), None, None) for pid in sys.argv[1:]]
print("attached" if 0 in done else "refused", flush=True)
sys.stdin.read()
"""


def test_attached_tracer_costs_the_key(tmp_path: Path) -> None:
    """A real ptrace attach, before the leg asks for its key."""
    tracers: list[subprocess.Popen[str]] = []
    said: list[str] = []

    def attach(progress: Progress, directory: Path) -> None:
        if (progress.leg, progress.phase) == ("protected", "start") and not tracers:
            pids: list[str] = []
            # The launcher first, then the leg it forks.
            while len(pids) < 2:
                pids = [entry.name for entry in Path("/proc").iterdir() if _is_leg_of(entry, directory)]
            command = [sys.executable, "-c", _TRACER, *pids]
            tracers.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            assert tracers[0].stdout is not None
            said.append(tracers[0].stdout.readline().strip())
        elif progress.phase == "attest":
            # It has been seen. A tracer that stayed would keep the leg from ending.
            tracers[0].communicate("")

    ran = carry_out(short_row(order="protected-first"), tmp_path, on_progress=attach)
    if said == ["refused"]:
        # Not allowed to trace at all: the fence held, and nothing was there to be observed.
        assert not os.environ.get("CI"), "CI runs this with the right to trace"
        pytest.skip("this user may not trace a non-dumpable process")
    assert said == ["attached"]
    assert _refused(ran, "antidebug-observed")


_READERS = """
import ctypes, os, signal, sys

sys.path[:0] = [sys.argv[1]]
from pytest_glasshouse.guest.launcher import raise_fences

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
            raise_fences()
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
    done = subprocess.run([sys.executable, "-c", _READERS, str(_ROOT)], capture_output=True, text=True, check=True, timeout=60)
    unfenced, fenced = done.stdout.split()
    assert (unfenced, fenced) == ("mem,environ,process_vm_readv,ptrace", "nothing")
