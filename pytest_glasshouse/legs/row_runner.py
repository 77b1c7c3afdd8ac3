"""Running a row on one allocation: rounds of legs, in order, until the row is done or ends early.

Nothing is judged here. A guest that is lost or a leg that fails ends the row and is recorded; an exception is an error of the
tool.
"""

from __future__ import annotations

import contextlib
import copy
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, Protocol

from pytest_glasshouse.channel.allowance import Allowance
from pytest_glasshouse.channel.guest_channel import RECONNECT_S, Channel, GuestChannel
from pytest_glasshouse.errors import ConfigurationError, GlasshouseError, InfrastructureError
from pytest_glasshouse.legs.base_model import bring
from pytest_glasshouse.legs.interleaved import InterleavedRound
from pytest_glasshouse.legs.leg_watch import Progress
from pytest_glasshouse.legs.protected import ProtectedRuntime, plan_sha256
from pytest_glasshouse.legs.raw import RawRunner
from pytest_glasshouse.legs.round import Round
from pytest_glasshouse.legs.row_material import material_of
from pytest_glasshouse.legs.row_settings import RowSettings
from pytest_glasshouse.observation.document import AllocationSeen, Observation, Plan, RoundNotes, SamplingPlan
from pytest_glasshouse.observation.outcome import AllocationFacts, Ended, Outcome
from pytest_glasshouse.observation.reading import ROLES
from pytest_glasshouse.providers.mock_faulty_channel import FaultyChannel, poisoned
from pytest_glasshouse.rows.interleaving import interleaving, of_whole_lifecycles, row_seconds
from pytest_glasshouse.rows.leg_order import orders_of_row, row_seed, sealed_orders, starts_of_row
from pytest_glasshouse.wire.guest_messages import OUT_OF_MEMORY
from pytest_glasshouse.wire.run_plan import planned_row

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_glasshouse.providers.base import Grant, Instance
    from pytest_glasshouse.rows.interleaving import Interleaving
    from pytest_glasshouse.rows.leg_order import Role
    from pytest_glasshouse.rows.spec import RowSpec
    from pytest_glasshouse.workloads.base import Material

__all__ = ["Allocation", "Allowance", "ProtectedRuntime", "RawRunner", "RowSettings"]


class Grants(Protocol):
    """What a row needs of the broker, in this process or through its socket."""

    def listing(self) -> tuple[Instance, ...]:
        """The provider's own listing, now."""
        ...

    def inject_fault(self, grant: Grant, action: str) -> None:
        """One act of a mock fault."""
        ...

    def loss_reason(self, grant: Grant) -> tuple[str, str]:
        """How the allocation of a guest that is gone ended, and a sentence about it: `("", "")` where it is not known."""
        ...

    def end(self, grant: Grant, why: str) -> None:
        """End the allocation now: it is not known what still runs there, and its guest broke the protocol or hangs."""
        ...


