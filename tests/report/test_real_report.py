"""A real run's report and bundle are free of faults and authentic to whoever has the keys."""

from __future__ import annotations

from pytest_glasshouse.check.check import Level, check_bytes, check_file
from tests.report.conftest import RealRun


def test_real_report_and_bundle_are_consistent_and_with_the_keys_authentic(real_run: RealRun) -> None:
    """What the forger's tests change is right before they change it."""
    for path in (real_run.report, real_run.bundle_path):
        assert check_file(path).faults == ()
        assert (check_file(path).level, check_file(path, trust=real_run.trust).level) == (Level.CONSISTENT, Level.AUTHENTIC)


def test_checking_the_same_bytes_twice_gives_the_same_result(real_run: RealRun) -> None:
    """Offline: two answers from the same bytes are one answer."""
    assert check_bytes(real_run.bundle, trust=real_run.trust) == check_bytes(real_run.bundle, trust=real_run.trust)
