"""The protected leg seen from the host: owner and relay. Numbered as the protocol in the design.

The host seals and grants as the owner, and relays between guest and server. It sees no key that it did not make, and records
every message as it was.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeAlias

from pytest_glasshouse.errors import (
    GlasshouseError,
    GuestGoneError,
    GuestRefusedError,
    InfrastructureError,
    IntegrityError,
    ProtocolError,
    RefusedError,
)
from pytest_glasshouse.legs.allocation_policy import policy_for
from pytest_glasshouse.legs.attempt_marks import AttemptMarks
from pytest_glasshouse.legs.nodes import over_nodes
from pytest_glasshouse.legs.package_sending import PackageSending
from pytest_glasshouse.legs.relay import Relay, session_name
from pytest_glasshouse.legs.round import EXCLUDED, Round, note_figures, note_ranks, protected_notes, why_failed
from pytest_glasshouse.observation.document import Exit, Failure, Keys, LoadedCode, Spawned, Stretches
from pytest_glasshouse.observation.outcome import Ended
from pytest_glasshouse.observation.refusal import refusal_text
from pytest_glasshouse.owner.sealing import sealing
from pytest_glasshouse.wire.canonical import canonical, sha256_hex
from pytest_glasshouse.wire.tensors import tensor_digest
from pytest_glasshouse.wire.tokens import public_text
from pytest_glasshouse.wire.typed import check_typed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pytest_glasshouse.legs.attestation import HostAttestation
    from pytest_glasshouse.legs.leg_watch import LegWatch
    from pytest_glasshouse.observation.document import ProtectedNotes
    from pytest_glasshouse.owner.policy import Policy
    from pytest_glasshouse.owner.sealing import Sealing
    from pytest_glasshouse.rows.leg_order import Role
    from pytest_glasshouse.wire.canonical import Json
    from pytest_glasshouse.wire.host_messages import ProtectedOrder
    from pytest_glasshouse.wire.run_plan import PlannedRow

    #: A package of the round, and the policy that it is registered with.
    RegisteredPackage: TypeAlias = tuple[Sealing, Policy]

#: How long a grant is valid, in seconds, beside the time that sending the package takes at this rate.
_GRANT_S = 3600
_SLOWEST_BYTES_PER_S = 1 << 20


class ProtectedRuntime:
    """Runs protected legs; the `protected_runtime` fixture's object."""

    def __init__(self, host_attestation: HostAttestation, *, policy: Policy | None = None) -> None:
        """`policy` is the owner's policy file, enforced on each allocation beside the host's own requirements."""
        self._host_attestation = host_attestation
        self._policy = policy

    @property
    def keys(self) -> Keys:
        """The public keys that everything this runtime leaves behind is checked with."""
        owner = self._host_attestation.owner
        server = public_text(self._host_attestation.server_key)
        return {"server": server, "owner": owner.public_text, "attestationServer": self._host_attestation.place}

    def run(self, current: Round) -> Ended | None:
        """One whole protected lifecycle. Returns how the row ended if it ended here, else None.

        Over several nodes it is one on each, of one package, whose key is released once to every node's part of the leg.
        """
        if current.others:
            registered: list[RegisteredPackage] = []

            def begin(part: Round) -> ProtectedLeg:
                if not registered:
                    registered.append(self._register_package(part))
                return self._begin(part, registered[0])

            return over_nodes(current.parts, begin, guarded)

        def lifecycle() -> Ended | None:
            begun = self.begin(current)
            lost = current.follow(begun.watch, begun.on_event)
            return begun.finish(lost)

        return guarded(current, lifecycle)

    def vouch(self, current: Round, ak: str) -> str:
        """The owner's signature that this round's agent has the key `ak`."""
        return self._host_attestation.owner.sign_guest_key(
            run=current.run_id,
            row=current.row.row_id,
            round_nonce=current.nonce,
            allocation=current.grant.allocation_id,
            ak=ak,
            plan=current.plan_sha256,
        )

    def marks(self, *, run: str, planned: Sequence[PlannedRow], row: str, attempt: str, plan: str) -> AttemptMarks | None:
        """Register the plan of `run`, its rows, where that is not done yet; what marks the rounds of an attempt at `row`.

        Raises `InfrastructureError` where the server does not take the plan: without it no key is released.
        """
        try:
            self._host_attestation.plan_run(run, planned)
        except RefusedError as error:
            raise InfrastructureError(
                f"the attestation server refused the plan of run {run}: {error.reason}; a run has one plan: select the same rows"
            ) from None
        return AttemptMarks(self._host_attestation, run=run, row=row, attempt=attempt, plan=plan)

    def begin(self, current: Round) -> ProtectedLeg:
        """Steps 1 to 3: the leg is started. The caller follows it, gives its events to it and then calls `finish`.

        Raises `RefusedError` when the server refuses it.
        """
        return self._begin(current, self._register_package(current))

    def _register_package(self, current: Round) -> RegisteredPackage:
        """1. The owner seals a package for this round and registers it with its policy."""
        sealed = self._seal(current)
        policy = policy_for(
            archive_sha256=current.grant.archive_sha256,
            allocation=current.grant.allocation_id,
            completion_s=_completion_s(current),
            gpu=current.row.gpu,
            owner_policy=self._policy,
            nodes=current.row.nodes,
        )
        notes = protected_notes(current.notes)
        _note_package(notes, current, sealed, policy)
        self._register(sealed, policy)
        return sealed, policy

    def _begin(self, current: Round, package: RegisteredPackage) -> ProtectedLeg:
        """Steps 2 and 3, on one node."""
        sealed, policy = package
        notes = protected_notes(current.notes)
        _note_package(notes, current, sealed, policy)

        # 2. The guest is met and enrolled: a grant from the owner, a proof from the agent's key.
        current.meet_guest("protected")
        self._enrol(current, sealed, policy, notes)

        # 3. The sealed package goes over, the leg starts and is followed to its signed exit.
        leg_id = current.leg_id("protected")
        watch = current.watch("protected")
        sending = PackageSending(current, sealed, f"{leg_id}-package")
        sending.send()
        notes["trainingPlan"] = current.training_plan("protected")
        order: ProtectedOrder = {
            "kind": "protected",
            "strict_memory": current.strict_memory,
            "nonce": current.nonce,
            **current.ranks_order("protected"),  # type: ignore[typeddict-item]
            "plan": current.guest_plan("protected"),
            "manifest": sealed.manifest,
            "server_key": public_text(self._host_attestation.server_key),
            "owner_key": self._host_attestation.owner.public_text,
            "material": {"package": f"{leg_id}-package"},
        }
        if sending.sent < sealed.size:
            order["arrived"] = sending.sent
        current.begin("protected", order)
        relay = Relay(self._host_attestation, current, sealed, policy, notes, sending)
        return ProtectedLeg(self._host_attestation, current, sealed=sealed, relay=relay, watch=watch, notes=notes)

    def _seal(self, current: Round) -> Sealing:
        material = current.material
        base = material.base
        workload: dict[str, Json] = {
            "name": current.row.workload,
            "config_sha256": sha256_hex(material.parts["config"]),
            "initial_sha256": material.initial_sha256,
            "base": None
            if base is None
            else {"model_id": base.model_id, "revision": base.revision, "sha256": base.sha256, "stand_in": base.stand_in},
            "facts": material.facts,
        }
        return sealing(
            {**material.parts, **material.sealed},
            owner=self._host_attestation.owner,
            run=current.run_id,
            round_nonce=current.nonce,
            workload=workload,
            confidential=current.confidential,
        )

    def _register(self, sealed: Sealing, policy: Policy) -> None:
        registration = self._host_attestation.owner.register(
            server=self._host_attestation.server_key,
            server_hpke=self._host_attestation.server_hpke,
            manifest=sealed.manifest,
            policy=policy,
            data_key=sealed.data_key,
        )
        self._host_attestation.client.register(registration)

    def _enrol(self, current: Round, sealed: Sealing, policy: Policy, notes: ProtectedNotes) -> None:
        grant = self._host_attestation.owner.grant(
            server=self._host_attestation.server_key,
            run=current.run_id,
            sub=session_name(current),
            package=sealed.manifest_sha256,
            policy_sha256=policy.sha256,
            allocation=current.grant.allocation_id,
            expires=int(time.time()) + _GRANT_S + sealed.size // _SLOWEST_BYTES_PER_S,
            subject=current.subject,
            row=current.row.row_id,
        )
        proved = current.channel.request("enrol", {"grant": grant})
        notes["grant"], notes["ak"], notes["proof"] = grant, str(proved["ak"]), str(proved["proof"])
        self._host_attestation.client.enrol(grant=grant, ak=notes["ak"], proof=notes["proof"])


