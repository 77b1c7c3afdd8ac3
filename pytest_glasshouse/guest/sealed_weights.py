"""Pieces of a sealed model's weights, where the host's memory has them: what the memory scan looks for beside keys and data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_glasshouse.wire.fingerprints import LONGEST
from pytest_glasshouse.wire.package import SEALED_WEIGHTS
from pytest_glasshouse.wire.tensors import LENGTH_BYTES, head_bytes
from pytest_glasshouse.workloads.resident import Resident

if TYPE_CHECKING:
    from pytest_glasshouse.workloads.base import Parts

#: How many places of a part are looked for.
PLACES = 8
_WORD = 8


def searched_weights(parts: Parts) -> list[memoryview]:
    """Samples of each part of weights, without the head, which is parsed and no secret; none in a row that seals no model.

    Where weights are on a device, some of one part are read back: the transfer's host memory holds those until it is wiped.
    """
    samples: list[memoryview] = []
    for name in sorted(name for name in parts if name.startswith(SEALED_WEIGHTS)):
        part = parts[name]
        if isinstance(part, Resident):
            return _read_back(part)
        view = memoryview(part).cast("B")
        samples.append(view[_begin(view[:LENGTH_BYTES]) :])
    return samples


def _begin(first: memoryview) -> int:
    """Where the numbers begin, at a multiple of a word."""
    return -(-head_bytes(first) // _WORD) * _WORD


def _read_back(part: Resident) -> list[memoryview]:
    begin = _begin(part.read(0, min(LENGTH_BYTES, len(part))))
    part.rewind()
    step = max(LONGEST, (len(part) - begin) // PLACES)
    try:
        return [part.read(at, at + LONGEST) for at in range(begin, len(part) - LONGEST + 1, step)][:PLACES]
    finally:
        part.rewind()
