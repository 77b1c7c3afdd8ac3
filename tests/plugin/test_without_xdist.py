"""pytest-xdist is an extra: nothing of ours may need it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.plugin.conftest import Project


def test_rows_run_without_xdist(project: Project) -> None:
    result = project.rows("good").spawn("-p", "no:xdist", "-p", "no:xdist.looponfail")
    assert result.ret == pytest.ExitCode.OK
    assert len(project.report()["rows"]) == 1
