"""One tamper case: a message that is right in every respect but one, and the one reason it must be refused with.

Knows how to run a case and what counts as proof. A refusal alone proves nothing, so every case also shows that the same
message without the mutation is released.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pytest_glasshouse.errors import GlasshouseError, IntegrityError, RefusedError
from pytest_glasshouse.tamper.testbed import TamperTestbed

#: What became of the attacked nonce. `unasked` where the case is about something else.
Nonce = Literal["spent", "open", "unasked"]
#: What must not come out.
Withheld = Literal["key", "receipt", "plaintext", "journal"]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One mutation. `play` carries it out on a stage and raises whatever refusal it meets.

    `expected_reason` is None for the control, which must be released. `caught_by` names the check that has to notice.
    """

    name: str
    play: Callable[[TamperTestbed], None]
    expected_reason: str | None
    caught_by: str | None
    published: bool = False
    nonce: Nonce = "unasked"
    withheld: Withheld = "key"


@dataclass(frozen=True, kw_only=True)
class TamperResult:
    """What a case met. `released` says whether what must be withheld came out; `seen_reason` is None when nothing refused."""

    name: str
    expected_reason: str | None
    seen_reason: str | None
    released: bool
    caught_by: str | None
    control_released: bool
    expected_nonce: Nonce
    seen_nonce: Nonce

    @property
    def passed(self) -> bool:
        """Refused for the expected reason and no other, nothing came out, the nonce is as stated, the control was released."""
        return (
            self.seen_reason == self.expected_reason
            and self.released is (self.expected_reason is None)
            and self.seen_nonce == self.expected_nonce
            and self.control_released
        )


def run_case(case: Case) -> TamperResult:
    """Play `case` on a stage of its own: a real server over real loopback HTTP, real keys, a real package."""
    with TamperTestbed() as stage:
        control_released = _control(stage)
        stage.count_from_here()
        seen_reason: str | None = None
        try:
            case.play(stage)
        except (RefusedError, IntegrityError) as refusal:
            seen_reason = refusal.reason
        released = seen_reason is None or (case.withheld == "key" and stage.released_since() > 0)
        return TamperResult(
            name=case.name,
            expected_reason=case.expected_reason,
            seen_reason=seen_reason,
            released=released,
            caught_by=case.caught_by,
            control_released=control_released,
            expected_nonce=case.nonce,
            seen_nonce="unasked" if case.nonce == "unasked" else stage.nonce_now(),
        )


def _control(stage: TamperTestbed) -> bool:
    """The whole lifecycle without a mutation: key released, package opened, journal countersigned."""
    attempt = stage.attempt()
    try:
        attempt.live_through()
    except GlasshouseError:
        return False
    return stage.released_since() == 1
