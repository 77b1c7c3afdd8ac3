"""Figures of a row, read from its observation and from nothing else: nanoseconds and counts, nothing divided.

`glasshouse check` calls this on a report's own observation and compares.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.observation.turns import pairs_of
from pytest_glasshouse.wire import journal

_LOOKS = ("loaded", "trained", "wiped")
_UNITS = {"mlp": "epochs", "lora": "steps"}


@dataclass(frozen=True, kw_only=True)
class LegResult:
    """One leg's figures. Times in nanoseconds of the guest's monotonic clock, units of the workload.

    `setup_ns` is from the fork of the leg to the first training step's load being done, `zeroize_ns` (protected
    only) from the adapter's export to the agent seeing the process gone; phases are the leg's own times. The agent's
    looks at the leg's memory are in none of them: they are `scan_ns`, and how much plaintext the leg held is `exposure_*`.
    """

    leg: Literal["protected", "raw", "raw2"]
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
    facts: dict[str, Any]
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
    order: tuple[str, ...]
    protected: LegResult | None
    raw: LegResult | None
    raw2: LegResult | None = None
    pairs: tuple[dict[str, Any], ...] = ()


def results(observation: dict[str, Any]) -> tuple[RoundResult, ...]:
    """The figures of every round; legs that did not complete have none."""
    unit = _UNITS[observation["material"]["workload"]]
    return tuple(_round(notes, unit) for notes in observation.get("rounds", []))


def _round(notes: dict[str, Any], unit: str) -> RoundResult:
    bodies = {role: body for role in ("protected", "raw", "raw2") if (body := _end_of(notes, role)) is not None}
    return RoundResult(
        number=notes["round"],
        order=tuple(notes["order"]),
        protected=_protected(notes["protected"], unit) if notes["protected"] else None,
        raw=_raw("raw", notes["raw"], unit) if notes["raw"] else None,
        raw2=_raw("raw2", notes["raw2"], unit) if notes.get("raw2") else None,
        pairs=pairs_of(notes, bodies),
    )


def _end_of(notes: dict[str, Any], role: str) -> dict[str, Any] | None:
    """What a leg said when its training was over."""
    told = notes.get(role) or {}
    if role != "protected":
        return cast("dict[str, Any] | None", told.get("callback"))
    return _events(told).get("train_completed")


def _events(notes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What the protected leg's journal tells, by step; nothing where it is not the whole journal of a leg that completed."""
    try:
        entries = journal.read(notes["journal"], notes["challenge"]["nonce"], head=None)
    except (IntegrityError, KeyError):
        return {}
    return {entry.type: cast("dict[str, Any]", entry.body) for entry in entries}


def _protected(notes: dict[str, Any], unit: str) -> LegResult | None:
    bodies = _events(notes)
    if "train_completed" not in bodies or not notes.get("adapterSha256"):
        return None
    timeline = notes["timeline"]
    phases = {
        "start": _between(timeline, "spawned", "challenge-wanted"),
        "attest": _between(timeline, "challenge-wanted", "evidence"),
        "release": _between(timeline, "evidence", "key_received"),
        "open": int(bodies["package_verified"]["open_ns"]),
        "zeroize": int(bodies["zeroized"]["zeroize_ns"]),
    }
    zeroize = None
    if "adapter_exported" in timeline and "exit" in timeline:
        zeroize = timeline["exit"] - timeline["adapter_exported"] - (_look(timeline, "wiped") or 0)
    return _leg("protected", unit, bodies["train_completed"], timeline, "train_started", notes, phases, zeroize, bodies)


def _raw(leg: Literal["raw", "raw2"], notes: dict[str, Any], unit: str) -> LegResult | None:
    body = notes.get("callback")
    if body is None or not notes.get("adapterSha256"):
        return None
    phases = {"start": _between(notes["timeline"], "spawned", "started")}
    bodies = {"train_started": body}
    return _leg(leg, unit, body, notes["timeline"], "started", notes, phases, None, bodies)


def _leg(
    leg: Literal["protected", "raw", "raw2"],
    unit: str,
    body: dict[str, Any],
    timeline: dict[str, int],
    started: str,
    notes: dict[str, Any],
    phases: dict[str, int | None],
    zeroize_ns: int | None,
    bodies: dict[str, dict[str, Any]],
) -> LegResult | None:
    if not body["units"] or not body["elapsed_ns"]:
        return None  # it was never timed: there is nothing to divide by
    own = {name.removesuffix("_ns"): int(value) for name, value in body["phases"].items()}
    return LegResult(
        leg=leg,
        unit=unit,
        units=body["units"],
        elapsed_ns=body["elapsed_ns"],
        setup_ns=max(0, (_between(timeline, "spawned", started) or 0) - (_look(timeline, "loaded") or 0)),
        warmup_ns=body["warmup_ns"],
        warmup_units=body["warmup_units"],
        zeroize_ns=None if zeroize_ns is None else max(0, zeroize_ns),
        final_loss=body["final_loss"],
        adapter_sha256=notes["adapterSha256"],
        stop_reason=body["stop_reason"],
        phases_ns={name: value for name, value in {**phases, **own}.items() if value is not None},
        cpu_ns=body["cpu_ns"],
        peak_memory_bytes=body["facts"].get("peakMemoryBytes"),
        order_seed=bodies["train_started"]["order_seed"],
        facts=body["facts"],
        scan_ns=sum(taken) if (taken := [took for stage in _LOOKS if (took := _look(timeline, stage)) is not None]) else None,
        exposure_byte_s=bodies.get("zeroized", {}).get("exposure_byte_s"),
        exposure_peak_bytes=bodies.get("zeroized", {}).get("exposure_peak_bytes"),
        steady=body.get("steady"),
    )


def _look(timeline: dict[str, int], stage: str) -> int | None:
    """How long the agent looked at the leg's memory, the leg waiting."""
    return _between(timeline, f"scan-{stage}", f"scanned-{stage}")


def _between(timeline: dict[str, int], first: str, second: str) -> int | None:
    if first not in timeline or second not in timeline:
        return None
    # A guest that tells them in another order has taken no time, and not less than none.
    return max(0, timeline[second] - timeline[first])
