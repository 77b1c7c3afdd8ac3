"""The agent's side of one leg: start it, serve its socketpair, observe its end, sign the exit.

The agent is the attesting environment: it takes the measurements in the evidence itself; the leg supplies only its two
ephemeral keys, and they are accepted only from the process that was forked for it. One thread per leg has it forked, serves it
and waits for it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_glasshouse.agent.base_models import descriptors_of
from pytest_glasshouse.agent.border_marks import BorderMarks
from pytest_glasshouse.agent.leg_code import LegCode
from pytest_glasshouse.agent.leg_environment import leg_environment
from pytest_glasshouse.agent.leg_evidence import sign_evidence
from pytest_glasshouse.agent.leg_scan import LegScan
from pytest_glasshouse.agent.leg_turns import LegTurns
from pytest_glasshouse.agent.page_cache import warm_page_cache
from pytest_glasshouse.agent.server_answers import ServerAnswers
from pytest_glasshouse.agent.stretches import StretchRecorder
from pytest_glasshouse.errors import ProtocolError
from pytest_glasshouse.guest.launcher import give_back_freed
from pytest_glasshouse.wire import evidence, frames, tokens
from pytest_glasshouse.wire.canonical import canonical
from pytest_glasshouse.wire.guest_messages import check_event, failure
from pytest_glasshouse.wire.host_messages import ChallengeAnswer
from pytest_glasshouse.wire.leg_messages import Attest, Export, LoadedFiles, Ready
from pytest_glasshouse.wire.peer_credentials import PeerCredentialSocket, no_process_left
from pytest_glasshouse.wire.typed import check_typed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from pytest_glasshouse.agent.bytecode_cache import BytecodeCache
    from pytest_glasshouse.agent.gpu_memory import GpuMemory
    from pytest_glasshouse.agent.installed_code import Baseline
    from pytest_glasshouse.agent.launchers import ForkedLeg, LauncherProcess, Launchers
    from pytest_glasshouse.agent.memory_files import MemoryFiles
    from pytest_glasshouse.agent.spool import Spool
    from pytest_glasshouse.agent.turn_scheduler import TurnScheduler
    from pytest_glasshouse.wire.canonical import Json
    from pytest_glasshouse.wire.host_messages import AnswerBody, LegOrder
    from pytest_glasshouse.wire.leg_messages import Begin, LegChallenge

#: Message types that go to the spool unchanged.
_FORWARDED = ("journal", "progress", "started", "callback", "head", "failed")
#: How long a leg may live after it closed its socket, or was killed.
_END_S = 10.0
_FRAME_S = 60.0  # for one message, once it has begun
#: Bytes of an exported adapter beside its weights, sealed or not.
_HEADERS = 1 << 20


class LegProcess(threading.Thread):
    """One leg, from fork to signed exit; a thread."""

    def __init__(
        self,
        *,
        leg_id: str,
        order: LegOrder,
        workspace: Path,
        components: Mapping[str, str],
        baseline: Baseline,
        bytecode: BytecodeCache,
        container: str,
        launchers: Launchers,
        gpu: GpuMemory,
        key: Ed25519PrivateKey,
        memory_files: MemoryFiles,
        spool: Spool,
        scheduler: TurnScheduler | None = None,
        role: str = "",
    ) -> None:
        super().__init__(name=f"leg-{leg_id}", daemon=True)
        self._leg_id = leg_id
        self._order = order
        self._workspace = workspace
        self._components = dict(components)
        self._launchers = launchers
        self._code = LegCode(baseline, bytecode, archive=launchers.archive)
        self._container = container
        self._key = key
        self._memory_files = memory_files
        self._spool = spool
        self._answers = ServerAnswers()
        self._launcher: LauncherProcess | None = None
        self._forked: ForkedLeg | None = None
        #: An adapter is the trained initial weights, so its size is bounded by the material's.
        self._most_export = _HEADERS
        self._head: str | None = None
        self._ready: Ready | None = None
        self._challenge: ChallengeAnswer | None = None
        self._challenged_ns = 0
        self._stretches = StretchRecorder()
        self.scheduler = scheduler
        self._turns = LegTurns(scheduler, role=role, label=leg_id, spool=spool, stretches=self._stretches)
        #: Has the leg's own thread tell it `turn` (which), `repeat` (how many steps) or `finish`.
        self.command = self._turns.command
        self._marks = BorderMarks(
            order.get("witness"), nonce=order["nonce"], label=leg_id, spool=spool, answer=self._answers.next
        )
        self._scan = LegScan()
        self._gpu = gpu
        self._ended = threading.Event()
        self._killed = False
        #: Set when the launcher is ready, or the leg is ended before.
        self._may_start = threading.Event()

    def answer(self, kind: str, body: AnswerBody) -> None:
        """Pass the server's answer, relayed by the host, to the leg."""
        self._answers.put(kind, body)

    def stopped(self) -> list[int]:
        """The ranks of several whose processes are stopped."""
        return []

    @property
    def ranks(self) -> list[LegProcess]:
        """Every rank of the leg, this one first."""
        return [self]

    @property
    def process_group(self) -> int:
        """The process id of the leader of the leg's session; everything the leg starts is in that session or below it."""
        return 0 if self._forked is None else self._forked.pid

    @property
    def leg_pid(self) -> int:
        """The process that trains; 0 before there is one."""
        return 0 if self._forked is None else self._forked.leg_pid

    @property
    def thread(self) -> int:
        """The identifier of this thread, which works for this leg alone."""
        return self.ident or 0

    def readings_ns(self) -> int:
        """Processor time that this thread spent on reading the leg's times and conditions, in nanoseconds."""
        return self._stretches.readings_ns

    def kill(self) -> None:
        """End the leg at once, even while it is being started; its exit is still observed and signed."""
        self._killed = True
        self._answers.put("ended", {})
        self.command("ended", 0)
        self._may_start.set()
        if self._forked is not None:
            self._forked.kill()

    @property
    def ended(self) -> bool:
        """Whether the exit is in the spool."""
        return self._ended.is_set()

    def wait(self, timeout_s: float) -> bool:
        """Wait for the end; whether it has ended."""
        return self._ended.wait(timeout_s)

    def run(self) -> None:
        """The thread's body. The exit event is always written, and every failure is spooled."""
        end, theirs = socket.socketpair()
        ours = PeerCredentialSocket(end)
        try:
            self._workspace.mkdir(parents=True)
            forked = self._start(theirs)
            theirs.close()
            self._serve(ours, forked)
        except Exception as error:  # noqa: BLE001  (no message of a leg may end this thread without an exit event)
            self._spool_failed(failure(error))
        finally:
            ours.close()
            theirs.close()
            self._observe_end()

    def _start(self, theirs: socket.socket) -> ForkedLeg:
        plan, strict = self._order["plan"], self._order.get("strict_memory", False)
        # A sealed model comes in the package. Forked from a launcher that has imported, its leg would copy what it touches of
        # that, about 60 MB, on a guest whose memory the model takes.
        sealed = plan["workload"] == "lora" and plan["base"] is None
        self._launcher = launcher = self._launchers.wait(
            plan["workload"], imports=not sealed, strict_memory=strict, may_go_on=self._may_start
        )
        self._code.inherited = launcher.foreign
        cache = warm_page_cache(base := plan["base"])
        material = self._material()
        self._most_export = _HEADERS + 4 * sum(os.fstat(fd).st_size for fd in material.values())
        network, variables, more = self._of_rank()
        self._material_fds = material
        self._spool.append(self._leg_id, "spawned", {"kind": self._order["kind"], "cache": cache})
        environment = leg_environment(self._workspace, strict_memory=strict)
        try:
            self._forked = launcher.fork(
                directory=self._workspace,
                environment=environment | variables,
                descriptors=[theirs.fileno(), *material.values(), *descriptors_of(base), *more],
                control=theirs.fileno(),
                network=network,
            )
        finally:
            for fd in material.values():
                os.close(fd)
        return self._forked

    def _serve(self, ours: PeerCredentialSocket, forked: ForkedLeg) -> None:
        if self._killed:
            raise ProtocolError("the leg was ended before it began")
        # From here on, a message from any other process ends the leg.
        ours.pid = self._stretches.pid = forked.leg_pid
        self._send(ours, "begin", self._begin())
        while (received := frames.receive(ours, rest_s=_FRAME_S)) is not None:
            message, payload = received
            kind, body = message.get("type"), message.get("body")
            if not isinstance(body, dict):
                raise ProtocolError(f"expected an object as the body of a leg's message; saw {type(body).__name__}")
            self._take_in(ours, str(kind), body, payload)
        with contextlib.suppress(TimeoutError):
            forked.wait(_END_S)

    def _material(self) -> dict[str, int]:
        """Descriptors of the leg's parts, which the caller closes."""
        descriptor = self._memory_files.growing if "arrived" in self._order else self._memory_files.descriptor
        return {name: descriptor(item) for name, item in self._order["material"].items()}

    def _of_rank(self) -> tuple[int | None, dict[str, str], list[int]]:
        """Network namespace, more variables and descriptors of the process; one rank alone has none (`agent.rank_process`)."""
        return None, {}, []

    def _begin(self) -> Begin:
        return {"order": self._order, "descriptors": self._material_fds}

    def _rank_claims(self) -> dict[str, Json]:
        """What the evidence says of other ranks."""
        return {}

    def _on_process_end(self, status: int) -> None:
        """The process is gone; its exit is about to be signed."""

    def _spool_failed(self, body: dict[str, Json]) -> None:
        self._spool.append(self._leg_id, "failed", body)

    def _take_in(self, ours: PeerCredentialSocket, kind: str, body: dict[str, Json], payload: bytearray) -> None:
        handlers: dict[str, Callable[[], object]] = {
            "ready": lambda: self._on_ready(ours, body),
            "attest": lambda: self._on_attest(ours, body),
            "more": lambda: self._on_more(ours, body),
            "memory": lambda: self._scan.attach(ours, body, pid=self.leg_pid),
            "scan": lambda: self._on_scan(ours, body),
            "resident": lambda: self._send(ours, *self._turns.on_turn(kind, body)),
            "turn-done": lambda: self._send(ours, *self._turns.on_turn(kind, body)),
            "warm": lambda: self._send(ours, *self._turns.on_warm()),
            "repeated": lambda: self._send(ours, *self._turns.on_repeated(body)),
            "drain": lambda: self._on_drain(ours),
            "clock-read": self._on_clock_read,
            "images": lambda: self._spool.append(
                self._leg_id, "images", {**self._code.measure_again(check_typed(body, LoadedFiles, "images"))}
            ),
            "export": lambda: self._on_export(body, payload),
        }
        if kind in _FORWARDED:
            self._forward(kind, body)
        elif kind in handlers:
            handlers[kind]()
        else:
            raise ProtocolError(f"expected a known message type from the leg; saw {kind!r}")

    def _forward(self, kind: str, body: dict[str, Json]) -> None:
        check_event(kind, body)
        if kind == "failed":
            self._spool_failed(body)
        else:
            self._spool.append(self._leg_id, kind, body)
        self._stretches.note(kind, body)
        if kind in ("head", "callback"):
            # A raw leg has no head; its exit is bound to the callback.
            self._head = str(body["head"]) if kind == "head" else canonical(body).decode()
        if kind == "callback":
            self._gpu.record_in_use(self.leg_pid)

    def _on_drain(self, ours: PeerCredentialSocket) -> None:
        """Every earlier message is in the spool: this thread handles one after the other."""
        if not self._stretches.timing:
            self._marks.cross()
        self._stretches.drained()
        self._send(ours, "drained", {})

    def _on_clock_read(self) -> None:
        self._stretches.clock_read()
        if not self._stretches.timing:
            self._marks.cross()

    def _on_export(self, body: dict[str, Json], payload: bytearray) -> None:
        export = check_typed(body, Export, "export")
        name, total = export["name"], export["total"]
        if name != "adapter" or total > self._most_export:
            raise ProtocolError(f"expected an adapter of at most {self._most_export} bytes from the leg; saw {total}")
        self._memory_files.write(f"{self._leg_id}-{name}", offset=export["offset"], total=total, piece=payload)

    def _on_ready(self, ours: PeerCredentialSocket, body: dict[str, Json]) -> None:
        self._ready = check_typed(body, Ready, "ready")
        self._components.update(self._code.measure(self._ready["images"]))
        self._spool.append(self._leg_id, "challenge-wanted", {})
        _, answer = self._answers.expect("challenge")
        challenge = check_typed(answer, ChallengeAnswer, "challenge")
        self._challenge, self._challenged_ns = challenge, time.monotonic_ns()
        passed: LegChallenge = {
            "nonce": challenge["nonce"],
            "policy": challenge["policy"],
            "plan": challenge["plan"],
            "composite": evidence.composite(self._components),
        }
        self._send(ours, "challenge", passed)

    def _on_attest(self, ours: PeerCredentialSocket, body: dict[str, Json]) -> None:
        ready, challenge, attest = self._ready, self._challenge, check_typed(body, Attest, "attest")
        if ready is None or challenge is None:
            raise ProtocolError("expected the leg to attest after its challenge")
        elapsed_s = (time.monotonic_ns() - self._challenged_ns) // 1_000_000_000
        token, beside = sign_evidence(
            challenge, ready, key=self._key, components=self._components, container=self._container, head=attest["head"],
            iat=challenge["issued_at"] + elapsed_s, more=self._rank_claims(),
        )  # fmt: skip
        self._spool.append(self._leg_id, "evidence", {"evidence": token, "log": [*attest["log"]], **beside})
        self._send(ours, *self._answers.expect("release", "refusal"))

    def _on_more(self, ours: PeerCredentialSocket, body: dict[str, Json]) -> None:
        """The leg needs more of its package: the host puts it, and says how much is there then."""
        check_event("more", body)
        self._spool.append(self._leg_id, "more", body)
        self._send(ours, *self._answers.expect("more"))

    def _on_scan(self, ours: PeerCredentialSocket, body: dict[str, Json]) -> None:
        """Scan the leg's memory while the leg waits; start and end are events, so that the time it took is known."""
        stage = check_typed(body.get("stage"), str, "scan.stage")
        self._spool.append(self._leg_id, f"scan-{stage}", {})
        if stage == "trained":
            self._gpu.record_in_use(self.leg_pid)
        self._scan.scan_stage(stage, body)
        if stage == "wiped" and self._launcher is not None:
            self._scan.search_launcher(self._launcher)
        give_back_freed()
        self._spool.append(self._leg_id, f"scanned-{stage}", {})
        self._send(ours, "scanned", {})

    def _send(self, ours: PeerCredentialSocket, kind: str, body: Mapping[str, object]) -> None:
        frames.send(ours, {"type": kind, "body": body}, deadline=time.monotonic() + _FRAME_S)

    def _observe_end(self) -> None:
        forked, status, gone = self._forked, -1, True
        if forked is not None:
            forked.kill()
            # A tracer can keep a dead process in the process table: the exit then records it; nothing waits for it.
            with contextlib.suppress(TimeoutError):
                status = forked.wait(_END_S)
            gone = no_process_left(forked.pid)
            forked.close()
            self._gpu.await_release(self.leg_pid, killed=self._killed)
        self._on_process_end(status)
        entries = sum(len(files) + len(folders) for _, folders, files in os.walk(self._workspace))
        shutil.rmtree(self._workspace, ignore_errors=True)
        kind, nonce = self._order["kind"], self._order["nonce"]
        if kind == "protected":
            nonce = "" if self._challenge is None else self._challenge["nonce"]
        self._marks.write(self._key)
        stretches = tokens.sign(self._stretches.claims(nonce), key=self._key, typ=evidence.TYP_STRETCHES)
        self._spool.append(self._leg_id, "stretches", {"stretches": stretches})
        scan = self._scan.claims() if kind == "protected" else {"status": "unseen", "reason": "a raw leg is not scanned"}
        claims = evidence.exit_claims(
            nonce=nonce, head_token=self._head or "", process_gone=gone, exit_status=status, workspace_entries=entries,
            gpu=self._gpu.claims(), scan=scan, images=self._code.comparison,
        )  # fmt: skip
        self._scan.close()
        token = tokens.sign(claims, key=self._key, typ=evidence.TYP_EXIT)
        self._spool.append(self._leg_id, "exit", {"exit": token, "exit_status": status})
        self._ended.set()
        self._turns.ended()
