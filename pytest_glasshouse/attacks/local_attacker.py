"""A local attacker: another process of the guest's user that opens memory and sockets before the anti-debug fences are up.

The attacker is a thread of this process, which runs as the guest's user and holds none of the guest's secrets. It waits for
a launcher, which for some milliseconds is unprotected, and opens what it can. Refuses to judge the outcome.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from pytest_glasshouse.agent.memory_scan import DescriptorMemory
from pytest_glasshouse.attacks.target_guest import PlayedLeg, TargetGuest, children, process_state
from pytest_glasshouse.errors import GlasshouseError
from pytest_glasshouse.guest.opener import unseal_key
from pytest_glasshouse.legs.leg_watch import Progress
from pytest_glasshouse.wire import evidence, frames, tokens
from pytest_glasshouse.wire.canonical import sha256_hex
from pytest_glasshouse.wire.journal import Journal

#: How many legs may be played until the attacker was fast enough once.
_TRIES = 20
_PATIENCE_S = 20.0
_BLOCK = 1 << 20
_PIDFD_OPEN, _PIDFD_GETFD = 434, 438
_CONT, _EVENT_MESSAGE, _SEIZE = 7, 0x4201, 0x4206
_FOLLOW = 2 | 4 | 8  # fork, vfork, clone
_FOLLOWED = {1, 2, 3}
_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


class NotPlayedError(GlasshouseError):
    """The attack was not carried out: this machine does not allow it, or the attacker was too slow in every try."""


class ProcessMemory:
    """Descriptors of a process's memory, opened while it was still unprotected."""

    def __init__(self, pid: int) -> None:
        self._mem = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
        self._maps = os.open(f"/proc/{pid}/maps", os.O_RDONLY)

    def holds(self, wanted: bytes) -> bool:
        """Whether `wanted` is anywhere in that memory, now."""
        memory, room = DescriptorMemory(self._mem, self._maps), bytearray(_BLOCK + len(wanted))
        for start, end in memory.ranges():
            for at in range(start, end, _BLOCK):
                came = memory.read(at, memoryview(room)[: min(len(room), end - at)])
                if wanted in room[: max(came, 0)]:
                    return True
        return False

    def close(self) -> None:
        os.close(self._mem)
        os.close(self._maps)


class LocalAttacker:
    """A thread that waits for the guest's next launcher and calls `take` with its process id at once."""

    def __init__(self, guest: TargetGuest, take: Callable[[int], object]) -> None:
        self._guest, self._take = guest, take
        self._over = threading.Event()
        self._taken: object = None
        self.pid = 0
        self._thread = threading.Thread(target=self._wait, daemon=True)

    def _wait(self) -> None:
        until = time.monotonic() + _PATIENCE_S
        while not self._over.is_set() and time.monotonic() < until:
            for pid in self._guest.launchers():
                with contextlib.suppress(OSError):
                    self.pid, self._taken = pid, self._take(pid)
                return

    def memory(self) -> ProcessMemory | None:
        """The memory it opened, if any."""
        return self._taken if isinstance(self._taken, ProcessMemory) else None

    def __enter__(self) -> Self:
        # One that runs already has its fences up.
        self._guest.end_launchers()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        self._thread.join(_PATIENCE_S)
        memory = self.memory()
        if memory is not None:
            memory.close()


def _open_early(pid: int) -> ProcessMemory:
    """Memory of a launcher that has not forked yet: opened after the fork, it could not show the leg's memory anyway."""
    memory = ProcessMemory(pid)
    if children(pid):
        memory.close()
        raise OSError("too late")
    return memory


def open_launcher_memory(guest: TargetGuest, attack: Callable[[LocalAttacker], PlayedLeg]) -> PlayedLeg:
    """Play legs until the attacker opened a launcher's memory in time; returns that leg."""
    for _ in range(_TRIES):
        with LocalAttacker(guest, _open_early) as attacker:
            leg = attack(attacker)
        if attacker.memory() is not None:
            return leg
    raise NotPlayedError("no descriptor of a launcher's memory could be opened before its fences were up")


