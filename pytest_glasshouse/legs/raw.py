"""The raw leg seen from the host: the same material in the clear, and a callback to wait for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_glasshouse.channel.guest import put
from pytest_glasshouse.errors import ConfigurationError, GuestGoneError, IntegrityError, ProtocolError
from pytest_glasshouse.legs.outcome import Ended
from pytest_glasshouse.legs.round import EXCLUDED, Round, leg_notes
from pytest_glasshouse.wire.tensors import tensor_digest

if TYPE_CHECKING:
    from pytest_glasshouse.wire.canonical import Json


class RawRunner:
    """Runs raw legs; the `raw_runner` fixture's object."""

    def run(self, current: Round) -> Ended | None:
        """One raw leg. Returns how the row ended if it ended here, else None."""
        if current.confidential:
            raise ConfigurationError(
                f"row {current.row.name}: its package is confidential; a raw leg would publish what the package protects"
            )
        try:
            return self._leg(current)
        except GuestGoneError as error:
            leg_notes(current.notes, "raw")
            return Ended(outcome="excluded", reason=f"raw leg: {error}", decision=EXCLUDED)

    def _leg(self, current: Round) -> Ended | None:
        current.meet_guest("raw")
        notes = leg_notes(current.notes, "raw")
        leg_id = current.leg_id("raw")
        material: dict[str, Json] = {}
        for name, part in current.material.parts.items():
            put(current.channel, f"{leg_id}-{name}", part)
            material[name] = f"{leg_id}-{name}"
        base = current.material.base
        plan = current.training_plan("raw")
        notes["trainingPlan"] = {**plan, "base_directory": plan["base_directory"] is not None}
        order: dict[str, Json] = {
            "kind": "raw",
            "strict_memory": current.strict_memory,
            "nonce": current.nonce,
            "plan": plan,
            "base_sha256": None if base is None else base.sha256,
            "material": material,
        }
        watch = current.watch("raw")
        current.channel.request("start", {"leg": leg_id, "order": order})
        lost = current.follow(watch, lambda _kind, _body: None)
        notes["timeline"] = watch.timeline
        notes["callback"] = watch.events.get("callback")
        notes["failed"] = watch.events.get("failed")
        notes["images"] = watch.events.get("images")
        notes["started"] = watch.events.get("started")
        if "exit" in watch.events:
            notes["exit"] = watch.events["exit"]["exit"]
        if lost is not None:
            return lost
        for item in material.values():
            current.channel.request("drop", {"name": item})
        try:
            notes["adapterSha256"] = tensor_digest(current.channel.fetch(f"{leg_id}-adapter"))
            current.channel.request("drop", {"name": f"{leg_id}-adapter"})
        except (ProtocolError, IntegrityError):
            notes["adapterSha256"] = None
        return _ended(notes["callback"], notes["failed"])


def _ended(callback: object, failed: dict[str, Json] | None) -> Ended | None:
    if failed is not None:
        return Ended(
            outcome="failed",
            reason=f"raw leg failed: {failed['reason']}",
            decision="the row ended here; the protected leg has nothing to be compared with",
        )
    if callback is None:
        return Ended(
            outcome="excluded",
            reason="the raw callback never reported completion, although the leg's process ended",
            decision="excluded from the public overhead number",
        )
    return None
