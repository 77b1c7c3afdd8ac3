"""Exposure is bytes times the time they were held."""

from __future__ import annotations

from pytest_glasshouse.guest.exposure import Exposure


def test_exposure_adds_bytes_times_seconds_and_keeps_the_peak() -> None:
    """What lay there twice as long was twice as exposed."""
    now = [0]
    exposure = Exposure(lambda: now[0])
    for after_s, by in ((5, 100), (2, 50), (1, -100), (4, -50), (9, 0)):
        now[0] += after_s * 1_000_000_000
        exposure.change(by)
    assert exposure.to_json() == {"exposure_byte_s": 100 * 2 + 150 * 1 + 50 * 4, "exposure_peak_bytes": 150}