def read_agent_memory(guest: TargetGuest) -> bool:
    """Whether a descriptor of the agent's memory, opened before its fences were up, shows what only the agent holds."""
    for _ in range(_TRIES):
        memories: list[ProcessMemory] = []

        def take(pid: int) -> None:
            with contextlib.suppress(OSError):
                memories.append(_open_early(pid))  # noqa: B023  (called before the loop goes on)

        with TargetGuest(main=guest.main, extra=guest.extra, on_spawned=take) as other, contextlib.ExitStack() as at_the_end:
            for each in memories:
                at_the_end.callback(each.close)
                if not each.holds(b"--allocation"):
                    raise GlasshouseError("the descriptor opened early cannot read the process's memory at all")
                return any(each.holds(word.encode()) for word in other.memory_only_values)
    raise NotPlayedError("no descriptor of an agent's memory could be opened before its fences were up")


def impersonate_leg(guest: TargetGuest) -> tuple[PlayedLeg, bool]:
    """Copy the leg's socket and offer the attacker's keys; returns the leg, and whether the data key was sealed to them."""
    keys: list[bytes] = []
    for _ in range(_TRIES):
        with LocalAttacker(guest, lambda pid: _LegImpersonator(guest, pid, keys)) as attacker:
            leg = guest.play()
        # What the attacker did is known once its thread has ended, which may be after the leg.
        if attacker.pid:
            return leg, guest.sealed[-1].data_key.reveal() in keys
    raise NotPlayedError("no socket of a leg could be taken from its launcher")


class _LegImpersonator:
    """Answers the agent as the leg would, from this process: only the sender is wrong.

    It takes the launcher's end of its socket while that is unprotected, stops the launcher when it waits for the agent, copies
    the leg's socket as it passes, sends its own keys first, and keeps the leg from answering.
    """

    def __init__(self, guest: TargetGuest, pid: int, keys: list[bytes]) -> None:
        self._guest, self._keys = guest, keys
        self._hpke, self._signer = X25519PrivateKey.generate(), Ed25519PrivateKey.generate()
        with _taken_socket(pid) as launchers, _copied_on_the_way(launchers, pid) as self._socket:
            self._socket.settimeout(_PATIENCE_S)
            with contextlib.suppress(OSError, GlasshouseError):
                self._answer_agent(lambda: _let_fork(pid))

    def _send(self, kind: str, body: dict[str, object]) -> None:
        frames.send(self._socket, {"type": kind, "body": body})

    def _answer_agent(self, offered: Callable[[], None]) -> None:
        cnf = {
            "hpke": evidence.hpke_text(self._hpke.public_key()),
            "sig": tokens.public_text(self._signer.public_key()),
        }
        nothing: dict[str, list[str]] = {"maps": [], "modules": [], "hooks": []}
        memory, observed = {"locked": True, "bytes": 4096}, dict(evidence.ANTIDEBUG_STRICT)
        self._send("ready", {"cnf": cnf, "antidebug": observed, "memory": memory, "images": nothing})
        offered()
        while (received := frames.receive(self._socket)) is not None:
            body = received[0].get("body")
            if received[0].get("type") == "challenge" and isinstance(body, dict):
                lines: list[str] = []
                journal = Journal(str(body["nonce"]), lines.append, lambda: 0)
                journal.append("anti_debug_ready", {"wall": "2027-01-15T08:00:00Z", "observed": observed})
                journal.append("measured", {"composite": body["composite"]})
                self._send("attest", {"log": lines, "head": journal.head})
            elif received[0].get("type") == "release" and isinstance(body, dict):
                manifest = sha256_hex(self._guest.sealed[-1].manifest.encode())
                key = unseal_key(
                    str(body["sealed"]), result_token=str(body["result"]), manifest_sha256=manifest, private=self._hpke
                )
                self._keys.append(bytes(key.view))
                return


