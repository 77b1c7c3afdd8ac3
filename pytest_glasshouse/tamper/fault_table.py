"""Which fault breaks which invariant: mock faults that are really played, and observations with one change.

An observation case changes the observation of a good row, and signs again where the signature would otherwise give the change
away. It must break `invariant` and no other.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pytest_glasshouse.tamper.testbed import Editable
from pytest_glasshouse.wire import evidence, tokens

#: The invariants that each fault of the mock provider must break: a leg that does not zeroize also holds copies, and its
#: journal lacks a step; an adapter that was not trained on the package is seen as that by its owner. Faults that end a row
#: before it is judged (boot-stall, no-capacity, a lost guest) break nothing: their findings are `unseen`.
FAULT_BREAKS: dict[str, tuple[str, ...]] = {
    "attestation-reject": ("attestation verified",),
    "key-unattested": ("key released only after attestation",),
    "weights-foreign": ("weights loaded from the package", "work witnessed"),
    "zeroize-skipped": ("runtime zeroized", "memory scanned clean", "journal countersigned"),
    "journal-truncated": ("journal countersigned",),
    "raw-callback-lost": ("raw callback completed",),
    "adapter-copied": ("adapter digests distinct", "work witnessed"),
    "adapter-untrained": ("both adapters trained", "work witnessed"),
    "nonfinite-loss": ("losses finite",),
    "reboot-between-legs": ("same allocation",),
    "work-differs": ("same work", "work witnessed"),
    "deferred-cost": ("paused leg idle",),
    "clock-slowed": ("work witnessed",),
    "units-inflated": ("work witnessed",),
    "steps-skipped": ("work witnessed",),
    "wash-out-stretched": ("work witnessed",),
}
#: Faults that show only in interleaved rows.
INTERLEAVED_FAULTS = ("deferred-cost", "wash-out-stretched")


@dataclass(frozen=True, kw_only=True)
class ObservedCase:
    """One change to an observation that breaks exactly `invariant`."""

    name: str
    invariant: str
    change: Callable[[Editable], None]

    def applied(self, observation: Editable) -> Editable:
        """A changed copy."""
        changed = copy.deepcopy(observation)
        self.change(changed)
        return changed


def _overlap(observation: Editable) -> None:
    notes = observation["rounds"][0]
    first, second = notes["order"]
    notes[second]["timeline"]["spawned"] = notes[first]["timeline"]["exit"] - 1_000_000


def _dirty_scan(observation: Editable) -> None:
    scan: Any = tokens.peek(observation["rounds"][0]["protected"]["exit"])["scan"]
    _resign_exit(observation, scan={**scan, "status": "dirty", "copies": 2, "left": {evidence.SCAN_KEY: 2}})


def _resign_exit(observation: Editable, **changed: Any) -> None:
    """Change the protected leg's exit, and sign everything of the round's agent again with one new key."""
    notes, agent = observation["rounds"][0], Ed25519PrivateKey.generate()
    for name, typ in (("exit", evidence.TYP_EXIT), ("evidence", evidence.TYP_EVIDENCE)):
        claims = tokens.peek(notes["protected"][name])
        notes["protected"][name] = tokens.sign({**claims, **(changed if name == "exit" else {})}, key=agent, typ=typ)
    notes["raw"]["exit"] = tokens.sign(tokens.peek(notes["raw"]["exit"]), key=agent, typ=evidence.TYP_EXIT)
    for met in (notes["protected"], *notes["guest"]):
        met["ak"] = tokens.public_text(agent.public_key())


def _no_time(observation: Editable) -> None:
    """A leg that took a millisecond by the host's clock."""
    host = observation["rounds"][0]["raw"]["host"]
    host["exitNs"] = host["startNs"] + 1_000_000


OBSERVED_CASES = (
    ObservedCase(name="legs overlap", invariant="legs in order, not overlapping", change=_overlap),
    ObservedCase(name="scan finds copies", invariant="memory scanned clean", change=_dirty_scan),
    ObservedCase(name="time that did not pass", invariant="time accounted for", change=_no_time),
)
