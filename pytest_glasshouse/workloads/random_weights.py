"""A file of random weights in bfloat16, the same bytes on every machine, made piece by piece and never held whole.

The bytes of a tensor are an AES-CTR key stream under a key from its name, of which each number keeps its sign, its lowest bit of
the exponent and its fraction. No rounding and no library's generator is in it, so that a digest of the file holds everywhere.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from pytest_glasshouse.wire.tensors import LENGTH_BYTES, TensorEntry, parse_safetensors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_DOMAIN = "pytest-glasshouse/random-weights/v1"
_ITEM_BYTES = 2
_PIECE_BYTES = 4 << 20
#: What a number keeps of the key stream: its sign, the lowest bit of the exponent, and the fraction.
_KEPT = 0x80FF
#: 1.0 in bfloat16, little-endian.
_ONE = b"\x80\x3f"


@dataclass(frozen=True, kw_only=True)
class RandomFile:
    """One safetensors file. `tensors` are shapes by name; those in `ones` are filled with 1.

    Each number has a random sign and a magnitude from 2 ** `exponent` to four times that; `exponent` is odd.
    """

    name: str
    seed: int
    exponent: int
    tensors: Mapping[str, tuple[int, ...]] = field(repr=False)
    ones: frozenset[str] = field(default=frozenset(), repr=False)

    @cached_property
    def head(self) -> bytes:
        """The file's beginning, which names its tensors."""
        described: dict[str, object] = {"__metadata__": {"format": "pt"}}
        at = 0
        for name, shape in self.tensors.items():
            end = at + _ITEM_BYTES * math.prod(shape)
            described[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, end]}
            at = end
        text = json.dumps(described, separators=(",", ":")).encode()
        text += b" " * (-len(text) % LENGTH_BYTES)
        return len(text).to_bytes(LENGTH_BYTES, "little") + text

    @cached_property
    def size(self) -> int:
        """Bytes of the whole file."""
        return len(self.head) + _ITEM_BYTES * sum(math.prod(shape) for shape in self.tensors.values())

    def __len__(self) -> int:
        return self.size

    def entries(self) -> dict[str, TensorEntry]:
        """Every tensor, by name."""
        return parse_safetensors(self.head, total=self.size)

    def pieces(self) -> Iterator[memoryview]:
        """The file from its first byte to its last, in memory that holds each piece until the next one is asked for."""
        yield memoryview(self.head)
        for name, shape in self.tensors.items():
            size = _ITEM_BYTES * math.prod(shape)
            yield from _ones(size) if name in self.ones else _drawn(f"{self.seed}/{name}", size, exponent=self.exponent)

    @contextlib.contextmanager
    def reading(self) -> Iterator[Callable[[int], memoryview]]:
        """As `wire.part_file.PartSource` says."""
        pieces, rest, out = self.pieces(), memoryview(b""), bytearray()

        def take(size: int) -> memoryview:
            nonlocal rest, out
            if len(out) < size:
                out = bytearray(size)
            filled = 0
            while filled < size:
                rest = rest or next(pieces)
                count = min(len(rest), size - filled)
                out[filled : filled + count] = rest[:count]
                rest, filled = rest[count:], filled + count
            return memoryview(out)[:size]

        yield take

    def sha256(self) -> str:
        """The digest of the file's bytes, all of which it makes."""
        digest = hashlib.sha256()
        for piece in self.pieces():
            digest.update(piece)
        return digest.hexdigest()


def _ones(size: int) -> Iterator[memoryview]:
    content = memoryview(_ONE * (min(size, _PIECE_BYTES) // _ITEM_BYTES))
    for at in range(0, size, _PIECE_BYTES):
        yield content[: min(_PIECE_BYTES, size - at)]


def _drawn(name: str, size: int, *, exponent: int) -> Iterator[memoryview]:
    import numpy as np
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    key = hashlib.sha256(f"{_DOMAIN}\n{name}".encode()).digest()
    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    zeros, buffer = memoryview(bytes(_PIECE_BYTES)), bytearray(_PIECE_BYTES + 16)
    numbers = np.frombuffer(buffer, dtype="<u2", count=_PIECE_BYTES // _ITEM_BYTES)
    for at in range(0, size, _PIECE_BYTES):
        count = min(_PIECE_BYTES, size - at)
        stream.update_into(zeros[:count], buffer)
        some = numbers[: count // _ITEM_BYTES]
        some &= _KEPT
        some |= (exponent + 127) << 7
        yield memoryview(buffer)[:count]
