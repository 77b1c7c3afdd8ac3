"""The raw leg seen from the host: the same material in the clear, and a callback to wait for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NoReturn

from pytest_glasshouse.channel.guest_channel import put
from pytest_glasshouse.errors import ConfigurationError, GuestGoneError, GuestRefusedError, IntegrityError, ProtocolError
from pytest_glasshouse.legs.nodes import over_nodes
from pytest_glasshouse.legs.round import EXCLUDED, Round, note_figures, note_ranks, raw_notes, why_failed
from pytest_glasshouse.observation.document import Exit, Failure, LoadedCode, Spawned, Stretches
from pytest_glasshouse.observation.outcome import Ended
from pytest_glasshouse.observation.trained import Callback, Started
from pytest_glasshouse.wire.tensors import tensor_digest

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_glasshouse.legs.leg_watch import LegWatch
    from pytest_glasshouse.observation.document import RawNotes
    from pytest_glasshouse.wire.canonical import Json
    from pytest_glasshouse.wire.host_messages import RawOrder

    RawRole = Literal["raw", "raw2"]


class RawRunner:
    """Runs raw legs; the `raw_runner` fixture's object."""

    def run(self, current: Round, role: RawRole = "raw") -> Ended | None:
        """One raw leg. Returns how the row ended if it ended here, else None."""
        if current.others:
            return over_nodes(current.parts, lambda part: self.begin(part, role), lambda part, step: guarded(part, role, step))

        def leg() -> Ended | None:
            begun = self.begin(current, role)
            return begun.finish(current.follow(begun.watch, begun.on_event))

        return guarded(current, role, leg)

    def begin(self, current: Round, role: RawRole = "raw") -> RawLeg:
        """Start a raw leg. The caller follows it and then calls `finish`. Raises `ConfigurationError` where none may run."""
        if current.confidential or current.material.sealed:
            refuse_raw(current)
        current.meet_guest(role)
        notes = raw_notes(current.notes, role)
        leg_id = current.leg_id(role)
        material: dict[str, str] = {}
        for name, part in current.material.parts.items():
            put(current.channel, f"{leg_id}-{name}", part)
            material[name] = f"{leg_id}-{name}"
        base = current.material.base
        notes["trainingPlan"] = current.training_plan(role)
        order: RawOrder = {
            "kind": "raw",
            "strict_memory": current.strict_memory,
            "nonce": current.nonce,
            **current.ranks_order(role),  # type: ignore[typeddict-item]
            "plan": current.guest_plan(role),
            "base_sha256": None if base is None else base.sha256,
            "material": material,
        }
        watch = current.watch(role)
        current.begin(role, order)
        return RawLeg(current, role=role, material=material, watch=watch, notes=notes)


def refuse_raw(current: Round) -> NoReturn:
    """Raise `ConfigurationError`: the raw leg publishes what the package protects."""
    raise ConfigurationError(
        f"row {current.row.name}: its package is confidential; a raw leg would publish what the package protects"
    )


class RawLeg:
    """A raw leg that was started."""

    def __init__(self, current: Round, *, role: RawRole, material: dict[str, str], watch: LegWatch, notes: RawNotes) -> None:
        self._current = current
        self._material = material
        self._notes = notes
        self.role = role
        self.watch = watch

    def on_event(self, kind: str, body: dict[str, Json]) -> None:
        """A raw leg needs no answers."""

    def finish(self, lost: Ended | None) -> Ended | None:
        """Record what the leg left, when it has ended or its guest was lost; fetch its adapter."""
        notes, watch, channel = self._notes, self.watch, self._current.channel
        notes["timeline"] = watch.timeline
        note_ranks(notes, watch)
        notes["host"] = self._current.host_times(self.role, watch)
        notes["callback"] = watch.body("callback", Callback)
        notes["failed"] = watch.body("failed", Failure)
        if (timed := watch.body("stretches", Stretches)) is not None:
            notes["stretches"] = timed["stretches"]
        notes["images"] = watch.body("images", LoadedCode)
        notes["started"] = watch.body("started", Started)
        spawned, left = watch.body("spawned", Spawned), watch.body("exit", Exit)
        notes["cache"] = None if spawned is None else spawned["cache"]
        if left is not None:
            notes["exit"] = left["exit"]
        if lost is not None:
            return lost
        for item in self._material.values():
            channel.request("drop", {"name": item})
        name = f"{watch.leg_id}-adapter"
        try:
            adapter = channel.fetch(name, limit=self._current.adapter_limit)
            notes["adapterSha256"] = tensor_digest(adapter)
            note_figures(self._current, notes, adapter)
            channel.request("drop", {"name": name})
        except (GuestRefusedError, IntegrityError):
            notes["adapterSha256"] = None
        return _ended(notes["callback"], notes["failed"])


def guarded(current: Round, role: RawRole, leg: Callable[[], Ended | None]) -> Ended | None:
    """Run a raw leg. A guest that is gone or breaks the protocol ends the row, and is recorded."""
    try:
        return leg()
    except ProtocolError as error:
        return current.ended_by_protocol(error)
    except GuestGoneError as error:
        raw_notes(current.notes, role)
        return Ended(outcome="excluded", reason=f"{role} leg: {error}", decision=EXCLUDED)


def _ended(callback: Callback | None, failed: Failure | None) -> Ended | None:
    if failed is not None:
        return Ended(
            outcome="failed",
            reason=f"raw leg failed: {why_failed(failed)}",
            decision="the row ended here; the protected leg has nothing to be compared with",
        )
    if callback is None:
        return Ended(
            outcome="excluded",
            reason="the raw callback never reported completion, although the leg's process ended",
            decision="excluded from the public overhead number",
        )
    return None