class Allocation:
    """One granted allocation; the `allocation` fixture's object."""

    def __init__(
        self,
        grant: Grant,
        grants: Grants,
        settings: RowSettings,
        on_progress: Callable[[Progress], None],
        allowance: Allowance | None = None,
    ) -> None:
        """`allowance` is what all guests of the run together may send."""
        self.grant = grant
        self._grants = grants
        self._settings = settings
        self._on_progress = on_progress
        self._allowance = allowance or Allowance()

    def carry_out(self, row: RowSpec, protected: ProtectedRuntime, raw: RawRunner) -> Outcome:
        """Run every round of `row`. See `RowSpec.run`.

        Where the legs of an interleaved row do not fit on the device together, the row is run again with whole lifecycles in
        turn, as another row; the rounds of the first attempt stay in its observation.
        """
        # No two attempts have one plan: the server counts attempts by plans.
        attempt = secrets.token_hex(8)
        outcome = self._carried_out(row, protected, raw, attempt=attempt, selected=row)
        if not did_not_fit(outcome):
            return outcome
        again = self._carried_out(of_whole_lifecycles(row), protected, raw, attempt=attempt, selected=row)
        again.observation["didNotFit"] = outcome.observation["rounds"]
        return again

    def _carried_out(
        self, row: RowSpec, protected: ProtectedRuntime, raw: RawRunner, *, attempt: str, selected: RowSpec
    ) -> Outcome:
        """One attempt at the `selected` row, as `row`."""
        settings = self._settings
        material = material_of(
            row,
            model=settings.model or row.model,
            seed=settings.seed,
            online=self.grant.provider != "mock",
            owner_key=settings.owner_key,
            stand_in=settings.stand_in,
        )
        if "nonfinite-loss" in self.grant.faults:
            material = poisoned(material)
        observation = self._opening(row, material, protected)
        plan = observation["plan"]
        plan["attemptId"] = attempt
        if row is not selected:
            plan["selectedRowId"] = selected.row_id
        marks = protected.marks(
            run=settings.run_id,
            planned=settings.planned
            or (planned_row(selected.row_id, selected.rounds, gpus=selected.gpus, nodes=selected.nodes),),
            row=selected.row_id,
            attempt=attempt,
            plan=plan_sha256(plan),
        )
        channels = self._channels(row)
        ended: Ended | None = None
        current: Round | None = None
        cursor = 0
        try:
            # The first round of a row whose time is cut decides how many follow.
            orders = list(self._orders(row, rounds=1 if row.cut else row.rounds))
            pairs = None
            for number, order in enumerate(orders, 1):
                current = Round(
                    row=row,
                    grant=self.grant,
                    channel=channels[0],
                    material=material,
                    number=number,
                    rounds=len(orders),
                    seed=settings.seed,
                    run_id=settings.run_id,
                    subject=str(settings.subject.get("name", "")),
                    leg_timeout_s=settings.leg_timeout_s,
                    listing=self._grants.listing,
                    emit=self._on_progress,
                    cursor=cursor,
                    plan_sha256=plan_sha256(plan),
                    confidential=settings.confidential or row.sealed,
                    strict_memory=settings.strict_memory,
                    allowance=self._allowance,
                    vouch=protected.vouch if row.null else None,
                    marks=marks,
                    design=_design(row, pairs),
                    order=order,
                )
                current.add_nodes(channels[1:])
                observation["rounds"].append(current.notes)
                current.begin_marked()
                ended = self._bring_model(current, observation) or _round(current, order, protected, raw)
                cursor = current.cursor
                if ended is not None:
                    ended = _with_missing(ended, row, finished=number - 1, planned=len(orders))
                    break
                if number == len(orders) and settings.rounds_in_all is not None and not row.sealed:
                    in_all, pairs = settings.rounds_in_all(observation)
                    orders += self._orders(row, rounds=max(number, in_all))[number:]
                if settings.on_round is not None and row.order == "interleaved" and number < len(orders):
                    so_far = copy.deepcopy(observation)
                    settings.on_round(
                        self._outcome(row, so_far, _with_missing(_INTERRUPTED, row, finished=number, planned=len(orders)))
                    )
        except BaseException:
            if current is not None and current.running:
                self._end_guest("its row was aborted while one of its legs was running")
            raise
        finally:
            _close(channels)
        gone = any(each.gone for each in channels)
        outcome = self._outcome(row, observation, self._explained(ended, observation["rounds"][-1], gone=gone))
        if current is not None and (untrusted := current.untrusted):
            self._end_guest(untrusted)
        return outcome

    def _bring_model(self, current: Round, observation: Observation) -> Ended | None:
        """Before the first leg: a base model that is not sealed goes to the guest. How the row ends where that fails."""
        if current.number > 1 or current.row.sealed:
            return None
        for part in current.parts:
            arrival, ended = bring(part, self._settings.model_sources)
            if arrival is not None and part is current:
                observation["baseModel"] = arrival
            if ended is not None:
                return ended
        return None

    def _end_guest(self, why: str) -> None:
        """The next row gets another guest. What cannot be ended now is ended with the run."""
        with contextlib.suppress(GlasshouseError, OSError):
            self._grants.end(self.grant, why)

    def _outcome(self, row: RowSpec, observation: Observation, ended: Ended | None) -> Outcome:
        declared = self._settings.declared
        return Outcome(row=row, declared=declared, allocation=self._facts(row), observation=observation, ended=ended)

    def _extends(self, row: RowSpec) -> bool:
        return self._settings.half_width_pct is not None and not row.null and not row.sealed

    def _orders(self, row: RowSpec, *, rounds: int) -> Sequence[Sequence[Role]]:
        """In which order the legs of each of `rounds` rounds run, or start."""
        if row.sealed:
            return sealed_orders(rounds)
        fixed, seed = self._settings.fixed_order, row_seed(self._settings.seed, row.row_id)
        if row.order != "interleaved":
            return orders_of_row(row.order, rounds=rounds, seed=seed, fixed=fixed)
        return starts_of_row(interleaving(row).legs, rounds=rounds, seed=seed, fixed=fixed)

    def _explained(self, ended: Ended | None, notes: RoundNotes, *, gone: bool) -> Ended | None:
        """Where a rented guest was lost, the reason comes from the broker or the provider.

        A guest that the broker ended may still have answered, with the exit of the leg that was killed.
        """
        if not self.grant.remote or (ended is None and not self.grant.preemptible):
            return ended
        kind, reason = self._grants.loss_reason(self.grant)
        if ended is None:
            # Its legs may have stood still, or have gone on elsewhere, whatever they say.
            return Ended(outcome="infrastructure", reason=reason, decision="Run it again") if kind == "lost" else None
        if not gone and kind != "ended":
            return ended
        for part in (notes, *notes.get("nodes", [])) if kind == "ended" else ():
            if part["protected"] is not None and not part["protected"].get("exit"):
                # Without a signed exit there is no evidence that it zeroized: it was terminated.
                part["protected"]["terminated"] = reason
        if not kind:
            return ended
        outcome: Literal["excluded", "infrastructure"] = "excluded" if kind == "ended" else "infrastructure"
        return Ended(outcome=outcome, reason=f"{reason} ({ended.reason})", decision=ended.decision)

    def _opening(self, row: RowSpec, material: Material, protected: ProtectedRuntime) -> Observation:
        base = material.base
        allocation: AllocationSeen = {
            "provider": self.grant.provider,
            "name": self.grant.allocation_id,
            "providerInstanceId": self.grant.instance_id,
            "gpuModel": self.grant.gpu_model,
            "gpuUuid": self.grant.gpu_uuid,
            "archiveSha256": self.grant.archive_sha256,
            "referenceSource": self.grant.reference_source,
        }
        if self.grant.other_processes:
            allocation["otherGpuProcesses"] = self.grant.other_processes
            allocation["otherGpuMemoryMib"] = self.grant.other_memory_mib
        return {
            "allocation": allocation,
            "keys": protected.keys,
            "plan": self._plan(row),
            "material": {
                "workload": row.workload,
                "initialSha256": material.initial_sha256,
                "modelId": None if base is None else base.model_id,
                "standIn": False if base is None else base.stand_in,
                "baseSha256": None if base is None else base.sha256,
                "facts": material.facts,
            },
            "rounds": [],
        }

    def _plan(self, row: RowSpec) -> Plan:
        settings = self._settings
        plan: Plan = {
            "rowId": row.row_id,
            "provider": self.grant.provider,
            "dryRun": self._is_dry_run(row),
            "simulated": self.grant.simulated,
            "workload": row.workload,
            "modelId": row.model,
            "namedGpuModel": row.gpu_model,
            "order": row.order,
            "rounds": row.rounds,
            "fixedOrder": settings.fixed_order,
            "seed": settings.seed,
            "marginPct": f"{row.margin_pct:g}",
            "targetSec": None if row.target_s is None else f"{row.target_s:g}",
            "stepBudget": row.steps,
            "warmupSec": f"{row.warmup_s:g}",
            "strictMemory": settings.strict_memory,
            "subject": settings.subject,
        }
        if "adapter" in row.adapter:
            plan["adapter"] = row.adapter["adapter"]
        if row.base == "sealed":
            plan["base"] = row.base
        if row.gpus > 1:
            plan["gpus"] = row.gpus
        if row.nodes > 1:
            plan["nodes"] = row.nodes
        if settings.revision is not None:
            plan["invariantsRevision"] = settings.revision
        if settings.half_width_pct is not None and self._extends(row):
            plan |= {"halfWidthPct": f"{settings.half_width_pct:g}", "maxRounds": settings.max_rounds}
        if not row.sealed:
            plan["sampling"] = self._sampling(row)
        if row.parameters:
            # Pairs, and not an object: names that people give are data, and some would be names of figures.
            plan["parameters"] = [list(pair) for pair in row.parameters]
        if row.order == "interleaved":
            plan |= {"interleaving": interleaving(row).to_json(), "null": row.null}
        return plan

    def _sampling(self, row: RowSpec) -> SamplingPlan:
        found: SamplingPlan = {"version": "2"}
        if self._settings.looks is not None and not row.null:
            found |= self._settings.looks
        if row.cut:
            found["rowSec"] = f"{row_seconds(row):g}"
        return found

    def _lost(self) -> bool:
        """Whether broker or provider know that the guest will not answer again."""
        return self._grants.loss_reason(self.grant)[0] in ("ended", "lost")

    def _channels(self, row: RowSpec) -> list[Channel]:
        """One to the guest on each node. Raises `InfrastructureError` where the allocation has another number of them."""
        addresses = (self.grant.address, *self.grant.node_addresses)
        if len(addresses) != row.nodes:
            raise InfrastructureError(f"row {row.name}: expected an allocation of {row.nodes} nodes, saw {len(addresses)}")
        return [self._connect(address) for address in addresses]

    def _connect(self, address: str) -> Channel:
        def connect() -> GuestChannel:
            reconnect_s = RECONNECT_S if self.grant.remote else 0.0
            return GuestChannel(
                address,
                allocation_id=self.grant.allocation_id,
                reconnect_s=reconnect_s,
                lost=self._lost,
                allowance=self._allowance,
            )

        if not self.grant.faults:
            return connect()
        if self.grant.provider != "mock":
            raise ConfigurationError(f"provider {self.grant.provider} plays no faults: expected provider mock")
        return FaultyChannel(connect, self.grant.faults, lambda action: self._grants.inject_fault(self.grant, action))

    def _is_dry_run(self, row: RowSpec) -> bool:
        """On a dry allocation every row is; on this machine's own GPU, a row that names another."""
        return self.grant.dry_run or row.gpu_model not in (None, self.grant.gpu_model)

    def _facts(self, row: RowSpec) -> AllocationFacts:
        return AllocationFacts(
            provider=self.grant.provider,
            provider_instance_id=self.grant.instance_id,
            name=self.grant.allocation_id,
            gpu_model=self.grant.gpu_model,
            gpu_uuid=self.grant.gpu_uuid,
            dry_run=self._is_dry_run(row),
            simulated=self.grant.simulated,
        )


