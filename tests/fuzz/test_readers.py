"""Every reader of untrusted input refuses it cleanly or reads it correctly."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS, Target

#: `make soak` looks further.
EXAMPLES = 5_000 if os.environ.get("SOAK") else 300
SLOW = {
    "report-reader": 40, "report-bytes-reader": 60, "bundle-reader": 60, "provider-answers": 150, "guest-messages": 80,
}  # fmt: skip


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_reader_parses_arbitrary_bytes_or_refuses_them(target: Target, request: pytest.FixtureRequest) -> None:
    """No other exception than the one promised, no hang, no release, nothing left behind."""
    examples = EXAMPLES if os.environ.get("SOAK") else SLOW.get(request.node.callspec.id, EXAMPLES)

    @settings(
        max_examples=examples, deadline=None, database=None, derandomize=True, print_blob=True,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.binary(max_size=120))
    def fed(data: bytes) -> None:
        target(data)

    fed()
