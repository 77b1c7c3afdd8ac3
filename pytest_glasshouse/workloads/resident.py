"""A part in device memory only, and limited reads of it through a staging buffer.

No more can be read back than fits the staging buffer: that host memory is counted as exposure, locked where the system allows,
and wiped by its owner.
"""

from __future__ import annotations

from typing import Any

from pytest_glasshouse.errors import IntegrityError


class Resident:
    """`octets` is a flat uint8 tensor on the device, `staging` host memory that the caller owns."""

    def __init__(self, octets: Any, staging: memoryview) -> None:
        self.octets = octets
        self._staging = staging
        self._used = 0

    def __len__(self) -> int:
        return int(self.octets.numel())

    def __bytes__(self) -> bytes:
        """All bytes, as a copy that nothing wipes. For tests; legs do not use it."""
        return bytes(self.octets.cpu().numpy())

    def read(self, start: int, end: int) -> memoryview:
        """The bytes from `start` to `end`, appended to the staging buffer, where they stay until its owner wipes it."""
        import torch

        place = self._staging[self._used : self._used + end - start]
        if end > len(self) or len(place) != end - start:
            raise IntegrityError("parts", "more than may be read back from the device")
        if len(place):
            torch.frombuffer(place, dtype=torch.uint8).copy_(self.octets[start:end])
        self._used += len(place)
        return place

    def rewind(self) -> None:
        """Reuse the staging buffer from its beginning."""
        self._used = 0

    def close(self) -> None:
        """Zero the device memory, then drop it."""
        self.octets.zero_()
        self.octets = self.octets[:0].clone()


class Rows:
    """The rows of one tensor of a resident part; each is read back on access."""

    def __init__(self, part: Resident, start: int, row_bytes: int) -> None:
        self._part = part
        self._start = start
        self._row_bytes = row_bytes

    def __getitem__(self, index: int) -> memoryview:
        at = self._start + index * self._row_bytes
        return self._part.read(at, at + self._row_bytes)
