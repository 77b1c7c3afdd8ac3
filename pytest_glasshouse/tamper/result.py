"""The result of a tamper case, and the one rule for whether it passed.

Knows a case's result as the suite and as a report hold it. Imports nothing heavy: reports are made and checked with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, cast

#: What became of the attacked nonce. `unasked` where the case is about something else.
Nonce = Literal["spent", "open", "unasked"]
#: A report's names of the fields.
_NAMES = {
    "name": "name", "expectedReason": "expected_reason", "seenReason": "seen_reason", "released": "released",
    "controlReleased": "control_released", "expectedNonce": "expected_nonce", "seenNonce": "seen_nonce", "caughtBy": "caught_by",
}  # fmt: skip


class TamperRecord(TypedDict):
    """One case of the tamper suite, as a report holds it."""

    name: str
    expectedReason: str | None
    seenReason: str | None
    released: bool
    controlReleased: bool
    expectedNonce: str
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
    seen_nonce: Nonce

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
        named = {name: getattr(self, field) for name, field in _NAMES.items()}
        return cast("TamperRecord", {**named, "passed": self.passed})

    @classmethod
    def from_json(cls, case: Mapping[str, Any]) -> TamperResult:
        """The result that a report, validated by its schema, holds as `case`."""
        return cls(**{field: case[name] for name, field in _NAMES.items()})
