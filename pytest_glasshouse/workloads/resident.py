"""A part that lies on the device and nowhere else: the host has seen it in pieces, and keeps none.

Knows a flat tensor of bytes and the piece of host memory through which a little of it may be read back. Refuses to read
back more than fits there: that memory is counted, locked where the system allows, and wiped by whoever owns it.
"""

from __future__ import annotations

from typing import Any

from pytest_glasshouse.errors import IntegrityError


class Resident:
    """`octets` is a flat uint8 tensor on the device, `staging` host memory of its owner's."""

    def __init__(self, octets: Any, staging: memoryview) -> None:
        self.octets = octets
        self._staging = staging
        self._used = 0

    def __len__(self) -> int:
        return int(self.octets.numel())

    def __bytes__(self) -> bytes:
        """All of it, as a copy nobody wipes. No honest leg asks for it."""
        return bytes(self.octets.cpu().numpy())

    def read(self, start: int, end: int) -> memoryview:
        """The bytes from `start` to `end`, read back behind what was read back before; they stay until the owner wipes."""
        import torch

        place = self._staging[self._used : self._used + end - start]
        if end > len(self) or len(place) != end - start:
            raise IntegrityError("parts", "more than may be read back from the device")
        if len(place):
            torch.frombuffer(place, dtype=torch.uint8).copy_(self.octets[start:end])
        self._used += len(place)
        return place

    def rewind(self) -> None:
        """What was read back may be written over."""
        self._used = 0

    def close(self) -> None:
        """Zero it on the device, then drop it."""
        self.octets.zero_()
        self.octets = self.octets[:0].clone()


class Rows:
    """The rows of one tensor of a resident part; each is read back when it is asked for."""

    def __init__(self, part: Resident, start: int, row_bytes: int) -> None:
        self._part = part
        self._start = start
        self._row_bytes = row_bytes

    def __getitem__(self, index: int) -> memoryview:
        at = self._start + index * self._row_bytes
        return self._part.read(at, at + self._row_bytes)
