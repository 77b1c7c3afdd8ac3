"""One device's evidence, not yet judged, and what every appraiser of a kind of device has in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from pytest_glasshouse.errors import IntegrityError, RefusedError
from pytest_glasshouse.owner.policy import Policy
from pytest_glasshouse.wire.canonical import Json
from pytest_glasshouse.wire.evidence import Cnf

#: AR4SI's tiers, the worst last. `none` makes no statement.
NONE, AFFIRMING, WARNING, CONTRAINDICATED = "none", "affirming", "warning", "contraindicated"
TIERS = (NONE, AFFIRMING, WARNING, CONTRAINDICATED)

HardwareClaims = dict[str, Json]


@dataclass(frozen=True, kw_only=True)
class DeviceEvidence:
    """One device's evidence. `endorsements` are texts whose meaning the kind of device defines."""

    type: str
    evidence: str
    endorsements: tuple[str, ...]


class Appraiser(Protocol):
    """Appraises one kind of device."""

    def appraise(self, item: DeviceEvidence, nonce: str, cnf: Cnf, policy: Policy) -> tuple[str, HardwareClaims]:
        """The tier and the claims about the device, with the `reason` where it is contraindicated.

        `id` among the claims tells one device from another of its kind.
        """
        ...


def judged(judge: Callable[[], HardwareClaims]) -> tuple[str, HardwareClaims]:
    """Affirming with what `judge` claims, or contraindicated with the reason that it refuses for."""
    try:
        return AFFIRMING, judge()
    except (RefusedError, IntegrityError) as refusal:
        return CONTRAINDICATED, {"reason": refusal.reason, "detail": refusal.detail}
