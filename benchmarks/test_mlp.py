"""Rows that train the MLP: the published ones, and ours for any GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_glasshouse.invariants import (
    adapter_digests_distinct,
    adapters_trained,
    assert_held,
    attestation_verified,
    journal_countersigned,
    key_released_after_attestation,
    legs_in_order,
    losses_finite,
    memory_scanned_clean,
    paused_leg_idle,
    raw_callback_completed,
    runtime_zeroized,
    same_allocation,
    same_work,
    time_accounted_for,
    weights_from_package,
)
from pytest_glasshouse.rows import MLP_ROWS

if TYPE_CHECKING:
    from pytest_glasshouse.plugin.fixtures import RowReport
    from pytest_glasshouse.rows import RowSpec


@pytest.mark.parametrize("row", MLP_ROWS)
def test_mlp(row: RowSpec, allocation: Any, protected_runtime: Any, raw_runner: Any, row_report: RowReport) -> None:
    outcome = row.run(allocation, protected_runtime, raw_runner)
    row_report.record(outcome)
    assert_held(
        outcome,
        attestation_verified,
        key_released_after_attestation,
        weights_from_package,
        runtime_zeroized,
        memory_scanned_clean,
        journal_countersigned,
        raw_callback_completed,
        legs_in_order,
        time_accounted_for,
        adapter_digests_distinct,
        adapters_trained,
        losses_finite,
        same_allocation,
        same_work,
        paused_leg_idle,
    )
