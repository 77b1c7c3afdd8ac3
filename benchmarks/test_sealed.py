"""A row whose base model is in the sealed package: the lifecycle and the protected rate, without a raw leg and an overhead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_glasshouse.invariants import SEALED, assert_held
from pytest_glasshouse.rows import SEALED_ROWS

if TYPE_CHECKING:
    from pytest_glasshouse.plugin.fixtures import RowReport
    from pytest_glasshouse.rows import RowSpec


@pytest.mark.parametrize("row", SEALED_ROWS)
def test_sealed(row: RowSpec, allocation: Any, protected_runtime: Any, raw_runner: Any, row_report: RowReport) -> None:
    outcome = row.run(allocation, protected_runtime, raw_runner)
    row_report.record(outcome)
    assert_held(outcome, *SEALED)
