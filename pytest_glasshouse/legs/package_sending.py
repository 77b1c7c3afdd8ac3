"""A protected leg's package on its way to its guest: all of it before the leg starts, or as much as the leg has room for."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pytest_glasshouse.channel.guest_channel import put_pieces
from pytest_glasshouse.legs.leg_watch import MODEL, Progress

if TYPE_CHECKING:
    from pytest_glasshouse.legs.round import Round
    from pytest_glasshouse.owner.sealing import Sealing

#: The sealing of a larger package than this, in bytes, is shown.
_SHOWN_FROM = 64 << 20
#: How much of a package is sent at once to a guest that moves it on to a GPU, in bytes.
_WINDOW = 128 << 20


class PackageSending:
    """A package on its way: it is sealed while it is sent, so that the host never holds all of it."""

    def __init__(self, current: Round, sealed: Sealing, name: str) -> None:
        self._current, self._total = current, sealed.size
        self._pieces = put_pieces(current.channel, name, sealed.size, sealed.pieces())
        self._window = window_of(current) or sealed.size
        self._began = time.monotonic()
        self.sent = 0

    def send(self) -> None:
        """Send as much more as the guest has room for."""
        until = min(self.sent + self._window, self._total)
        while self.sent < until:
            self.sent = next(self._pieces)
            self._show()

    def _show(self) -> None:
        current = self._current
        if self._total > _SHOWN_FROM:
            current.emit(
                Progress(
                    row_id=current.row.row_id, leg=MODEL, phase="seal", round=current.number, rounds=current.rounds,
                    elapsed_s=time.monotonic() - self._began, fraction=self.sent / self._total,
                )
            )  # fmt: skip


def window_of(current: Round) -> int | None:
    """How many bytes of the package a guest gets at once; None for all.

    On a GPU the plaintext is never in the host's memory as a whole, and neither shall the ciphertext be.
    """
    return _WINDOW if current.grant.device == "cuda" else None