def _taken_socket(pid: int) -> socket.socket:
    """The socket that a launcher is started with, taken from its first process."""
    arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    wanted = int(arguments[arguments.index(b"--control") + 1])
    held = _libc.syscall(_PIDFD_OPEN, pid, 0)
    if held < 0:
        raise OSError(ctypes.get_errno(), "pidfd_open")
    try:
        taken = _libc.syscall(_PIDFD_GETFD, held, wanted, 0)
    finally:
        os.close(held)
    if taken < 0:
        raise OSError(ctypes.get_errno(), "pidfd_getfd")
    return socket.socket(fileno=taken)


def _copied_on_the_way(launchers: socket.socket, pid: int) -> socket.socket:
    """The leg's socket, copied from the message by which the agent gives it to the launcher, which stays in its queue."""
    until = time.monotonic() + _PATIENCE_S
    # The launcher has imported everything and waits: the agent measures it now, and then sends the leg's descriptors.
    asleep = 0
    while asleep < 3:  # noqa: PLR2004  (looks in a row: one that imports sleeps now and then)
        asleep = asleep + 1 if [process_state(each) for each in children(pid)] == ["S"] else 0
        if time.monotonic() > until:
            raise OSError("the launcher never waited for its agent")
        time.sleep(0.0005)
    for each in children(pid):
        os.kill(each, signal.SIGSTOP)
    while time.monotonic() < until:
        seen = array.array("i")
        with contextlib.suppress(BlockingIOError):
            _, ancillary, _, _ = launchers.recvmsg(1 << 16, 1 << 12, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            for level, kind, data in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    seen.frombytes(data)
        for other in seen[1:]:
            os.close(other)
        if seen:
            return socket.socket(fileno=seen[0])
        time.sleep(0.0005)
    raise OSError("no leg's socket passed")


def _let_fork(pid: int) -> None:
    """Let the launcher go on, and stop the leg that it forks before that can answer."""
    [launcher] = children(pid)
    os.kill(launcher, signal.SIGCONT)
    until = time.monotonic() + _PATIENCE_S
    while time.monotonic() < until:
        for leg in [leg for leader in children(launcher) for leg in children(leader)]:
            os.kill(leg, signal.SIGSTOP)
            return


def trace_leg(guest: TargetGuest) -> PlayedLeg:
    """Play a leg whose launcher, and with it the leg, is traced from before its fences are up."""
    for _ in range(_TRIES):
        leg = _traced_once(guest)
        if leg is not None:
            return leg
    raise NotPlayedError("no launcher could be traced")


def _traced_once(guest: TargetGuest) -> PlayedLeg | None:
    answered = threading.Event()

    def on_progress(moment: Progress) -> None:
        # The tracer detaches once the leg has reported it: otherwise the leg could not end.
        if moment.phase == "attest":
            answered.set()

    with LocalAttacker(guest, lambda pid: _trace(pid, answered)) as attacker:
        leg = guest.play(on_progress=on_progress)
        answered.set()
    return leg if attacker.pid else None


def _trace(pid: int, until: threading.Event) -> None:
    """Trace `pid` and its children. The kernel detaches them when this thread ends."""
    if _libc.ptrace(_SEIZE, pid, None, _FOLLOW) != 0:
        raise OSError(ctypes.get_errno(), "ptrace")
    traced = {pid}
    while not until.wait(0.0005):
        for each in tuple(traced):
            try:
                seen, status = os.waitpid(each, os.WNOHANG | 0x40000000)  # __WALL
            except ChildProcessError:
                traced.discard(each)
                continue
            if not seen or not os.WIFSTOPPED(status):
                continue
            event = status >> 16
            if event in _FOLLOWED:
                number = ctypes.c_ulong()
                _libc.ptrace(_EVENT_MESSAGE, each, None, ctypes.byref(number))
                traced.add(number.value)
            _libc.ptrace(_CONT, each, None, None if event else os.WSTOPSIG(status))
