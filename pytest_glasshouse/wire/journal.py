"""The protected leg's event log: one canonical JSON line per event, each bound to the one before.

Knows lines, links and the order of steps. Refuses to know what the events mean, and to sign anything: the head is
signed by the leg and countersigned by the server.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.wire.canonical import Json, canonical, parse_object, tagged

#: The events of a protected leg that succeeded, in this order, each exactly once.
STEPS = (
    "anti_debug_ready",
    "measured",
    "key_received",
    "package_verified",
    "train_started",
    "train_completed",
    "adapter_exported",
    "zeroized",
)
#: The steps that must have happened, and no others, when the key is asked for.
STEPS_BEFORE_RELEASE = STEPS[:2]
#: The events of every rank of a leg but the first, which gets the key, opens the package and exports the adapter for all.
RANK_STEPS = ("anti_debug_ready", "measured", "package_shared", "train_started", "train_completed", "zeroized")
#: May appear any number of times between `train_started` and `train_completed`.
PROGRESS = "train_progress"
#: Says, in place of every step from its own on, that the leg failed; only `zeroized` may follow.
FAILED = "train_failed"

_STARTED = "train_started"
#: How the journal of a leg that failed may go: before its training had begun, or in it.
_FAILED_STEPS = tuple((*STEPS[: STEPS.index(_STARTED) + begun], FAILED, "zeroized") for begun in (0, 1))

_KEYS = {"seq", "prev", "t_us", "type", "body"}
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)")


@dataclass(frozen=True, kw_only=True)
class JournalEntry:
    """One event. `t_us` is counted from the first line, whose body holds the wall time as `wall`."""

    seq: int
    t_us: int
    type: str
    body: dict[str, Json]


def genesis(nonce: str) -> str:
    """What the first line's `prev` is: a journal belongs to one nonce."""
    return tagged("glasshouse-journal-genesis/1", nonce.encode())


def rank_session(nonce: str, rank: int) -> str:
    """What the journal of a rank begins with in place of the nonce: no rank's journal is another's."""
    return nonce if rank == 0 else f"{nonce}.{rank}"


def link(line: str) -> str:
    """The hash the next line's `prev` must be; of the last line, the head."""
    return tagged("glasshouse-journal/1", line.encode())


class Journal:
    """Writes the journal of one session. Every line goes to `sink` before `append` returns; `sink` owes its durability."""

    def __init__(self, nonce: str, sink: Callable[[str], None], clock_us: Callable[[], int]) -> None:
        self._sink = sink
        self._clock_us = clock_us
        self._began_us = 0
        self.head = genesis(nonce)
        self.count = 0

    def append(self, type: str, body: Mapping[str, object]) -> None:  # noqa: A002
        """Add one event. The first one's body must hold `wall`, an RFC 3339 time."""
        now_us = self._clock_us()
        if self.count == 0:
            _check_wall(body)
            self._began_us = now_us
        line = canonical({
            "seq": self.count, "prev": self.head, "t_us": now_us - self._began_us, "type": type, "body": dict(body),
        }).decode()  # fmt: skip
        parse_object(line)  # what the reader would refuse (a float, a giant) is refused here, where it can be seen
        self._sink(line)
        self.head = link(line)
        self.count += 1


def replay(lines: Sequence[str], nonce: str) -> tuple[JournalEntry, ...]:
    """The events of a journal that is whole up to its last line.

    Raises `IntegrityError`: `log-empty`, `log-format`, `log-chain` or `log-time`. Whether the last line is the right
    one and the events are in order is not known here: who believes a journal calls `read`.
    """
    if not lines:
        raise IntegrityError("log-empty")
    entries: list[JournalEntry] = []
    expected = genesis(nonce)
    for number, line in enumerate(lines):
        record = _parse(line)
        if record["prev"] != expected or record["seq"] != number:
            raise IntegrityError("log-chain", f"line {number}")
        entry = _entry(record, number)
        if entry.t_us < (entries[-1].t_us if entries else 0) or (number == 0 and entry.t_us != 0):
            raise IntegrityError("log-time", f"line {number}")
        if number == 0:
            _check_wall(entry.body)
        entries.append(entry)
        expected = link(line)
    return tuple(entries)


def head_of(lines: Sequence[str], nonce: str) -> str:
    """The head a journal of these lines has."""
    return link(lines[-1]) if lines else genesis(nonce)


def read(lines: Sequence[str], nonce: str, *, head: Mapping[str, object] | None) -> tuple[JournalEntry, ...]:
    """The events of a whole journal: it replays, it ends at `head` (the claims of its signed head), every step is there in order.

    With `head` None, of a leg that completed, whose end the caller judges. Raises `IntegrityError`, as `replay`
    does and `log-head` or `log-steps`.
    """
    entries = replay(lines, nonce)
    if head is not None:
        check_head(lines, nonce, head=head.get("head"), count=head.get("count"))
    check_steps(entries, failed=head is not None and head.get("status") == "failed")
    return entries


def check_head(lines: Sequence[str], nonce: str, *, head: object, count: object) -> None:
    """Refuse (`log-head`) a journal that does not end at its signed head."""
    if len(lines) != count or head_of(lines, nonce) != head:
        raise IntegrityError("log-head", f"{len(lines)} lines, signed {count}")


def check_steps(entries: Sequence[JournalEntry], *, failed: bool = False, steps: Sequence[str] = STEPS) -> None:
    """Refuse (`log-steps`) anything but every mandatory step once, in order, progress only while training.

    The journal of a leg that `failed` while it trained has that event in place of the steps that did not come, and zeroizes.
    """
    types = [entry.type for entry in entries]
    seen = tuple(kind for kind in types if kind != PROGRESS)
    expected = _FAILED_STEPS if failed else (tuple(steps),)
    if seen not in expected:
        raise IntegrityError("log-steps", f"expected {', '.join(expected[-1])}; saw {', '.join(seen) or 'nothing'}")
    trained = range(
        types.index(_STARTED) if _STARTED in types else len(types), types.index(FAILED if failed else "train_completed")
    )
    if any(kind == PROGRESS and place not in trained for place, kind in enumerate(types)):
        raise IntegrityError("log-steps", "progress outside training")


def _parse(line: str) -> dict[str, Json]:
    try:
        record = parse_object(line)
        exact = canonical(record).decode() == line
    except IntegrityError as error:
        raise IntegrityError("log-format", error.detail) from None
    if not exact or record.keys() != _KEYS:
        raise IntegrityError("log-format", "not the canonical form of a journal line")
    return record


def _entry(record: dict[str, Json], number: int) -> JournalEntry:
    t_us, kind, body = record["t_us"], record["type"], record["body"]
    if type(t_us) is not int or not isinstance(kind, str) or not isinstance(body, dict):
        raise IntegrityError("log-format", f"line {number}")
    return JournalEntry(seq=number, t_us=t_us, type=kind, body=body)


def _check_wall(body: Mapping[str, object]) -> None:
    wall = body.get("wall")
    if not isinstance(wall, str) or not _RFC3339.fullmatch(wall):
        raise IntegrityError("log-format", "the first line holds the wall time as `wall`, RFC 3339")
