"""A directory of reports is not checked whole each time, and no verdict outlives what it was about."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pytest_glasshouse.check import verdict_cache
from pytest_glasshouse.check.check import load_document
from pytest_glasshouse.check.verdict_cache import VerdictCache
from pytest_glasshouse.cli.main import main

REPORT = (Path(__file__).parents[2] / "data" / "reports" / "report-1.0-mock.json").read_bytes()


@pytest.fixture(name="checks")
def counted_checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The size of everything that was checked, in a cache directory of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    seen: list[int] = []
    check = verdict_cache._checked

    def counting(document: Any, data: bytes, derivation: Any) -> str:
        seen.append(len(data))
        return check(document, data, derivation)

    monkeypatch.setattr(verdict_cache, "_checked", counting)
    return seen


def kept(data: bytes = REPORT) -> str:
    cache = VerdictCache(None, keep=True)
    try:
        return cache.faults_of(load_document(data), data)
    finally:
        cache.close()


def test_report_is_checked_once(checks: list[int]) -> None:
    assert (kept(), kept(), len(checks)) == ("", "", 1)


def test_changed_report_is_checked_again_and_stays_faulty(checks: list[int]) -> None:
    kept()
    changed = re.sub(rb'"overheadPct": [-0-9.]+', b'"overheadPct": 12.5', REPORT, count=1)

    assert changed != REPORT
    assert "fault" in kept(changed)
    assert kept(changed) == kept(changed)
    assert len(checks) == 2


def test_another_version_of_the_code_checks_again(checks: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    kept()
    monkeypatch.setattr(verdict_cache, "_digest_of_code", lambda: b"another")
    kept()

    assert len(checks) == 2


@pytest.mark.parametrize("content", ["", "[1]", "{", json.dumps({"x": 1}), "\x00" * 100])
def test_cache_that_is_none_costs_a_check_and_nothing_else(checks: list[int], tmp_path: Path, content: str) -> None:
    path = tmp_path / "cache" / "glasshouse" / "checked.json"
    path.parent.mkdir(parents=True)
    path.write_text(content, "utf-8")
    path.chmod(0o600)

    assert (kept(), kept(), len(checks)) == ("", "", 1)


def test_cache_that_others_may_write_is_not_believed(checks: list[int], tmp_path: Path) -> None:
    """Whoever may write it could call a forged report sound."""
    kept()
    (tmp_path / "cache" / "glasshouse" / "checked.json").chmod(0o666)
    kept()

    assert len(checks) == 2


def test_history_and_site_do_not_check_again_what_was_checked(checks: list[int], tmp_path: Path) -> None:
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "run.json").write_bytes(REPORT)
    for _ in range(2):
        assert main(["history", str(tmp_path / "reports")]) == 0
        assert main(["site", str(tmp_path / "reports"), "--out", str(tmp_path / "public")]) == 0

    assert len(checks) == 1
