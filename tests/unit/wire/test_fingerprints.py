"""What a leg asks its agent to look for is read, or refused before anything is looked for."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_glasshouse.errors import ProtocolError
from pytest_glasshouse.wire.fingerprints import Patterns, read_patterns


def test_patterns_are_read_as_they_were_made() -> None:
    patterns = Patterns(salt=b"s" * 16)
    made = patterns.of("data", memoryview(bytes(range(1, 17))))
    assert read_patterns({"salt": patterns.salt.hex(), "patterns": [made.to_json()]}) == (patterns.salt, [made])


@pytest.mark.parametrize(
    "body", [{}, {"salt": "00"}, {"patterns": []}, {"salt": 0, "patterns": []}, {"salt": "00", "patterns": {}}]
)
def test_scan_without_salt_or_patterns_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError, match="a salt and a list of patterns"):
        read_patterns(body)
