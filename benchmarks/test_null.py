"""Raw against raw: what an allocation shows where nothing differs. An overhead smaller than that is not to be told from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_glasshouse.invariants import (
    adapter_digests_distinct,
    adapters_trained,
    assert_held,
    legs_in_order,
    losses_finite,
    raw_callback_completed,
    same_allocation,
    same_work,
    time_accounted_for,
)
from pytest_glasshouse.rows import NULL_ROWS

if TYPE_CHECKING:
    from pytest_glasshouse.plugin.fixtures import RowReport
    from pytest_glasshouse.rows import RowSpec


@pytest.mark.parametrize("row", NULL_ROWS)
def test_null(row: RowSpec, allocation: Any, protected_runtime: Any, raw_runner: Any, row_report: RowReport) -> None:
    outcome = row.run(allocation, protected_runtime, raw_runner)
    row_report.record(outcome)
    assert_held(
        outcome,
        raw_callback_completed,
        legs_in_order,
        time_accounted_for,
        adapter_digests_distinct,
        adapters_trained,
        losses_finite,
        same_allocation,
        same_work,
    )
