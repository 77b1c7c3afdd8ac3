"""Every report that was ever published passes `glasshouse check`, as it did on its day."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_glasshouse.check.check import check_file

PUBLISHED = sorted((Path(__file__).parents[2] / "reports" / "published").rglob("*.json"))


def test_some_report_is_published() -> None:
    assert PUBLISHED


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: str(path.stem))
def test_published_report_has_no_fault(path: Path) -> None:
    assert check_file(path).faults == ()
