"""The agent's side of one leg: start it, listen on its socketpair, see it end, sign what was seen.

The agent is the attesting environment: the measurements in the evidence are its own, the leg only names its two
ephemeral keys, and only the process that was forked for it can name them. One thread per leg forks it, serves it and waits
for it, so the leg dies with that thread.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import queue
import resource
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, cast

from pytest_glasshouse.agent import hardware_evidence as sources
from pytest_glasshouse.agent.bytecode_cache import ByteCode
from pytest_glasshouse.agent.gpu_memory import GpuMemory
from pytest_glasshouse.agent.installed_code import Baseline, Images
from pytest_glasshouse.agent.leg_scan import LegScan
from pytest_glasshouse.agent.page_cache import warmed
from pytest_glasshouse.agent.peer_credentials import Witnessed, is_child
from pytest_glasshouse.errors import ProtocolError, RefusedError
from pytest_glasshouse.guest.memory import STRICT_ENVIRONMENT
from pytest_glasshouse.wire import evidence, frames, tokens
from pytest_glasshouse.wire.canonical import canonical
from pytest_glasshouse.wire.guest_messages import check_event, failure
from pytest_glasshouse.wire.printable import printable
from pytest_glasshouse.workloads.base import GUEST_ENVIRONMENT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from pytest_glasshouse.agent.memory_files import Store
    from pytest_glasshouse.agent.spool import Spool
    from pytest_glasshouse.agent.turn_scheduler import Conductor
    from pytest_glasshouse.wire.canonical import Json

#: Forwarded to the spool as they come; everything else a leg says is handled below.
_PASSED_ON = ("journal", "progress", "started", "callback", "failed")


#: How long a leg that has said its last may take to be gone.
_END_S = 10.0
#: A message that has begun is here, or taken, within this; so is the launcher's word of which process it forked.
_FRAME_S = 60.0
#: How long the host may take to bring the server's answer: longer than it waits for a server itself.
_ANSWER_S = 1800.0
_PID_DIGITS = 20
#: What stands around the weights of an adapter, sealed or not.
_HEADERS = 1 << 20
#: More changed names than this say nothing more, and the exit they stand in has to be short.
_MOST_CHANGED = 64


class LegRun(threading.Thread):
    """One leg, from fork to signed exit."""

    def __init__(
        self,
        *,
        leg_id: str,
        order: Mapping[str, Json],
        workspace: Path,
        archive_fd: int,
        components: Mapping[str, str],
        baseline: Baseline,
        bytecode: ByteCode,
        container: str,
        site_packages: list[str],
        key: Ed25519PrivateKey,
        store: Store,
        spool: Spool,
        conductor: Conductor | None = None,
        role: str = "",
    ) -> None:
        super().__init__(name=f"leg-{leg_id}", daemon=True)
        self.conductor = conductor
        self._role = role
        self._commands: queue.Queue[tuple[str, int]] = queue.Queue()
        self._leg_id = leg_id
        self._order = order
        self._workspace = workspace
        self._archive_fd = archive_fd
        self._components = dict(components)
        self._baseline = baseline
        self._bytecode = bytecode
        self._images: Images | None = None
        self._later: dict[str, Json] = {"status": "unseen", "reason": "the leg did not complete its training"}
        self._container = container
        self._site_packages = site_packages
        self._key = key
        self._store = store
        self._spool = spool
        self._answers: queue.Queue[tuple[str, dict[str, Json]]] = queue.Queue()
        self._process: subprocess.Popen[bytes] | None = None
        self._leg_pid = 0
        #: An adapter is the initial weights, trained: what comes out is bounded by what went in.
        self._most_export = _HEADERS
        self._head: str | None = None
        self._ready: dict[str, Json] = {}
        self._challenge: dict[str, Json] = {}
        self._challenged_ns = 0
        self._scan = LegScan()
        self._gpu = GpuMemory()
        self._ended = threading.Event()
        self._killed = False

    def answer(self, kind: str, body: dict[str, Json]) -> None:
        """Hand the leg what the server said, as the host relayed it."""
        self._answers.put((kind, body))

    def command(self, kind: str, turn: int) -> None:
        """Give the leg its turn, or tell it that there are no more; its own thread passes it on."""
        self._commands.put((kind, turn))

    @property
    def process_group(self) -> int:
        """The launcher's process id; everything the leg starts is in its session or below it."""
        return 0 if self._process is None else self._process.pid

    @property
    def thread(self) -> int:
        """The identifier of this thread, which works for this leg and for no other."""
        return self.ident or 0

    def kill(self) -> None:
        """End the leg at once, also one that is just being started; its exit is still observed and signed."""
        self._killed = True
        self._answers.put(("ended", {}))
        self._commands.put(("ended", 0))
        process = self._process
        if process is not None and process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    @property
    def ended(self) -> bool:
        """Whether the exit is in the spool."""
        return self._ended.is_set()

    def wait(self, timeout_s: float) -> bool:
        """Wait until it has ended; whether it has."""
        return self._ended.wait(timeout_s)

    def run(self) -> None:
        """The thread's body: nothing that goes wrong here is silent, the exit event is always written."""
        end, theirs = socket.socketpair()
        ours = Witnessed(end)
        try:
            self._workspace.mkdir(parents=True)
            self._bytecode.build(cast("str", cast("dict[str, Json]", self._order["plan"])["workload"]))
            process = self._start(theirs)
            theirs.close()
            self._serve(ours, process)
        except Exception as error:  # noqa: BLE001  (what a leg says must not end its agent's thread without an exit)
            self._spool.append(self._leg_id, "failed", failure(error))
        finally:
            ours.close()
            theirs.close()
            self._observe_end()

    def _start(self, theirs: socket.socket) -> subprocess.Popen[bytes]:
        cache = warmed(cast("str | None", cast("dict[str, Json]", self._order["plan"])["base_directory"]))
        material = {name: self._store.descriptor(cast("str", item)) for name, item in self._material().items()}
        self._most_export = _HEADERS + 4 * sum(os.fstat(fd).st_size for fd in material.values())
        reading, writing = os.pipe()
        passed = (theirs.fileno(), self._archive_fd, writing, *material.values())
        # -B: a leg never writes byte code, so the cache stays what was measured.
        command = [sys.executable, "-I", "-S", "-B", "-X", "utf8", *self._bytecode.option(), self._archive, "leg"]
        command += ["--control", str(theirs.fileno()), "--tell-pid", str(writing)]
        for directory in self._site_packages:
            command += ["--site-packages", directory]
        self._material_fds = material
        self._process = subprocess.Popen(  # noqa: S603
            command,
            cwd=self._workspace,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=passed,
            start_new_session=True,
        )
        resource.prlimit(self._process.pid, resource.RLIMIT_CORE, (0, 0))
        os.close(writing)
        self._spool.append(self._leg_id, "spawned", {"kind": self._order["kind"], "cache": cache})
        for fd in material.values():
            os.close(fd)
        # The launcher names the child it forked; it says nothing when it could not.
        with os.fdopen(reading, "rb", buffering=0) as told:
            named = told.read(_PID_DIGITS) if select.select([told], [], [], _FRAME_S)[0] else b""
        self._leg_pid = int(named or self._process.pid)
        if named and not is_child(self._leg_pid, self._process.pid):
            raise RefusedError("sender", "the launcher named a process that it did not fork, or that is gone")
        return self._process

    def _serve(self, ours: Witnessed, process: subprocess.Popen[bytes]) -> None:
        if self._killed:
            raise ProtocolError("the leg was ended before it began")
        # From here on what is not said by the leg itself ends it.
        ours.pid = self._leg_pid
        order: dict[str, Json] = {**self._order, "material": dict(self._material_fds)}
        self._tell(ours, "begin", order)
        while (received := frames.receive(ours, rest_s=_FRAME_S)) is not None:
            message, payload = received
            kind, body = message.get("type"), message.get("body")
            if not isinstance(body, dict):
                raise ProtocolError(f"a leg's message has an object body; saw {type(body).__name__}")
            self._take(ours, str(kind), body, payload)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_S)

    def _take(self, ours: Witnessed, kind: str, body: dict[str, Json], payload: bytearray) -> None:
        if kind in (*_PASSED_ON, "head", "resident"):
            check_event(kind, body)
        if kind in _PASSED_ON:
            self._spool.append(self._leg_id, kind, body)
            if kind == "callback":
                # What a raw leg leaves in place of a head: its exit is bound to it.
                self._head = canonical(body).decode()
                self._gpu.look("before", self._leg_pid)
        elif kind == "export":
            self._on_export(body, payload)
        elif kind == "head":
            self._head = cast("str", body["head"])
            self._spool.append(self._leg_id, "head", body)
        elif kind in ("resident", "turn-done"):
            self._on_turn(ours, kind, body)
        elif kind == "drain":
            # Everything the leg said before is in the spool: this thread takes one message after the other.
            self._tell(ours, "drained", {})
        elif kind in ("memory", "scan"):
            self._on_memory(ours, kind, body, self._leg_pid)
        elif kind in ("ready", "attest", "images"):
            {"ready": self._on_ready, "attest": self._on_attest, "images": self._on_images}[kind](ours, body)
        else:
            raise ProtocolError(f"a leg says nothing of type {kind!r}")

    def _on_export(self, body: dict[str, Json], payload: bytearray) -> None:
        name, total = f"{self._leg_id}-{body['name']}", cast("int", body["total"])
        if body["name"] != "adapter" or total > self._most_export:
            raise ProtocolError(f"a leg exports its adapter, of at most {self._most_export} bytes; saw {total}")
        self._store.write(name, offset=cast("int", body["offset"]), total=total, piece=payload)

    def _on_turn(self, ours: Witnessed, kind: str, body: dict[str, Json]) -> None:
        """The leg waits: for the conductor of its round, on this thread, which has nothing else to do."""
        if self.conductor is None:
            raise ProtocolError("a leg that trains alone has no turns")
        if kind == "resident":
            self._spool.append(self._leg_id, "resident", body)
        self.conductor.arrived(self._role)
        command, turn = self._commands.get()
        if command == "ended":
            raise ProtocolError("the leg was ended while it waited for its turn")
        self._tell(ours, command, {"turn": turn})

    def _on_ready(self, ours: Witnessed, body: dict[str, Json]) -> None:
        self._ready = body
        self._images = self._look(body["images"])
        self._components.update(self._images.components, bytecode=self._bytecode.digest)
        self._spool.append(self._leg_id, "challenge-wanted", {})
        kind, challenge = self._answer()
        if kind != "challenge":
            raise ProtocolError(f"expected the challenge; saw {kind!r}")
        self._challenge, self._challenged_ns = challenge, time.monotonic_ns()
        composite = evidence.composite(self._components)
        told: dict[str, Json] = {name: challenge[name] for name in ("nonce", "policy", "plan")}
        self._tell(ours, "challenge", {**told, "composite": composite})

    def _look(self, told: Json) -> Images:
        images = self._baseline.account(cast("dict[str, Json]", told), archive=self._archive)
        if self._bytecode.intact():
            return images
        return dataclasses.replace(images, foreign=(*images.foreign, "byte-code cache: not as built"))

    def _on_images(self, _ours: Witnessed, body: dict[str, Json]) -> None:
        """The second look, when training is over: what was measured is still what ran, and nothing foreign came later."""
        now, then = self._look(body), self._images
        self._spool.append(self._leg_id, "images", {**now.components, "bytecode": self._bytecode.digest})
        if then is None:
            return
        changed = [*now.foreign, *(name for name, digest in then.files.items() if now.files.get(name, digest) != digest)]
        changed += [Path(path).name for path, digest in now.system.items() if then.system.get(path) != digest]
        late = len(now.files.keys() - then.files.keys())
        status = "changed" if changed or now.hooks != then.hooks else "unchanged"
        self._later = {"status": status, "late": late, "changed": [printable(name) for name in sorted(changed)[:_MOST_CHANGED]]}

    def _on_attest(self, ours: Witnessed, body: dict[str, Json]) -> None:
        challenge = self._challenge
        elapsed_s = (time.monotonic_ns() - self._challenged_ns) // 1_000_000_000
        cnf = evidence.read_cnf(self._ready["cnf"])
        claims = evidence.evidence_claims(
            ak=self._key.public_key(),
            sub=cast("str", challenge["sub"]),
            aud=cast("str", challenge["aud"]),
            iat=cast("int", challenge["issued_at"]) + elapsed_s,
            jti=secrets.token_hex(16),
            nonce=cast("str", challenge["nonce"]),
            policy=cast("str", challenge["policy"]),
            plan=cast("str", challenge["plan"]),
            hpke=cnf.hpke,
            sig=cnf.sig,
            components=self._components,
            manifest=cast("str", challenge["manifest"]),
            manifest_version=cast("int", challenge["manifest_version"]),
            container=self._container,
            observed=cast("dict[str, Json]", self._ready["antidebug"]),
            memory=cast("dict[str, Json]", self._ready["memory"]),
            state_head=cast("str", body["head"]),
        )
        claims.update(sources.submods(challenge.get("hardware"), nonce=str(challenge["nonce"]), cnf=cnf))
        token = tokens.sign(claims, key=self._key, typ=evidence.TYP_EVIDENCE)
        self._spool.append(self._leg_id, "evidence", {"evidence": token, "log": body["log"]})
        kind, answer = self._answer()
        if kind not in ("release", "refusal"):
            raise ProtocolError(f"expected the server's answer; saw {kind!r}")
        self._tell(ours, kind, answer)

    def _on_memory(self, ours: Witnessed, kind: str, body: dict[str, Json], pid: int) -> None:
        """Take the leg's memory, or look at it while the leg waits: both ends of a look are events, so its time is known."""
        if kind == "memory":
            self._scan.attach(ours, body, pid=pid)
            return
        stage = cast("str", body["stage"])
        self._spool.append(self._leg_id, f"scan-{stage}", {})
        if stage == "trained":
            self._gpu.look("before", pid)
        self._scan.look(stage, body)
        self._spool.append(self._leg_id, f"scanned-{stage}", {})
        self._tell(ours, "scanned", {})

    def _tell(self, ours: Witnessed, kind: str, body: dict[str, Json]) -> None:
        frames.send(ours, {"type": kind, "body": body}, deadline=time.monotonic() + _FRAME_S)

    def _answer(self) -> tuple[str, dict[str, Json]]:
        try:
            return self._answers.get(timeout=_ANSWER_S)
        except queue.Empty:
            raise ProtocolError(f"expected the server's answer within {_ANSWER_S:g} s") from None

    def _observe_end(self) -> None:
        process = self._process
        status, gone = -1, True
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            # A tracer can keep a dead process from being gone: that is seen and signed, not waited for.
            with contextlib.suppress(subprocess.TimeoutExpired):
                status = process.wait(_END_S)
            gone = _no_process_left(process.pid)
            self._gpu.look("after", self._leg_pid)
        entries = sum(len(files) + len(folders) for _, folders, files in os.walk(self._workspace))
        shutil.rmtree(self._workspace, ignore_errors=True)
        kind = self._order["kind"]
        nonce = self._challenge.get("nonce", "") if kind == "protected" else self._order["nonce"]
        claims = evidence.exit_claims(
            nonce=str(nonce),
            head_token=self._head or "",
            process_gone=gone,
            exit_status=status,
            workspace_entries=entries,
            gpu=self._gpu.claims(),
            scan=self._scan.claims() if kind == "protected" else {"status": "unseen", "reason": "a raw leg is not scanned"},
            images=self._later,
        )
        self._scan.close()
        token = tokens.sign(claims, key=self._key, typ=evidence.TYP_EXIT)
        self._spool.append(self._leg_id, "exit", {"exit": token, "exit_status": status})
        self._ended.set()
        if self.conductor is not None:
            self.conductor.left(self._role)

    @property
    def _archive(self) -> str:
        return f"/proc/self/fd/{self._archive_fd}"

    def _material(self) -> dict[str, Json]:
        return cast("dict[str, Json]", self._order["material"])

    def _environment(self) -> dict[str, str]:
        own = str(self._workspace)
        return {
            **GUEST_ENVIRONMENT,
            "PATH": "/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "HOME": own,
            "TMPDIR": own,
            # torch makes this directory and names it in the environment: one for both legs, outside the workspace.
            "TORCHINDUCTOR_CACHE_DIR": str(self._workspace.parent / "torchinductor"),
            # Eager binding: the lazy resolver leaves halves of secrets on thread stacks.
            "LD_BIND_NOW": "1",
            **(STRICT_ENVIRONMENT if self._order.get("strict_memory") else {}),
            **{name: os.environ[name] for name in ("CUDA_VISIBLE_DEVICES",) if name in os.environ},
        }


def _no_process_left(group: int) -> bool:
    """Whether the launcher, the leg and whatever they started are gone."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False
