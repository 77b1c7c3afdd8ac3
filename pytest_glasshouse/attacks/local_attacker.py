"""Another process of the same user, early: what it can take of a guest before the fences stand, and what that is worth.

The neighbour is a thread of this process, which is one of the guest's own user and holds none of the guest's secrets. It
waits for a launcher, which for some milliseconds is a process like any other, and takes what is to be had. Refuses to judge.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from pytest_glasshouse.agent.memory_scan import HandedMemory
from pytest_glasshouse.attacks.target_guest import Box, Played, children
from pytest_glasshouse.errors import GlasshouseError
from pytest_glasshouse.guest.opener import unseal_key
from pytest_glasshouse.legs.leg_watch import Progress
from pytest_glasshouse.wire import evidence, frames, tokens
from pytest_glasshouse.wire.canonical import sha256_hex
from pytest_glasshouse.wire.journal import Journal

#: How many legs a neighbour may need to be quick enough once.
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
    """This machine does not allow the attack, or nobody here was quick enough for it: it was not played."""


class Handed:
    """Descriptors of a process's memory, opened while that was allowed."""

    def __init__(self, pid: int) -> None:
        self._mem = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
        self._maps = os.open(f"/proc/{pid}/maps", os.O_RDONLY)

    def holds(self, wanted: bytes) -> bool:
        """Whether `wanted` is anywhere in that memory, now."""
        memory, room = HandedMemory(self._mem, self._maps), bytearray(_BLOCK + len(wanted))
        for start, end in memory.ranges():
            for at in range(start, end, _BLOCK):
                came = memory.read(at, memoryview(room)[: min(len(room), end - at)])
                if wanted in room[: max(came, 0)]:
                    return True
        return False

    def close(self) -> None:
        os.close(self._mem)
        os.close(self._maps)


class Neighbour:
    """A thread that waits for the next launcher of a box, and does `take` with it at once."""

    def __init__(self, box: Box, take: Callable[[int], object]) -> None:
        self._box, self._take = box, take
        self._over = threading.Event()
        self._taken: object = None
        self.pid = 0
        self._thread = threading.Thread(target=self._wait, daemon=True)

    def _wait(self) -> None:
        until = time.monotonic() + _PATIENCE_S
        while not self._over.is_set() and time.monotonic() < until:
            for pid in self._box.launchers():
                with contextlib.suppress(OSError):
                    self.pid, self._taken = pid, self._take(pid)
                return

    def caught(self) -> Handed | None:
        """What it took, if it took memory."""
        return self._taken if isinstance(self._taken, Handed) else None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        self._thread.join(_PATIENCE_S)
        caught = self.caught()
        if caught is not None:
            caught.close()


def _early(pid: int) -> Handed:
    """Memory of a launcher that has not forked yet: afterwards it would be no news that the leg's is not in it."""
    handed = Handed(pid)
    if children(pid):
        handed.close()
        raise OSError("too late")
    return handed


def early_look(box: Box, attack: Callable[[Neighbour], Played]) -> Played:
    """Play legs until the neighbour was quick enough once; the played leg is that one."""
    for _ in range(_TRIES):
        with Neighbour(box, _early) as neighbour:
            played = attack(neighbour)
        if neighbour.caught() is not None:
            return played
    raise NotPlayedError("no descriptor of a launcher's memory could be opened before its fences stood")


def looks_at_agent(box: Box) -> bool:
    """Whether a descriptor of the agent's first process, opened before its fences stood, shows what the agent holds."""
    for _ in range(_TRIES):
        handed: list[Handed] = []

        def take(pid: int) -> None:
            with contextlib.suppress(OSError):
                handed.append(_early(pid))  # noqa: B023  (called before the loop goes on)

        with Box(main=box.main, extra=box.extra, on_spawned=take) as other, contextlib.ExitStack() as at_the_end:
            for each in handed:
                at_the_end.callback(each.close)
                if not each.holds(b"--allocation"):
                    raise GlasshouseError("the descriptor that was opened early shows nothing at all")
                return any(each.holds(word.encode()) for word in other.spoken)
    raise NotPlayedError("no descriptor of an agent's memory could be opened before its fences stood")


def offers_keys(box: Box) -> tuple[Played, bool]:
    """Take the leg's end of its socket, offer keys of one's own there, and see whether the data key comes for them."""
    keys: list[bytes] = []
    for _ in range(_TRIES):
        with Neighbour(box, lambda pid: _Impostor(box, pid, keys)) as neighbour:
            played = box.play()
        # What the neighbour did is known once it has ended: the leg may be played before.
        if neighbour.pid:
            return played, box.sealed[-1].data_key.reveal() in keys
    raise NotPlayedError("no socket of a leg could be taken from its launcher")


class _Impostor:
    """Speaks as the leg, from this process: everything in it is right but who says it."""

    def __init__(self, box: Box, pid: int, keys: list[bytes]) -> None:
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
        self._box, self._keys = box, keys
        self._hpke, self._signer = X25519PrivateKey.generate(), Ed25519PrivateKey.generate()
        with socket.socket(fileno=taken) as self._socket:
            self._socket.settimeout(_PATIENCE_S)
            with contextlib.suppress(OSError, GlasshouseError):
                self._speak()

    def _say(self, kind: str, body: dict[str, object]) -> None:
        frames.send(self._socket, {"type": kind, "body": body})  # type: ignore[dict-item]

    def _speak(self) -> None:
        cnf = {
            "hpke": evidence.hpke_text(self._hpke.public_key()),
            "sig": tokens.public_text(self._signer.public_key()),
        }
        nothing: dict[str, list[str]] = {"maps": [], "modules": [], "hooks": []}
        memory, observed = {"locked": True, "bytes": 4096}, dict(evidence.ANTIDEBUG_STRICT)
        self._say("ready", {"cnf": cnf, "antidebug": observed, "memory": memory, "images": nothing})
        while (received := frames.receive(self._socket)) is not None:
            body = received[0].get("body")
            if received[0].get("type") == "challenge" and isinstance(body, dict):
                lines: list[str] = []
                journal = Journal(str(body["nonce"]), lines.append, lambda: 0)
                journal.append("anti_debug_ready", {"wall": "2027-01-15T08:00:00Z", "observed": observed})
                journal.append("measured", {"composite": body["composite"]})
                self._say("attest", {"log": lines, "head": journal.head})
            elif received[0].get("type") == "release" and isinstance(body, dict):
                manifest = sha256_hex(self._box.sealed[-1].manifest.encode())
                key = unseal_key(
                    str(body["sealed"]), result_token=str(body["result"]), manifest_sha256=manifest, private=self._hpke
                )
                self._keys.append(bytes(key.view))
                return


def traces(box: Box) -> Played:
    """Play a leg whose launcher is traced from before its fences, and the leg with it."""
    for _ in range(_TRIES):
        played = _traced_once(box)
        if played is not None:
            return played
    raise NotPlayedError("no launcher could be traced")


def _traced_once(box: Box) -> Played | None:
    answered = threading.Event()

    def on_progress(moment: Progress) -> None:
        # Once the leg has said what it saw the tracer lets go: one that stayed would keep the leg from ending.
        if moment.phase == "attest":
            answered.set()

    with Neighbour(box, lambda pid: _trace(pid, answered)) as neighbour:
        played = box.play(on_progress=on_progress)
        answered.set()
    return played if neighbour.pid else None


def _trace(pid: int, until: threading.Event) -> None:
    """Trace `pid` and what it forks. The kernel lets go of them when this thread ends."""
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
