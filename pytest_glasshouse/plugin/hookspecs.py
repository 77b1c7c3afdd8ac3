"""The hooks other plugins and conftest files may implement."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pytest_glasshouse.analysis.fields import RowRecord


@pytest.hookspec
def pytest_glasshouse_row_finished(config: pytest.Config, list_name: str, record: RowRecord) -> None:
    """Called in the process that writes the report as each row ends, with the record and the report's list it goes to."""


@pytest.hookspec
def pytest_glasshouse_report_written(config: pytest.Config, paths: Sequence[Path]) -> None:
    """Called after the report and its bundle were published, with their paths."""