def _close(channels: Sequence[Channel]) -> None:
    for channel in channels:
        channel.close()


def did_not_fit(outcome: Outcome) -> bool:
    """Whether an interleaved row ended in its first round because a leg found no room on the device."""
    row, rounds = outcome.row, outcome.observation["rounds"]
    if outcome.ended is None or row.order != "interleaved" or not row.resident or len(rounds) != 1:
        return False
    legs = [leg for role in ROLES if (leg := rounds[0].get(role)) is not None]
    return any((failed := leg.get("failed")) is not None and failed["reason"] == OUT_OF_MEMORY for leg in legs)


_INTERRUPTED = Ended(
    outcome="lost",
    reason="the run ended in the middle of this row",
    decision="Run it again; what is kept can be pooled with it",
)


def _with_missing(ended: Ended, row: RowSpec, *, finished: int, planned: int) -> Ended:
    """Of an interleaved row, whose rounds count each: how many are kept, and how many more it needs."""
    if row.order != "interleaved" or not finished:
        return ended
    missing = f"{finished} of {planned} rounds are finished and kept; {planned - finished} more are needed"
    return replace(ended, reason=f"{ended.reason}; {missing}")


def _design(row: RowSpec, pairs: int | None) -> Interleaving | None:
    """How the legs of a round take turns, with that many `pairs` where the row's time was cut; None where they take none."""
    if row.order != "interleaved" or not row.resident:
        return None
    design = interleaving(row)
    return design if pairs is None else replace(design, pairs=pairs)


def _round(current: Round, order: Sequence[Role], protected: ProtectedRuntime, raw: RawRunner) -> Ended | None:
    """One round: legs that take turns, or one leg after the other."""
    if current.design is not None:
        return InterleavedRound(current, current.design, order).run(protected, raw)
    for leg in order:
        ended = protected.run(current) if leg == "protected" else raw.run(current, leg)
        if ended is not None:
            return ended
    return None
