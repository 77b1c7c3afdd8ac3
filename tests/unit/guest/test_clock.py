from __future__ import annotations

from pytest_glasshouse.guest.clock import now_ns
from pytest_glasshouse.wire.canonical import INTEGER_LIMIT, canonical


def test_the_clock_of_a_machine_up_for_a_year_fits_canonical_json() -> None:
    """Nanoseconds since its start are more than canonical JSON holds after 104 days; a rented machine may be up longer."""
    year_ns = 365 * 86_400 * 10**9
    assert year_ns > INTEGER_LIMIT
    canonical({"t_ns": now_ns(lambda: year_ns)})
    assert now_ns(lambda: year_ns + 7) - now_ns(lambda: year_ns) == 7
    assert 0 <= now_ns() <= INTEGER_LIMIT
