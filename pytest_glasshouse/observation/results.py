"""Figures of a row, read from its observation alone: nanoseconds and counts, nothing divided.

`glasshouse check` calls this on a report's own observation and compares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from pytest_glasshouse.errors import IntegrityError, ProtocolError
from pytest_glasshouse.observation.claims import PackageVerified, TrainStarted, Zeroized
from pytest_glasshouse.observation.document import LegNotes, Observation, ProtectedNotes, RawNotes, RoundNotes
from pytest_glasshouse.observation.trained import Trained, WorkloadFacts
from pytest_glasshouse.observation.turns import pairs_of
from pytest_glasshouse.overhead.segments import Pair
from pytest_glasshouse.rows.leg_order import Role
from pytest_glasshouse.wire import journal
from pytest_glasshouse.wire.typed import check_typed

_LOOKS = ("loaded", "trained", "wiped")
_UNITS = {"mlp": "epochs", "lora": "steps"}


@dataclass(frozen=True, kw_only=True)
class LegResult:
    """One leg's figures. Times in nanoseconds of the guest's monotonic clock, units of the workload.

    `setup_ns` is from the fork of the leg to the first training step's load being done, `zeroize_ns` (protected
    only) from the adapter's export to the agent seeing the process gone; phases are the leg's own times. The agent's
    looks at the leg's memory are in none of them: they are `scan_ns`, and how much plaintext the leg held is `exposure_*`.
    """

    leg: Role
    unit: str
    units: int
    elapsed_ns: int
    setup_ns: int
    warmup_ns: int
    warmup_units: int
    zeroize_ns: int | None
    final_loss: str
    adapter_sha256: str
    stop_reason: str
    phases_ns: dict[str, int]
    cpu_ns: int
    peak_memory_bytes: int | None
    order_seed: int
    facts: WorkloadFacts
    scan_ns: int | None = None
    exposure_byte_s: int | None = None
    exposure_peak_bytes: int | None = None
    steady: bool | None = None
    """Whether the warm-up ended because the rate had settled; None where it ended by the clock alone."""


@dataclass(frozen=True, kw_only=True)
class RoundResult:
    """One round's figures; a leg that left none is None.

    `order` is in which the legs ran, or started. An interleaved round has `pairs`, as `overhead.segments` reads them;
    `raw2` is a second raw leg, beside the first or in place of a protected one.
    """

    number: int
    order: tuple[Role, ...]
    protected: LegResult | None
    raw: LegResult | None
    raw2: LegResult | None = None
    pairs: tuple[Pair, ...] = ()

    def leg(self, role: Role) -> LegResult | None:
        """The figures of one leg."""
        return {"protected": self.protected, "raw": self.raw, "raw2": self.raw2}[role]


@dataclass(frozen=True, kw_only=True)
class _Steps:
    """The bodies of the steps of a protected leg's journal."""

    opened: PackageVerified
    started: TrainStarted
    trained: Trained
    zeroized: Zeroized


def results(observation: Observation) -> tuple[RoundResult, ...]:
    """The figures of every round; legs that did not complete have none. Raises `IntegrityError` for rounds without material."""
    rounds = observation.get("rounds", [])
    if rounds and "material" not in observation:
        raise IntegrityError("malformed", "an observation with rounds and without their material")
    return tuple(_round(notes, _UNITS[observation["material"]["workload"]]) for notes in rounds)


def _round(notes: RoundNotes, unit: str) -> RoundResult:
    protected, raw, raw2 = notes["protected"] or {}, notes["raw"] or {}, notes.get("raw2") or {}
    steps = _steps(protected)
    return RoundResult(
        number=notes["round"],
        order=tuple(notes["order"]),
        protected=None if steps is None else _protected(protected, steps, unit),
        raw=_raw("raw", raw, unit),
        raw2=_raw("raw2", raw2, unit),
        pairs=pairs_of(notes, ends_of(notes)),
    )


def ends_of(notes: RoundNotes) -> dict[Role, Trained]:
    """What each leg of a round reported when its training was over; a leg that did not complete is left out."""
    protected, raw, raw2 = notes["protected"] or {}, notes["raw"] or {}, notes.get("raw2") or {}
    steps = _steps(protected)
    ends: dict[Role, Trained | None] = {
        "protected": None if steps is None else steps.trained,
        "raw": raw.get("callback"),
        "raw2": raw2.get("callback"),
    }
    return {role: end for role, end in ends.items() if end is not None}


