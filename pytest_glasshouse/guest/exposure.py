"""How much plaintext lay in host memory, and how long: bytes times seconds, and the most there was at one time.

Counted is what the leg put there itself: the data key and the opened package. What training makes of it is not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_glasshouse.wire.canonical import Json

_NS = 1_000_000_000


class Exposure:
    """A running account. `clock_ns` is monotonic."""

    def __init__(self, clock_ns: Callable[[], int]) -> None:
        self._clock_ns = clock_ns
        self._since_ns = clock_ns()
        self._held = 0
        self._byte_ns = 0
        self.peak_bytes = 0

    def change(self, by: int) -> None:
        """From now on `by` bytes more, or fewer, are held."""
        now = self._clock_ns()
        self._byte_ns += self._held * (now - self._since_ns)
        self._since_ns = now
        self._held += by
        self.peak_bytes = max(self.peak_bytes, self._held)

    def to_json(self) -> dict[str, Json]:
        """Whole byte-seconds until the last change, rounded up, and the peak."""
        return {"exposure_byte_s": -(-self._byte_ns // _NS), "exposure_peak_bytes": self.peak_bytes}
