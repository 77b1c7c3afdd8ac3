"""The dishonest guest: what a mock fault needs that cannot be played from outside.

It travels as `glasshouse_saboteur` in an archive of its own, whose digest only the mock's policy pins: every other
policy refuses the guest before a key is released. Nothing under `guest/` knows that it exists.
"""

from __future__ import annotations

import dataclasses
import hashlib
import threading
import time
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.agent import main as guest_main
from pytest_glasshouse.guest import protected, raw, training
from pytest_glasshouse.wire.tensors import parse_safetensors, tensor_digest

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_glasshouse.wire.canonical import Json
    from pytest_glasshouse.workloads.segments import TrainedSegment

#: How much of each segment's work is put off until the leg's clock has stopped.
_PUT_OFF = 0.05


def main(faults: tuple[str, ...]) -> int:
    """Arrange the faults, then be the guest."""
    for fault in faults:
        _ARRANGE[fault]()
    return guest_main.main()


def _skip_zeroize() -> None:
    protected.Protected._zeroize = lambda _self, _opened: None  # type: ignore[method-assign]  # noqa: SLF001


def _take_key_from_elsewhere() -> None:
    journal = protected.Journal

    class Forgetful(journal):  # type: ignore[misc, valid-type]
        """Names another attestation result as the source of its key."""

        def append(self, type: str, body: dict[str, Json]) -> None:  # noqa: A002
            super().append(type, {"result": "0" * 64} if type == "key_received" else body)

    protected.Journal = Forgetful  # type: ignore[misc]


def _bring_own_weights() -> None:
    honest = protected.train

    def train(plan: Any, parts: Any, **rest: Any) -> Any:
        return honest(plan, {**parts, "initial": memoryview(_turned(bytes(parts["initial"])))}, **rest)

    protected.train = train


def _export_initial() -> None:
    protected.train = _exporting(protected.train, bytes)


def _export_the_same() -> None:
    protected.train = _exporting(protected.train, _turned)
    raw.train = _exporting(raw.train, _turned)


def _defer_cost() -> None:
    honest = protected.ControlTurns

    class Deferring(honest):  # type: ignore[misc, valid-type]
        """Hands what protection costs to a thread that works while the other leg is timed."""

        def done(self, segment: TrainedSegment) -> None:
            super().done(segment)
            threading.Thread(target=_hash_for, args=(round(segment.elapsed_ns * _PUT_OFF),)).start()

    protected.ControlTurns = Deferring  # type: ignore[misc]


def _hash_for(cpu_ns: int) -> None:
    until, block = time.thread_time_ns() + cpu_ns, bytes(1 << 16)
    while time.thread_time_ns() < until:
        hashlib.sha256(block)


def _exporting(honest: Callable[..., training.Trained], instead: Callable[[bytes], bytes]) -> Any:
    def train(plan: Any, parts: Any, **rest: Any) -> training.Trained:
        adapter = instead(bytes(parts["initial"]))
        trained = honest(plan, parts, **rest)
        return dataclasses.replace(trained, adapter=adapter, adapter_sha256=tensor_digest(adapter))

    return train


def _turned(weights: bytes) -> bytes:
    """Finite weights that are not these: the largest tensor's rows, one place on."""
    entry = max(parse_safetensors(memoryview(weights)).values(), key=lambda e: e.end - e.start)
    body = weights[entry.start : entry.end]
    row = len(body) // entry.shape[0]
    return weights[: entry.start] + body[row:] + body[:row] + weights[entry.end :]


_ARRANGE: dict[str, Callable[[], None]] = {
    "zeroize-skipped": _skip_zeroize,
    "key-unattested": _take_key_from_elsewhere,
    "weights-foreign": _bring_own_weights,
    "adapter-untrained": _export_initial,
    "adapter-copied": _export_the_same,
    "deferred-cost": _defer_cost,
}
