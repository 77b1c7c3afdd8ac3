"""The agent's side of the launchers: one process for each workload, which imports once and forks the legs.

A launcher is measured as legs are: after its imports, and again before each leg. It forks only while nothing foreign is in it,
nothing has changed, and it has one thread; otherwise another takes its place, and what is foreign in that one is in its legs'
evidence. Where imports alone start a thread or ask a device, launchers import nothing, and each leg does it for itself.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_glasshouse.agent.leg_code import LegCode
from pytest_glasshouse.agent.leg_environment import launcher_command, leg_environment
from pytest_glasshouse.agent.leg_scan import memory_of
from pytest_glasshouse.errors import GlasshouseError, ProtocolError, RefusedError
from pytest_glasshouse.wire import frames
from pytest_glasshouse.wire.leg_messages import LegStart, LoadedLauncher, StartedLeg
from pytest_glasshouse.wire.peer_credentials import PeerCredentialSocket, is_child
from pytest_glasshouse.wire.typed import check_typed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_glasshouse.agent.bytecode_cache import BytecodeCache
    from pytest_glasshouse.agent.installed_code import Baseline
    from pytest_glasshouse.agent.memory_scan import Memory
    from pytest_glasshouse.wire.canonical import Json

#: Deadline for one message once it has begun, and for a launcher to answer or to be named by the process that forked it.
_FRAME_S = 60.0
_PID_DIGITS = 20


class ForkedLeg:
    """The processes of one leg: the leader of its session, and the leg itself, which the leader forked and waits for."""

    def __init__(self, launcher: LauncherProcess, leader: int, leg: int) -> None:
        self.pid = leader
        self.leg_pid = leg
        self._launcher = launcher
        self._pidfd = os.pidfd_open(leader)
        # The leader stays in the process table until the launcher is asked for its status: its number is nobody else's.
        self._lock = threading.Lock()
        self._status: int | None = None

    def wait(self, timeout_s: float) -> int:
        """The leg's exit status, 128 and the signal's number where one ended it. Raises `TimeoutError`."""
        if not select.select([self._pidfd], [], [], timeout_s)[0]:
            raise TimeoutError("the leg has not ended")
        with self._lock:
            if self._status is None:
                self._status = self._launcher.reap(self.pid)
            return self._status

    def kill(self) -> None:
        """End every process of the leg's session at once."""
        with self._lock, contextlib.suppress(ProcessLookupError):
            if self._status is None:
                os.killpg(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Close the descriptor by which the end is seen."""
        os.close(self._pidfd)


class LauncherProcess:
    """One launcher. Raises `RefusedError` where another process answers for it, and `ProtocolError` when it is gone."""

    def __init__(
        self, command: Sequence[str], *, environment: Mapping[str, str], directory: Path, archive_fd: int, code: LegCode
    ) -> None:
        """Start it and wait until it has imported what it imports; the calling thread must live as long as it does."""
        self._code = code
        self._lock = threading.Lock()
        end, theirs = socket.socketpair()
        self._connection = PeerCredentialSocket(end)
        reading, writing = os.pipe()
        self._process = subprocess.Popen(  # noqa: S603
            [*command, "--control", str(theirs.fileno()), "--pid-fd", str(writing)],
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(), archive_fd, writing),
            start_new_session=True,
        )
        theirs.close()
        os.close(writing)
        try:
            resource.prlimit(self._process.pid, resource.RLIMIT_CORE, (0, 0))
            self.pid = self._forked(reading)
            # From here on, a message from any other process ends the launcher, and the leg that waits for it.
            self._connection.pid = self.pid
            state = check_typed(self._receive("ready", within_s=None), LoadedLauncher, "ready")
            code.measure(state["images"])
            self.unfit = state["unfit"]
        except BaseException:
            self.end()
            raise

    def _forked(self, reading: int) -> int:
        # The hardened process writes the process id of its child; nothing when the fork failed.
        with os.fdopen(reading, "rb", buffering=0) as pipe:
            pid = pipe.read(_PID_DIGITS) if select.select([pipe], [], [], _FRAME_S)[0] else b""
        if pid and not is_child(int(pid), self._process.pid):
            raise RefusedError("sender", "a process was named as the launcher that was not forked as it, or is gone")
        return int(pid or self._process.pid)

    @property
    def foreign(self) -> tuple[str, ...]:
        """What was foreign in it when it had imported everything: it is in each of its legs."""
        return self._code.foreign

    def changed(self) -> str:
        """Measure it again. Why it may fork no leg any more; empty where it may."""
        try:
            with self._lock:
                self._send("look", {})
                state = check_typed(self._receive("ready"), LoadedLauncher, "ready")
        except (OSError, ProtocolError) as error:
            return f"it does not answer: {error}"
        self._code.measure_again(state["images"])
        if self.foreign or self._code.comparison["status"] != "unchanged":
            return "its code is not what was measured"
        return state["unfit"] or ("it is traced" if state["tracer"] else "")

    def fork(
        self, *, directory: Path, environment: Mapping[str, str], descriptors: Sequence[int], control: int, network: int | None
    ) -> ForkedLeg:
        """Fork a leg with these descriptors, which keep their numbers."""
        start: LegStart = {
            "directory": str(directory),
            "environment": {**environment},
            "descriptors": [*descriptors],
            "control": control,
            "network": network,
        }
        with self._lock:
            self._send("start", start)
            self._connection.send_descriptors([*descriptors])
            started = check_typed(self._receive("started"), StartedLeg, "started")
        leader, leg = started["leader"], started["leg"]
        if not is_child(leader, self.pid) or (leg and not is_child(leg, leader)):
            raise RefusedError("sender", "the launcher named a process that it did not fork, or that is gone")
        forked = ForkedLeg(self, leader, leg)
        if not leg:
            forked.kill()
            forked.wait(_FRAME_S)
            forked.close()
            raise GlasshouseError("the launcher forked no leg")
        return forked

    def reap(self, leader: int) -> int:
        """The exit status of a leg's leader, which has ended; -1 where the launcher is gone with it."""
        try:
            with self._lock:
                self._send("reap", {"pid": leader})
                return check_typed(self._receive("reaped").get("status"), int, "reaped.status")
        except (OSError, ProtocolError):
            return -1

    @contextlib.contextmanager
    def memory(self) -> Iterator[Memory]:
        """Its memory, to be searched; nothing else is asked of it meanwhile."""
        with self._lock:
            self._send("memory", {})
            memory, descriptors = memory_of(self._connection, self._receive("memory"), pid=self.pid)
            try:
                yield memory
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)

    def end(self) -> None:
        """End it, and with it every leg that it forked."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._connection.close()

    def _send(self, kind: str, body: Mapping[str, object]) -> None:
        frames.send(self._connection, {"type": kind, "body": body}, deadline=time.monotonic() + _FRAME_S)

    def _receive(self, kind: str, *, within_s: float | None = _FRAME_S) -> dict[str, Json]:
        until = None if within_s is None else time.monotonic() + within_s
        received = frames.receive(self._connection, deadline=until)
        body = None if received is None else received[0].get("body")
        if received is None or received[0].get("type") != kind or not isinstance(body, dict):
            raise ProtocolError(
                f"expected {kind!r} from the launcher; saw {'its end' if received is None else 'another message'}"
            )
        return body


class Launchers:
    """The launchers of one allocation, each started when a leg first needs it."""

    def __init__(
        self, directory: Path, *, archive_fd: int, site_packages: Sequence[str], baseline: Baseline, bytecode: BytecodeCache
    ) -> None:
        """`directory` is the one that legs have their own in."""
        self._directory = directory
        self._archive_fd = archive_fd
        self._site_packages = site_packages
        self._baseline = baseline
        self._bytecode = bytecode
        # A launcher ends with the thread that started it, so one thread starts them all.
        self._thread = ThreadPoolExecutor(1, "launchers")
        self._running: dict[tuple[str, bool], LauncherProcess] = {}
        #: Workloads whose imports leave a process that may not be forked.
        self._unfit: set[str] = set()
        self._started = 0

    @property
    def archive(self) -> str:
        """The path prefix of modules from the measured archive."""
        return f"/proc/self/fd/{self._archive_fd}"

    def wait(self, workload: str, *, imports: bool, strict_memory: bool, may_go_on: threading.Event) -> LauncherProcess:
        """A launcher that was measured just now; without `imports`, one from which each leg imports for itself.

        Raises `ProtocolError` when `may_go_on` is set before there is one.
        """
        ready = self._thread.submit(self._ready, workload, imports=imports, strict_memory=strict_memory)
        ready.add_done_callback(lambda _: may_go_on.set())
        may_go_on.wait()
        if not ready.done():
            raise ProtocolError("the leg was ended before it began")
        return ready.result()

    def _ready(self, workload: str, *, imports: bool, strict_memory: bool) -> LauncherProcess:
        self._bytecode.build(workload)
        unfit = ""
        for imported in (workload, "") if imports and workload not in self._unfit else ("",):
            running = self._running.pop((imported, strict_memory), None)
            if running is not None and running.changed():
                running.end()
                running = None
            launcher = running or self._start(imported, strict_memory=strict_memory)
            self._running[imported, strict_memory] = launcher
            if not launcher.unfit:
                return launcher
            unfit = launcher.unfit
            self._unfit.add(workload)
            self._running.pop((imported, strict_memory)).end()
        raise GlasshouseError(f"no leg can be forked from a launcher: {unfit}")

    def _start(self, imported: str, *, strict_memory: bool) -> LauncherProcess:
        self._started += 1
        directory = self._directory / f"launcher-{self._started}"
        directory.mkdir(parents=True)
        command = launcher_command(self._bytecode.option(), self.archive, self._site_packages, workload=imported)
        return LauncherProcess(
            command,
            environment=leg_environment(directory, strict_memory=strict_memory),
            directory=directory,
            archive_fd=self._archive_fd,
            code=LegCode(self._baseline, self._bytecode, archive=self.archive),
        )

    def end(self) -> None:
        """End them all; none is started any more."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        for launcher in [*self._running.values()]:
            launcher.end()