def _steps(notes: ProtectedNotes) -> _Steps | None:
    """The steps of the leg's journal; None where it is not the whole journal of a leg that completed."""
    if "challenge" not in notes:
        return None
    try:
        entries = journal.read(notes.get("journal", []), notes["challenge"]["nonce"], head=None)
        bodies = {entry.type: entry.body for entry in entries}
        return _Steps(
            opened=check_typed(bodies["package_verified"], PackageVerified, "package_verified"),
            started=check_typed(bodies["train_started"], TrainStarted, "train_started"),
            trained=check_typed(bodies["train_completed"], Trained, "train_completed"),
            zeroized=check_typed(bodies["zeroized"], Zeroized, "zeroized"),
        )
    except (IntegrityError, ProtocolError):
        return None


def _protected(notes: ProtectedNotes, steps: _Steps, unit: str) -> LegResult | None:
    timeline = notes.get("timeline", {})
    phases = {
        "start": _between(timeline, "spawned", "challenge-wanted"),
        "attest": _between(timeline, "challenge-wanted", "evidence"),
        "release": _between(timeline, "evidence", "key_received"),
        "open": steps.opened["open_ns"],
        "zeroize": steps.zeroized["zeroize_ns"],
    }
    zeroize = None
    if "adapter_exported" in timeline and "exit" in timeline:
        zeroize = max(0, timeline["exit"] - timeline["adapter_exported"] - (_look(timeline, "wiped") or 0))
    found = _leg("protected", notes, steps.trained, unit, begun="train_started", seed=steps.started["order_seed"], phases=phases)
    return found and replace(
        found,
        zeroize_ns=zeroize,
        exposure_byte_s=steps.zeroized.get("exposure_byte_s"),
        exposure_peak_bytes=steps.zeroized.get("exposure_peak_bytes"),
    )


def _raw(leg: Literal["raw", "raw2"], notes: RawNotes, unit: str) -> LegResult | None:
    body = notes.get("callback")
    if body is None:
        return None
    phases = {"start": _between(notes.get("timeline", {}), "spawned", "started")}
    return _leg(leg, notes, body, unit, begun="started", seed=body["order_seed"], phases=phases)


def _leg(
    leg: Role, notes: LegNotes, body: Trained, unit: str, *, begun: str, seed: int, phases: Mapping[str, int | None]
) -> LegResult | None:
    """What both kinds of leg tell. `begun` is the first event behind the load, `phases` are beside the leg's own."""
    adapter = notes.get("adapterSha256")
    if not adapter or not body["units"] or not body["elapsed_ns"]:
        return None  # no adapter, or never timed: there is nothing to divide by
    timeline, own = notes.get("timeline", {}), body["phases"]
    every = {**phases, "load": own["load_ns"], "prologue": own["prologue_ns"], "export": own["export_ns"]}
    looks = [taken for stage in _LOOKS if (taken := _look(timeline, stage)) is not None]
    return LegResult(
        leg=leg,
        unit=unit,
        units=body["units"],
        elapsed_ns=body["elapsed_ns"],
        setup_ns=max(0, (_between(timeline, "spawned", begun) or 0) - (_look(timeline, "loaded") or 0)),
        warmup_ns=body["warmup_ns"],
        warmup_units=body["warmup_units"],
        zeroize_ns=None,
        final_loss=body["final_loss"],
        adapter_sha256=adapter,
        stop_reason=body["stop_reason"],
        phases_ns={name: taken for name, taken in every.items() if taken is not None},
        cpu_ns=body["cpu_ns"],
        peak_memory_bytes=body["facts"].get("peakMemoryBytes"),
        order_seed=seed,
        facts=body["facts"],
        scan_ns=sum(looks) if looks else None,
        steady=body.get("steady"),
    )


def _look(timeline: dict[str, int], stage: str) -> int | None:
    """How long the agent looked at the leg's memory, the leg waiting."""
    return _between(timeline, f"scan-{stage}", f"scanned-{stage}")


def _between(timeline: dict[str, int], first: str, second: str) -> int | None:
    if first not in timeline or second not in timeline:
        return None
    # A guest that reports them in another order has taken no time: a negative one is no figure.
    return max(0, timeline[second] - timeline[first])
