"""The result of a tamper case, and the one rule for whether it passed.

Knows a case's result as the suite and as a report hold it. Imports nothing heavy: reports are made and checked with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypedDict

#: What became of the attacked nonce. `unasked` where the case is about something else.
Nonce = Literal["spent", "open", "unasked"]


class TamperRecord(TypedDict):
    """One case of the tamper suite, as a report holds it."""

    name: str
    expectedReason: str | None
    seenReason: str | None
    released: bool
    controlReleased: bool
    expectedNonce: Nonce
    seenNonce: str
    caughtBy: str | None
    passed: bool


@dataclass(frozen=True, kw_only=True)
class TamperResult:
    """One case's result.

    `released` says whether the protected asset was obtained; `seen_reason` is None when nothing was refused.
    """

    name: str
    expected_reason: str | None
    seen_reason: str | None
    released: bool
    caught_by: str | None
    control_released: bool
    expected_nonce: Nonce
    seen_nonce: str

    @property
    def passed(self) -> bool:
        """Refused with exactly the expected reason and nothing released (or, as the control, released); nonce as stated."""
        return (
            self.seen_reason == self.expected_reason
            and self.released is (self.expected_reason is None)
            and self.seen_nonce == self.expected_nonce
            and self.control_released
        )

    def to_json(self) -> TamperRecord:
        """The result as a report holds it."""
        return {
            "name": self.name,
            "expectedReason": self.expected_reason,
            "seenReason": self.seen_reason,
            "released": self.released,
            "controlReleased": self.control_released,
            "expectedNonce": self.expected_nonce,
            "seenNonce": self.seen_nonce,
            "caughtBy": self.caught_by,
            "passed": self.passed,
        }

    @classmethod
    def from_json(cls, case: TamperRecord) -> TamperResult:
        """The result that a report, validated by its schema, holds as `case`."""
        return cls(
            name=case["name"],
            expected_reason=case["expectedReason"],
            seen_reason=case["seenReason"],
            released=case["released"],
            caught_by=case["caughtBy"],
            control_released=case["controlReleased"],
            expected_nonce=case["expectedNonce"],
            seen_nonce=case["seenNonce"],
        )
