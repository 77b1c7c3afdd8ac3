"""Honest legs are believed: the same code that `docs/cheating.md` reports whole runs of, with few rows."""

from __future__ import annotations

import pytest

from tests.calibration import honest


def test_honest_simulated_rows_are_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    with honest.Testbed() as testbed:
        assert [honest.simulated(number, testbed) for number in range(20)] == [""] * 20
        # What is simulated is judged: legs that end far from each other are not believed.
        monkeypatch.setattr(honest, "_LOSS", 2.0)
        assert any(honest.simulated(number, testbed) for number in range(20))


def test_a_single_honest_round_is_rarely_below_what_null_rows_show() -> None:
    assert sum(map(honest.too_low, range(500))) <= 5
