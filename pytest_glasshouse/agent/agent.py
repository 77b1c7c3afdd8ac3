"""The guest agent: the guest's one long-lived process. The host calls it; the agent opens no connection.

It brings base models, holds material in memory, starts legs, signs evidence and exits with a key it made at boot, and
keeps the spool. It holds no data key, plays no faults and judges nothing.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pytest_glasshouse.agent.base_models import Models
from pytest_glasshouse.agent.bytecode_cache import BytecodeCache
from pytest_glasshouse.agent.covariate_sampler import SamplerProcess
from pytest_glasshouse.agent.gpu_memory import GpuMemory
from pytest_glasshouse.agent.idempotency import AgentReply, ReplyCache
from pytest_glasshouse.agent.installed_code import Baseline
from pytest_glasshouse.agent.launchers import Launchers
from pytest_glasshouse.agent.leg_process import LegProcess
from pytest_glasshouse.agent.memory_files import MemoryFiles, sealed_copy
from pytest_glasshouse.agent.memory_left import available_bytes
from pytest_glasshouse.agent.rank_group import RankGroup, group_of
from pytest_glasshouse.agent.rank_process import RankProcess
from pytest_glasshouse.agent.spool import Spool
from pytest_glasshouse.agent.turn_scheduler import TurnScheduler
from pytest_glasshouse.errors import GlasshouseError, ProtocolError
from pytest_glasshouse.guest import machine
from pytest_glasshouse.guest.nvml import Gpu, Nvml
from pytest_glasshouse.guest.torch_probe import TorchAnswer, ask_torch, device_variables
from pytest_glasshouse.wire import evidence, frames, tokens
from pytest_glasshouse.wire.canonical import sha256_hex
from pytest_glasshouse.wire.foreign_text import foreign_text
from pytest_glasshouse.wire.guest_messages import DETAIL
from pytest_glasshouse.wire.host_messages import (
    AnswerRequest,
    ConductRequest,
    GetRequest,
    LayRequest,
    LegOrder,
    ModelRequest,
    PullRequest,
    PutRequest,
    StartRequest,
)
from pytest_glasshouse.wire.leg_messages import rank_id
from pytest_glasshouse.wire.package import is_confidential
from pytest_glasshouse.wire.printable import printable
from pytest_glasshouse.wire.typed import check_typed
from pytest_glasshouse.workloads.base import GUEST_ENVIRONMENT

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_glasshouse.wire.canonical import Json

_LONGEST_PULL_S = 10.0
#: How long a killed leg may take to leave its exit: less than the host waits for the answer (`legs.leg_watch`).
_KILL_S = 4.0


class Agent:
    """Serves the host's requests `{op, ...}`; each method `on_<op>` is one of them."""

    def __init__(
        self, *, archive: bytes, directory: Path, allocation: str, site_packages: list[str], contact: Path | None = None
    ) -> None:
        """`archive` holds the running code. The time of the file `contact` gives the pod's watchdog the host's last request."""
        self._directory = directory
        self._contact = contact
        self._replies = ReplyCache()
        self._allocation = allocation
        self._site_packages = site_packages
        self._key = Ed25519PrivateKey.generate()
        self._nonce = secrets.token_hex(16)
        self._archive_sha256 = sha256_hex(archive)
        self._archive_fd = sealed_copy("glasshouse-guest", archive)
        self._nvml = Nvml()
        # Asking torch takes seconds, meanwhile the agent listens: its first answer waits for it.
        self._found = ThreadPoolExecutor(1, "device").submit(self._find_device)
        self._baseline = Baseline(site_packages)
        self._bytecode = BytecodeCache(
            directory / "bytecode",
            archive_fd=self._archive_fd,
            site_packages=site_packages,
            environment={
                **GUEST_ENVIRONMENT,
                "PATH": "/usr/bin:/bin",
                "LANG": "C.UTF-8",
                "TMPDIR": str(directory),
                **device_variables(os.environ),
            },
        )
        self._launchers = Launchers(
            directory / "legs",
            archive_fd=self._archive_fd,
            site_packages=site_packages,
            baseline=self._baseline,
            bytecode=self._bytecode,
        )
        self._covariates = SamplerProcess(archive_fd=self._archive_fd, site_packages=site_packages)
        self._spool = Spool(directory / "spool.jsonl")
        self._memory_files = MemoryFiles()
        self._models = Models(directory / "models", archive_fd=self._archive_fd, site_packages=site_packages)
        self._models.device_memory = self._device_memory
        self._legs: dict[str, LegProcess] = {}
        self._schedulers: dict[str, TurnScheduler] = {}
        self._ops: dict[str, Callable[[dict[str, Json], bytearray], AgentReply]] = {
            name.removeprefix("on_"): getattr(self, name) for name in dir(self) if name.startswith("on_")
        }

    def _find_device(self) -> machine.Device:
        def ask() -> TorchAnswer:
            return ask_torch(archive_fd=self._archive_fd, site_packages=self._site_packages, environ=os.environ)

        return machine.find_device(self._nvml, ask, os.environ)

    @cached_property
    def _machine(self) -> dict[str, Json]:
        return machine.describe(self._found.result())

    def _gpu_of(self, rank: int, order: LegOrder) -> machine.RankGpu | None:
        """The GPU of a rank of several; None on the CPU."""
        if order["plan"]["device"] != "cuda":
            return None
        return machine.rank_gpu(rank, self._nvml.gpus(), os.environ)

    def _gpu_memory(self, own: machine.RankGpu | None = None) -> GpuMemory:
        device = self._found.result()
        index = device.nvml_index if own is None else own.nvml_index
        gpu = None if index is None else Gpu(self._nvml, index)
        return GpuMemory(gpu, reason=device.no_gpu or self._nvml.reason or "NVML shows no GPU that is torch's")

    def _device_memory(self) -> int:
        """How much memory the device has that legs train on, in bytes; what is left of it where that is this machine's."""
        index = self._found.result().nvml_index
        on_gpu = None if index is None else Gpu(self._nvml, index).memory_bytes().value
        return available_bytes() if on_gpu is None else on_gpu

    def handle(self, request: dict[str, Json], payload: bytearray) -> AgentReply:
        """The reply to one request, which is carried out once however often it arrives; an error is a reply, too."""
        if self._contact is not None:
            with contextlib.suppress(OSError):
                os.utime(self._contact)
        try:
            return self._replies.answer(request, lambda: self._handle(request, payload))
        except ProtocolError as error:
            return {"error": "ProtocolError", "detail": printable(error, limit=DETAIL)}, b""

    def _handle(self, request: dict[str, Json], payload: bytearray) -> AgentReply:
        op = request.get("op")
        if not isinstance(op, str) or op not in self._ops:
            return {"error": "ProtocolError", "detail": f"no operation {printable(op, limit=40)}"}, b""
        try:
            return self._ops[op](request, payload)
        except (GlasshouseError, LookupError, TypeError, ValueError, OSError, AttributeError, ArithmeticError) as error:
            return {"error": type(error).__name__, "detail": foreign_text(error, limit=DETAIL)}, b""

    def on_hello(self, _request: dict[str, Json], _payload: bytearray) -> AgentReply:
        """Identify this guest: machine, boot, agent nonce, attestation key, archive."""
        return {
            **self._machine,
            "allocation": self._allocation,
            "agentNonce": self._nonce,
            "ak": tokens.public_text(self._key.public_key()),
            "archiveSha256": self._archive_sha256,
        }, b""

    def on_enrol(self, request: dict[str, Json], _payload: bytearray) -> AgentReply:
        """Prove possession of the attestation key for one grant."""
        proof = evidence.prove_enrolment(check_typed(request.get("grant"), str, "enrol.grant"), key=self._key)
        return {"ak": tokens.public_text(self._key.public_key()), "proof": proof}, b""

    def on_lay(self, request: dict[str, Json], payload: bytearray) -> AgentReply:
        """Write one piece of a public file of a base model that is pushed."""
        self._models.write(check_typed(request, LayRequest, "lay"), payload)
        return {}, b""

    def on_model(self, request: dict[str, Json], _payload: bytearray) -> AgentReply:
        """Start to bring a base model here; `arrival` says how far it is."""
        self._models.begin(check_typed(request, ModelRequest, "model"))
        return {}, b""

    def on_arrival(self, request: dict[str, Json], _payload: bytearray) -> AgentReply:
        """How far a base model is; with `stop`, it is given up unless it is ready."""
        model = check_typed(request.get("model"), str, "arrival.model")
        if request.get("stop") is True:
            self._models.stop(model)
        return self._models.state(model), b""

    def on_put(self, request: dict[str, Json], payload: bytearray) -> AgentReply:
        """Hold one piece of material in memory."""
        put = check_typed(request, PutRequest, "put")
        self._memory_files.write(put["name"], offset=put["offset"], total=put["total"], piece=payload)
        return {}, b""

    def on_get(self, request: dict[str, Json], _payload: bytearray) -> AgentReply:
        """One piece of an item that a leg exported."""
        get = check_typed(request, GetRequest, "get")
        data, total = self._memory_files.read(get["name"], offset=get["offset"], size=frames.CHUNK)
        return {"total": total}, data

    def on_drop(self, request: dict[str, Json], _payload: bytearray) -> AgentReply:
        """Close one item."""
        self._memory_files.drop(check_typed(request.get("name"), str, "drop.name"))
        return {}, b""

    def on_start(self, request: dict[str, Json], _payload: bytearray) -> AgentReply:
        """Start one leg; a leg's id is used once. `round` names its interleaved round, `role` its role there."""
        start = check_typed(request, StartRequest, "start")
        leg_id, order, role = start["leg"], start["order"], start.get("role", "")
        if leg_id in self._legs:
            raise ProtocolError(f"start: expected a new leg id; saw {leg_id} again")
        scheduler = self._schedulers[start["round"]] if "round" in start else None
        if any(not leg.ended and (scheduler is None or leg.scheduler is not scheduler) for leg in self._legs.values()):
            raise ProtocolError("start: expected no running leg outside this round; saw one")
        if order["kind"] == "raw" and (parts := sorted(filter(is_confidential, order["material"]))):
            raise ProtocolError(f"start: expected no confidential part for a raw leg; saw {printable(parts[0], limit=80)}")
        base = order["plan"]["base"]
        if base is not None:
            order["plan"]["base"] = self._models.plan(base["sha256"])
        group = group_of(order)
        ranks = [self._rank(leg_id, order, rank, group, scheduler, role) for rank in range(group.size if group else 1)]
        leg = ranks[0]
        if scheduler is not None:
            scheduler.add_leg(role, leg)
        self._legs[leg_id] = leg
        cursor = self._spool.cursor
        for process in ranks:
            process.start()
        meeting: Any = {} if group is None or group.network.meeting is None else {"meeting": {**group.network.meeting}}
        return {"cursor": cursor, **meeting}, b""

    def _rank(
        self, leg_id: str, order: LegOrder, rank: int, group: RankGroup | None, scheduler: TurnScheduler | None, role: str
    ) -> LegProcess:
        """One rank of a leg, ready to be started; without a group, the only one."""
        own = None if group is None else self._gpu_of(rank, order)
        of_group: dict[str, Any] = {} if group is None else {"rank": rank, "group": group, "own_gpu": own}
        components = self._components()
        if own is not None and own.nvml_index is not None:
            components["gpu-uuid"] = sha256_hex(str(Gpu(self._nvml, own.nvml_index).uuid().value).encode())
        process = LegProcess if group is None else RankProcess
        return process(
            **of_group,
            leg_id=rank_id(leg_id, rank),
            order=order,
            workspace=self._directory / "legs" / rank_id(leg_id, rank),
            components=components,
            baseline=self._baseline,
            bytecode=self._bytecode,
            container=self._allocation,
            launchers=self._launchers,
            gpu=self._gpu_memory(own),
            key=self._key,
            memory_files=self._memory_files,
            spool=self._spool,
            scheduler=scheduler if rank == 0 else None,
            role=role,
        )

    def on_conduct(self, request: dict[str, Json], _payload: bytearray) -> AgentReply:
        """Prepare an interleaved round: its legs in the order of their start, and the leg of each turn."""
        conduct = check_typed(request, ConductRequest, "conduct")
        name = conduct["round"]
        if name in self._schedulers:
            raise ProtocolError(f"conduct: expected a new round; saw {name} again")
        scheduler = TurnScheduler(
            name=name,
            nonce=conduct["nonce"],
            roles=conduct["roles"],
            turns=conduct["turns"],
            key=self._key,
            spool=self._spool,
            witness=conduct.get("witness"),
        )
        self._schedulers[name] = scheduler
        self._covariates.begin(self._found.result())
        cursor = self._spool.cursor
        scheduler.start()
        return {"cursor": cursor}, b""

    def on_covariates(self, request: dict[str, Json], _payload: bytearray) -> AgentReply:
        """Samples since a time on the guest's monotonic clock."""
        return self._covariates.since(check_typed(request.get("since_ns"), int, "covariates.since_ns")), b""

    def on_dismiss(self, request: dict[str, Json], _payload: bytearray) -> AgentReply:
        """No more legs will start in an interleaved round: those that wait finish."""
        self._schedulers[check_typed(request.get("round"), str, "dismiss.round")].dismiss()
        return {}, b""

    def on_answer(self, request: dict[str, Json], _payload: bytearray) -> AgentReply:
        """Relay the server's answer to a leg, or to the turns of a round."""
        answer = check_typed(request, AnswerRequest, "answer")
        asked = self._schedulers.get(answer["leg"]) or self._leg(answer["leg"])
        asked.answer(answer["kind"], answer["body"])
        return {}, b""

    def on_kill(self, request: dict[str, Json], _payload: bytearray) -> AgentReply:
        """End a leg at once; it has ended when this is answered."""
        leg_id = check_typed(request.get("leg"), str, "kill.leg")
        leg = self._leg(leg_id)
        stopped: list[Json] = [*leg.stopped()]
        leg.kill()
        if not leg.wait(_KILL_S):
            raise ProtocolError(f"kill: expected leg {leg_id!r} to end within {_KILL_S:g} s; it still runs")
        return {"stopped": stopped} if stopped else {}, b""

    def on_pull(self, request: dict[str, Json], _payload: bytearray) -> AgentReply:
        """Spooled events from a cursor on; waits a little for the next one."""
        pull = check_typed(request, PullRequest, "pull")
        events = self._spool.since(pull["cursor"], wait_s=min(pull["wait_ms"] / 1000, _LONGEST_PULL_S))
        return {"events": [*events]}, b""

    def on_shutdown(self, _request: dict[str, Json], _payload: bytearray) -> AgentReply:
        """Zeroize at once: kill every leg, remove the legs' files, and signal the pod's watchdog to end the instance."""
        self._models.stop_all()
        for leg in self._legs.values():
            leg.kill()
        shutil.rmtree(self._directory / "legs", ignore_errors=True)
        if self._contact is not None:
            self._contact.with_name("shutdown").touch()
        return {}, b""

    def end(self) -> None:
        """Kill every leg and remove every file that this guest wrote."""
        self._bytecode.end()
        self._models.end()
        for leg in self._legs.values():
            leg.kill()
        for leg in self._legs.values():
            leg.join(timeout=5)
        self._launchers.end()
        self._covariates.end()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _leg(self, leg_id: str) -> LegProcess:
        leg = self._legs.get(leg_id)
        if leg is None:
            raise ProtocolError(f"expected the id of a started leg; saw {leg_id!r}")
        return leg

    def _components(self) -> dict[str, str]:
        digests = {name: sha256_hex(str(value).encode()) for name, value in self._machine.items()}
        return {
            "archive": self._archive_sha256,
            "interpreter": machine.interpreter_sha256(),
            "packages": self._baseline.packages,
            "stdlib": self._baseline.stdlib,
            "python": digests["python"],
            "kernel": digests["kernel"],
            "torch": digests["torch"],
            "transformers": digests["transformers"],
            "peft": digests["peft"],
            "driver": digests["driver"],
            "gpu-model": digests["gpuModel"],
            "gpu-uuid": digests["gpuUuid"],
        }
