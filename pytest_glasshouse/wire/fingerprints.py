"""Patterns a memory scan searches for: of each window of a secret a short fingerprint and a salted digest.

The leg makes patterns from secrets where they lie, in numpy arrays of its own that it wipes: a pattern that left a copy of
its secret behind would be found by the scan it is for. The patterns give away 20 bits of a window and a
digest: enough to recognise the window, not to reconstruct it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_glasshouse.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pytest_glasshouse.wire.canonical import Json

#: The shortest piece of a secret that counts as a copy of it.
WINDOW = 16
#: The longest pattern: numbers that are mostly zero bytes need more of them to be unmistakable.
LONGEST = 64
#: How many bits of a window its fingerprint gives away.
MARK_BITS = 20
SALT_BYTES = 32
_DISTINCTIVE_BYTES = 12
_WORD = 8


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """One window of a secret of `kind`: the fingerprint of its first 16 bytes, and a digest of all `length`."""

    kind: str
    length: int
    mark: int
    digest: str

    def to_json(self) -> dict[str, Json]:
        """As the leg sends it to its agent."""
        return {"kind": self.kind, "length": self.length, "mark": self.mark, "digest": self.digest}

    @classmethod
    def from_json(cls, body: Json) -> Pattern:
        """Read one. Raises `ProtocolError` for anything that is none."""
        fields = body if isinstance(body, dict) else {}
        kind, length, mark, digest = (fields.get(name) for name in ("kind", "length", "mark", "digest"))
        if not isinstance(kind, str) or not isinstance(digest, str) or type(length) is not int or type(mark) is not int:
            raise ProtocolError("a pattern has a kind, a length, a mark and a digest")
        if not WINDOW <= length <= LONGEST or not 0 <= mark < 1 << MARK_BITS:
            raise ProtocolError(f"a pattern has {WINDOW} to {LONGEST} bytes and a mark of {MARK_BITS} bits; saw {length}, {mark}")
        return cls(kind=kind, length=length, mark=mark, digest=digest)


def multipliers(salt: bytes) -> tuple[int, int]:
    """The two odd numbers a window's halves are multiplied by; the top bits of the sum are its fingerprint."""
    drawn = hashlib.sha256(b"glasshouse-scan-mark/1\n" + salt).digest()
    return int.from_bytes(drawn[:8], "little") | 1, int.from_bytes(drawn[8:16], "little") | 1


def digest(salt: bytes, window: memoryview) -> str:
    """The salted digest of a window; hashed where it lies."""
    hashed = hashlib.sha256(salt)
    hashed.update(window)
    return hashed.hexdigest()


class Patterns:
    """Makes the patterns of one leg, all under one salt."""

    def __init__(self, salt: bytes) -> None:
        import numpy as np

        self.salt = salt
        self._work = np.zeros(2, dtype=np.uint64)
        self._multipliers = np.array(multipliers(salt), dtype=np.uint64)

    def of_windows(self, kind: str, secret: memoryview) -> list[Pattern]:
        """Every 16 bytes of `secret`, one pattern each."""
        return [self.of(kind, secret[at : at + WINDOW]) for at in range(0, len(secret) - WINDOW + 1, WINDOW)]

    def of_samples(self, kind: str, samples: Iterable[memoryview], *, pieces: int) -> list[Pattern]:
        """Up to `pieces` places of each sample, each long enough to be unmistakable; what never is is left out."""
        made: dict[str, Pattern] = {}
        for sample in samples:
            step = max(_WORD, len(sample) // pieces // _WORD * _WORD)
            for at in range(0, len(sample), step):
                length = _distinctive_length(sample[at : at + LONGEST])
                if length:
                    pattern = self.of(kind, sample[at : at + length])
                    made[pattern.digest] = pattern
        return list(made.values())

    def of(self, kind: str, window: memoryview) -> Pattern:
        """One window, 8-byte aligned in memory (numpy would copy another one to work on it)."""
        import numpy as np

        halves = np.frombuffer(window, dtype=np.uint64, count=2)
        if not halves.flags.aligned:
            raise ValueError("a window begins at a multiple of 8 bytes")
        work = self._work
        np.multiply(halves, self._multipliers, out=work)
        np.add(work[:1], work[1:], out=work[:1])
        np.right_shift(work[:1], np.uint64(64 - MARK_BITS), out=work[:1])
        mark = int(work[0])
        work[:] = 0
        return Pattern(kind=kind, length=len(window), mark=mark, digest=digest(self.salt, window))


def read_patterns(body: Mapping[str, Json]) -> tuple[bytes, list[Pattern]]:
    """Salt and patterns of a leg's message. Raises `ProtocolError`."""
    salt, items = body.get("salt"), body.get("patterns")
    if not isinstance(salt, str) or not isinstance(items, list):
        raise ProtocolError("a scan is asked for with a salt and a list of patterns")
    return bytes.fromhex(salt), [Pattern.from_json(item) for item in items]


def _distinctive_length(piece: memoryview) -> int:
    """The least multiple of 16 at which a piece has enough bytes that are not zero; 0 if it never has."""
    distinctive = 0
    for at, byte in enumerate(piece, 1):
        distinctive += byte != 0
        if at % WINDOW == 0 and distinctive >= _DISTINCTIVE_BYTES:
            return at
    return 0
