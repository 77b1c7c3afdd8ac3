"""Reports for tests of the gate."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from tests.unit.report import example

MADE_AT = datetime(2026, 11, 20, 17, 0, tzinfo=UTC)


def good(*, rounds: int = 6, name: str = "mlp-h100-60s", **changes: Any) -> Any:
    """A row as declared on the GPU it names, under a policy that asks for all."""
    declared = example.row(name=name, rounds=rounds)
    seen = example.observation(rounds=rounds, unseen=())
    for observed in seen["rounds"]:
        observed["protected"]["policy"] |= {
            "antidebug": {"profile": "strict", "version": 1},
            "release_limit": 1,
        }
    given = {"row": declared, "declared": declared, "observation": seen, "rounds": rounds, "name": name, **changes}
    return example.publishable(**given)


GOOD = good()


def report(*records: Any, **changes: Any) -> Any:
    """A sealed report without a tamper suite."""
    return example.assembled(records or (GOOD,), **changes)
