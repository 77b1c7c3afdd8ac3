"""Interleaved rounds with turns, segments or processor time changed and validly signed.

As in `tamper.observation`, with a round whose legs took turns. Work outside a leg's own turns must show, wherever it happens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pytest_glasshouse.rows.leg_order import LegName
from pytest_glasshouse.tamper.case import Case
from pytest_glasshouse.tamper.observation import judge_changed_round
from pytest_glasshouse.tamper.signed_round import HANDOVER_NS, SEGMENT_NS, RoundEdit
from pytest_glasshouse.tamper.testbed import Editable
from pytest_glasshouse.wire import journal, tokens
from pytest_glasshouse.wire.canonical import sha256_hex

TURNS: tuple[LegName, ...] = ("protected", "raw", "raw", "protected")
#: The edit of each case of this module.
EDITS: dict[str, RoundEdit] = {}

_TIME = "time accounted for"
_IDLE, _ORDER, _WORK = "paused leg idle", "legs in order, not overlapping", "same work"
#: The index of the protected leg's processor time in a border.
_PROTECTED = 1


def _case(name: str, reason: str, edit: RoundEdit) -> Case:
    EDITS[f"turns-{name}"] = edit
    return Case(
        name=f"turns-{name}",
        play=lambda testbed: judge_changed_round(testbed, edit, turns=TURNS),
        expected_reason=reason,
        caught_by=reason.removeprefix("unseen: "),
        asset="journal",
    )


def _borders(name: str, reason: str, change: Callable[[Editable], None]) -> Case:
    def edit(about: str, content: Any) -> None:
        if about == "borders":
            change(content)

    return _case(name, reason, edit)


def _round(name: str, reason: str, change: Callable[[Editable], None]) -> Case:
    def edit(about: str, content: Any) -> None:
        if about == "observation":
            change(content["rounds"][0])

    return _case(name, reason, edit)


def _segments(name: str, reason: str, change: Callable[[list[list[int]]], None]) -> Case:
    """Changed segments in the protected leg's journal."""

    def edit(about: str, content: Any) -> None:
        if about == "entries":
            change(content[journal.STEPS.index("train_completed")][1]["segments"])

    return _case(name, reason, edit)


def _add_cpu_time(claims: Editable, place: int, *, of_turn: int, ns: int) -> None:
    """Add processor time of the protected leg from one border on: `place` 0 is before the turn, 1 at its end."""
    flat = [border for borders in claims["borders"] for border in borders]
    for border in flat[2 * of_turn + place :]:
        border[_PROTECTED] += ns


def _worked_in_a_repetition(claims: Editable) -> None:
    """Before its second turn the protected leg uses a tenth of a second; the raw one repeated its prologue in a millisecond."""
    repeats = []
    for turn, place, ns in ((2, _PROTECTED + 2, SEGMENT_NS // 1000), (4, _PROTECTED, SEGMENT_NS // 10)):
        before = [*claims["borders"][turn - 2][1]]
        after = [*before]
        after[place] += ns
        repeats.append({"turn": turn, "borders": [before, after]})
    claims["repeats"] = repeats
    _add_cpu_time(claims, 0, of_turn=3, ns=SEGMENT_NS // 10)


def _no_segment(about: str, content: Any) -> None:
    if about == "callback":
        content["segments"] = []


def _by_a_stranger(notes: Editable) -> None:
    claims = tokens.peek(notes["borders"])
    notes["borders"] = tokens.sign(claims, key=Ed25519PrivateKey.generate(), typ="glasshouse-borders+jwt")


def _one_seed(notes: Editable) -> None:
    notes["raw"]["trainingPlan"]["order_seed"] = notes["protected"]["trainingPlan"]["order_seed"]


def _cold(notes: Editable) -> None:
    notes["protected"]["cache"], notes["raw"]["cache"] = {"state": "pre-read"}, {"state": "evicted"}


def _paused_an_hour(claims: Editable) -> None:
    for border in claims["borders"][-1]:
        border[0] += 3_600_000_000_000


def _in_the_time_of_one(notes: Editable) -> None:
    """Both legs together take the time of one; each alone would fit."""
    for leg in ("protected", "raw"):
        notes[leg]["host"] = {"startNs": 0, "exitNs": 5 * SEGMENT_NS}


def _key_out_for_four_seconds(about: str, content: Any) -> None:
    """Long enough for the protected leg's own turns, too short for the raw leg's turns in between."""
    if about == "receipt":
        content["held_ms"] = 4_000


CASES = (
    _borders("an-hour-between-turns", _TIME, _paused_an_hour),
    _round("both-legs-in-the-time-of-one", _TIME, _in_the_time_of_one),
    _case("key-out-for-its-own-turns-only", _TIME, _key_out_for_four_seconds),
    _borders("work-in-the-other-legs-turn", _IDLE, lambda c: _add_cpu_time(c, 1, of_turn=1, ns=SEGMENT_NS // 100)),
    _borders("work-between-turns", _IDLE, lambda c: _add_cpu_time(c, 0, of_turn=1, ns=SEGMENT_NS // 100)),
    _borders("work-in-a-repetition", _IDLE, _worked_in_a_repetition),
    # A millisecond and a half for each of its two turns.
    _borders("work-when-no-clock-runs", _IDLE, lambda c: _add_cpu_time(c, 1, of_turn=0, ns=SEGMENT_NS * 3 // 1000)),
    _borders("overlapping", _ORDER, lambda c: c["borders"][1][0].__setitem__(0, 0)),
    _borders("not-played", f"unseen: {_ORDER}", lambda c: c["borders"].pop()),
    _borders("none-played", f"unseen: {_ORDER}", lambda c: c["borders"].clear()),
    _borders("longer-than-told", _ORDER, lambda c: c["borders"][-1][1].__setitem__(0, c["borders"][-1][1][0] + SEGMENT_NS)),
    _borders("shorter-than-told", _ORDER, lambda c: c["borders"][-1][1].__setitem__(0, c["borders"][-1][0][0] + HANDOVER_NS)),
    _borders("of-another-round", _ORDER, lambda c: c.update(nonce=sha256_hex(b"another round"))),
    _borders("borders-of-another-shape", f"unseen: {_ORDER}", lambda c: c["borders"][0][0].pop()),
    _segments("segment-missing", _ORDER, lambda segments: segments.__delitem__(0)),
    _segments("segment-of-another-turn", _ORDER, lambda segments: segments[0].__setitem__(0, 2)),
    _round("drawn-otherwise", f"unseen: {_ORDER}", lambda notes: notes["turns"].reverse() or notes["turns"].append("raw")),
    _round("signed-by-a-stranger", _ORDER, _by_a_stranger),
    _round("nobody-signed", f"unseen: {_ORDER}", lambda notes: notes.pop("borders")),
    _case("no-segment-of-the-raw-leg", _ORDER, _no_segment),
    _round("one-data-order", _WORK, _one_seed),
    _round("another-cache", _WORK, _cold),
)