_ENDED_HERE = "the row ended here; a raw leg after it would compare with nothing"


class ProtectedLeg:
    """A protected leg that was started: its events go to `on_event`, and `finish` is step 4."""

    role: Role = "protected"

    def __init__(
        self,
        host_attestation: HostAttestation,
        current: Round,
        *,
        sealed: Sealing,
        relay: Relay,
        watch: LegWatch,
        notes: ProtectedNotes,
    ) -> None:
        self._host_attestation = host_attestation
        self._current = current
        self._sealed = sealed
        self._relay = relay
        self._notes = notes
        self.watch = watch
        self.on_event = relay.on_event

    def finish(self, lost: Ended | None) -> Ended | None:
        """Step 4, when the leg has ended or its guest was lost. Raises `RefusedError` if the server refused."""
        notes, watch, current = self._notes, self.watch, self._current
        _note_watch(notes, watch)
        note_ranks(notes, watch)
        notes["host"] = current.host_times("protected", watch)
        if lost is not None:
            return lost
        current.channel.request("drop", {"name": f"{current.leg_id('protected')}-package"})
        if self._relay.refused is not None:
            raise self._relay.refused

        # 4. Head and exit are countersigned; the adapter is opened by its owner and digested again.
        self._complete()
        self._open_adapter()
        if (failed := watch.body("failed", Failure)) is not None:
            return Ended(
                outcome="failed",
                reason=f"protected leg failed: {why_failed(failed)}",
                decision=_ENDED_HERE,
            )
        left = watch.body("exit", Exit)
        if "head" not in watch.events and left is not None and left["exit_status"] != 0:
            return Ended(
                outcome="failed",
                reason=f"the protected leg's process ended with status {left['exit_status']} before its journal was complete, "
                "and gave no reason",
                decision=_ENDED_HERE,
            )
        return None

    def _complete(self) -> None:
        notes, relay = self._notes, self._relay
        if not ("head" in notes and "exit" in notes and relay.nonce):
            return
        try:
            answer = self._host_attestation.client.complete(head=notes["head"], exit=notes["exit"], nonce=relay.nonce)
            notes["receipt"] = check_typed(answer.get("receipt"), str, "the server's receipt")
            self._host_attestation.settled(relay.nonce)
        except RefusedError as error:
            notes["completeRefusal"] = {"reason": error.reason}

    def _open_adapter(self) -> None:
        notes, current = self._notes, self._current
        name = f"{current.leg_id('protected')}-adapter"
        try:
            exported = current.channel.fetch(name, limit=current.adapter_limit)
            notes["sealedAdapterSha256"] = sha256_hex(exported)
            adapter = self._host_attestation.owner.open_adapter(
                exported, manifest_sha256=self._sealed.manifest_sha256, nonce=self._relay.nonce
            )
            notes["adapterSha256"] = tensor_digest(adapter)
            note_figures(current, notes, adapter)
            current.channel.request("drop", {"name": name})
        except (GuestRefusedError, IntegrityError):
            # Nothing was exported, or not by this session: the findings follow from what is missing.
            notes["adapterSha256"] = None


