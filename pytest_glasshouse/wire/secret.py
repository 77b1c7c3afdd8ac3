"""A value that must not be printed, pickled or compared by accident.

Knows how to hold bytes and to hide them. Refuses to lock or wipe memory: the guest's secrets live in `guest.memory`.
"""

from __future__ import annotations

import hmac
from typing import NoReturn


class Secret:
    """Secret bytes of the owner or the server. Only `reveal` gives them out, so that every reader can be found by name."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = value

    def reveal(self) -> bytes:
        """The bytes. Whoever calls this holds a secret."""
        return self._value

    def __len__(self) -> int:
        return len(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._value, other._value)

    __hash__ = None  # type: ignore[assignment]  # a secret is no dictionary key

    def __repr__(self) -> str:
        return f"<secret of {len(self._value)} bytes>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not pickled; hand it over through its owner")
