"""A tamper case: a valid message with one mutation, and the one reason it must be refused with.

Knows how to run a case. A refusal alone proves nothing, so every run also shows that the message without the mutation is
released.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pytest_glasshouse.errors import GlasshouseError, IntegrityError, RefusedError
from pytest_glasshouse.tamper.result import Nonce, TamperResult
from pytest_glasshouse.tamper.testbed import TamperTestbed

#: What the attack must not obtain.
Asset = Literal["key", "receipt", "plaintext", "journal"]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One mutation. `play` carries it out on a testbed and raises the refusal it meets.

    `expected_reason` is None for the control, which must be released. `caught_by` names the check that must refuse.
    """

    name: str
    play: Callable[[TamperTestbed], None]
    expected_reason: str | None
    caught_by: str | None
    published: bool = False
    nonce: Nonce = "unasked"
    asset: Asset = "key"


def run_case(case: Case) -> TamperResult:
    """Play `case` on a testbed of its own: a real server over loopback HTTP, real keys, a real package."""
    with TamperTestbed() as testbed:
        return attack(case, testbed, control_released=_control(testbed))


def attack(case: Case, testbed: TamperTestbed, *, control_released: bool) -> TamperResult:
    """Play `case` on this testbed, whatever came of the message without the mutation."""
    testbed.reset_release_count()
    seen_reason: str | None = None
    try:
        case.play(testbed)
    except (RefusedError, IntegrityError) as refusal:
        seen_reason = refusal.reason
    released = seen_reason is None or (case.asset == "key" and testbed.releases_since_reset() > 0)
    return TamperResult(
        name=case.name,
        expected_reason=case.expected_reason,
        seen_reason=seen_reason,
        released=released,
        caught_by=case.caught_by,
        control_released=control_released,
        expected_nonce=case.nonce,
        seen_nonce="unasked" if case.nonce == "unasked" else testbed.nonce_state(),
    )


def _control(testbed: TamperTestbed) -> bool:
    """The whole lifecycle without a mutation: key released, package opened, journal countersigned."""
    attempt = testbed.attempt()
    try:
        attempt.run_lifecycle()
    except GlasshouseError:
        return False
    return testbed.releases_since_reset() == 1