def guarded(current: Round, lifecycle: Callable[[], Ended | None]) -> Ended | None:
    """Run a protected lifecycle. A guest that is gone and a server that refuses end the row, and are recorded."""
    try:
        return lifecycle()
    except ProtocolError as error:
        return current.ended_by_protocol(error)
    except GuestGoneError as error:
        return Ended(outcome="excluded", reason=f"protected leg: {error}", decision=EXCLUDED)
    except RefusedError as error:
        return ended_by_refusal(current, error)


def ended_by_refusal(current: Round, refused: RefusedError) -> Ended:
    """Record why the server refused, and end the row with what it compared."""
    notes = protected_notes(current.notes)
    notes["refusal"] = {"reason": refused.reason}
    return Ended(
        outcome="failed",
        reason=f"the attestation server refused: {refusal_text(notes, refused.reason)}",
        decision="no key was released; the protected leg did not train",
    )


def _note_package(notes: ProtectedNotes, current: Round, sealed: Sealing, policy: Policy) -> None:
    notes["manifest"] = sealed.manifest
    notes["policy"], notes["policySha256"] = policy.to_json(), policy.sha256
    notes["plan"] = current.plan_sha256


def _note_watch(notes: ProtectedNotes, watch: LegWatch) -> None:
    notes["journal"] = watch.journal
    notes["timeline"] = watch.timeline
    spawned, left, failed = watch.body("spawned", Spawned), watch.body("exit", Exit), watch.body("failed", Failure)
    if left is not None:
        notes["exit"] = left["exit"]
    if (timed := watch.body("stretches", Stretches)) is not None:
        notes["stretches"] = timed["stretches"]
    notes["images"] = watch.body("images", LoadedCode)
    notes["cache"] = None if spawned is None else spawned["cache"]
    if failed is not None:
        notes["failed"] = failed


def _completion_s(current: Round) -> int:
    if current.design is not None:
        return int(current.trains_s() * 2 + 1800)
    target = current.row.target_s or 24 * 3600
    return int(target * 2 + current.row.warmup_s + 1800)


def plan_sha256(fields: Mapping[str, object]) -> str:
    """The digest of what is about to be run. The server gets it before any key is asked for."""
    try:
        return sha256_hex(canonical(fields))
    except IntegrityError as error:
        raise GlasshouseError(f"the run's plan: {error.detail}") from None
