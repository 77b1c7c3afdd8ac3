"""Whether the time in which a round's legs were timed passed at the attestation server too: its marks against the agent's clock.

A mark is signed after the agent asked for it and before the agent had it. Between two marks the server's clock therefore advanced
by at least what the agent's did from having the first to asking for the second, and at most by what it did from asking for the
first to having the second. A guest whose clock runs slow or fast is seen, as far as the marks' round trips allow. The host saw
each leg begin and end; its clock is compared too. Sums count, over a leg and over the round: a single mark may be late.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

from pytest_glasshouse.observation.claims import StretchesClaims
from pytest_glasshouse.observation.turns import read_borders, turns_of
from pytest_glasshouse.wire.evidence import TYP_MARKS
from pytest_glasshouse.wire.tokens import peek, public_key, verify
from pytest_glasshouse.wire.typed import check_typed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_glasshouse.observation.document import MarksSeen, RoundNotes
    from pytest_glasshouse.rows.leg_order import Role

#: By how much an honest clock may differ from the server's, as a share, and in nanoseconds for each interval.
CLOCK_SHARE = 0.002
CLOCK_NS = 2_000_000
#: Marks bound nothing where their round trips together take longer than this share of the time, and than this for each mark and
#: once beside: a server that is started again makes one of them wait.
TRIPS_SHARE = 0.01
TRIP_NS = 200_000_000
RESTART_NS = 1_000_000_000


class MarksClaims(TypedDict):
    """Signed by the agent: a round's marks `[nonce, asked_ns, got_ns]`, in order."""

    nonce: str
    marks: list[list[str | int]]


@dataclass(frozen=True, kw_only=True)
class _Mark:
    """One mark: the agent's clock when it asked and when it had it, and the server's when it signed."""

    asked_ns: int
    got_ns: int
    server_ns: int


@dataclass(frozen=True, kw_only=True)
class _Interval:
    """A timed stretch of a leg, by the agent's clock, between two marks."""

    leg: Role
    began_ns: int
    ended_ns: int
    before: _Mark
    after: _Mark

    @property
    def server_ns(self) -> int:
        return self.after.server_ns - self.before.server_ns

    @property
    def least_ns(self) -> int:
        return self.after.asked_ns - self.before.got_ns

    @property
    def most_ns(self) -> int:
        return self.after.got_ns - self.before.asked_ns


def time_gaps(observed: RoundNotes) -> Iterator[str]:
    """Why the server's clock does not confirm the times of a round; none where it does.

    Raises `IntegrityError`, `ProtocolError`, `LookupError` or `ValueError` for an account that cannot be read.
    """
    marks = observed.get("marks")
    if marks is None:
        yield "no mark of the server bounds its timed stretches"
        return
    of_whom = ["turns"] if "turns" in observed else [*observed["order"]]
    accounts = {whose: _account(observed, marks, whose) for whose in of_whom}
    # The first mark began the round; every other one is of a border, in the order in which the agent asked.
    asked = [nonce for account in accounts.values() for nonce, _, _ in account]
    if [nonce for nonce, _ in marks["times"][1:]] != asked:
        yield "the server signed other marks than the agent asked for"
        return
    times = iter([int(t_us) * 1000 for _, t_us in marks["times"][1:]])
    seen = {whose: [_mark(each, next(times)) for each in account] for whose, account in accounts.items()}
    stretches = _stretches(observed)
    intervals = _by_turns(stretches, seen["turns"]) if "turns" in seen else _by_legs(stretches, seen)
    if intervals is None:
        yield "not every timed stretch lies between two marks of the server"
        return
    yield from _bounded(observed, intervals)
    yield from _host_agrees(observed, intervals)


def _account(observed: RoundNotes, marks: MarksSeen, whose: str) -> list[list[str | int]]:
    agent = public_key(observed["guest"][0]["ak"])
    claims = check_typed(verify(marks["agent"][whose], key=agent, typ=TYP_MARKS), MarksClaims, "marks")
    if claims["nonce"] != observed["nonce"]:
        raise ValueError("the agent's account of the marks is of another round")
    return claims["marks"]


def _mark(account: Sequence[str | int], server_ns: int) -> _Mark:
    _, asked_ns, got_ns = account
    return _Mark(asked_ns=int(asked_ns), got_ns=int(got_ns), server_ns=server_ns)


def _stretches(observed: RoundNotes) -> list[tuple[Role, int, int]]:
    """The timed stretches in order, or the turns they are in, from beginning to end by the agent's clock."""
    if "turns" in observed:
        return [(turn.role, turn.before.t_ns, turn.after.t_ns) for turn in turns_of(read_borders(observed["borders"]))]
    found: list[tuple[Role, int, int]] = []
    for leg in observed["order"]:
        notes = observed[leg]
        if notes is None:
            raise ValueError(f"the {leg} leg left nothing")
        claims = check_typed(peek(notes["stretches"]), StretchesClaims, "stretches")
        found += [(leg, row[0], row[3]) for row in claims["stretches"]]
    return found


def _by_turns(stretches: list[tuple[Role, int, int]], marks: Sequence[_Mark]) -> list[_Interval] | None:
    """One mark ends a turn and begins the next."""
    if not stretches or len(marks) != len(stretches) + 1:
        return None
    return _between([*zip(stretches, marks, marks[1:], strict=False)])


def _by_legs(stretches: list[tuple[Role, int, int]], marks: dict[str, list[_Mark]]) -> list[_Interval] | None:
    """Every stretch has a mark before it and one after it."""
    every = [each for of_leg in marks.values() for each in of_leg]
    if not stretches or len(every) != 2 * len(stretches):
        return None
    return _between([*zip(stretches, every[::2], every[1::2], strict=True)])


def _between(found: list[tuple[tuple[Role, int, int], _Mark, _Mark]]) -> list[_Interval] | None:
    intervals = [
        _Interval(leg=leg, began_ns=began_ns, ended_ns=ended_ns, before=before, after=after)
        for (leg, began_ns, ended_ns), before, after in found
    ]
    enclosed = all(
        each.before.got_ns <= each.began_ns <= each.ended_ns <= each.after.asked_ns and each.server_ns >= 0 for each in intervals
    )
    return intervals if enclosed else None


def _bounded(observed: RoundNotes, intervals: list[_Interval]) -> Iterator[str]:
    legs = {f"the {leg} leg was timed": [each for each in intervals if each.leg == leg] for leg in observed["order"]}
    first, last = intervals[0].before, intervals[-1].after
    whole = _Interval(leg=intervals[0].leg, began_ns=0, ended_ns=0, before=first, after=last)
    for what, some in {**legs, "the round's legs were timed": [whole]}.items():
        server_ns, least_ns, most_ns = (
            sum(each.server_ns for each in some),
            sum(each.least_ns for each in some),
            sum(each.most_ns for each in some),
        )
        trips_ns = most_ns - least_ns
        if trips_ns > max(TRIPS_SHARE * server_ns, RESTART_NS + 2 * TRIP_NS * len(some)):
            yield (
                f"the marks of the server took {trips_ns / 1e9:.3f} s in all to come, too long to say how much of the "
                f"{server_ns / 1e9:.3f} s passed while {what}"
            )
        elif not _close(least_ns, server_ns, len(some)) or not _close(server_ns, most_ns, len(some)):
            yield (
                f"{server_ns / 1e9:.3f} s passed at the server while {what}, and by the guest's clock {least_ns / 1e9:.3f} to "
                f"{most_ns / 1e9:.3f} s: it runs at another rate"
            )


def _host_agrees(observed: RoundNotes, intervals: list[_Interval]) -> Iterator[str]:
    """The host saw a leg from before its start to after its end: no less time than passed at the server in between."""
    for leg in observed["order"]:
        times = (observed[leg] or {}).get("host", {})
        timed = intervals if "turns" in observed else [each for each in intervals if each.leg == leg]
        server_ns = timed[-1].after.server_ns - timed[0].before.server_ns
        host_ns = times["exitNs"] - times["startNs"]
        if not _close(server_ns, host_ns, 1):
            yield (
                f"{server_ns / 1e9:.3f} s passed at the server while the {leg} leg was timed, and {host_ns / 1e9:.3f} s by the "
                "host's clock from before its start to after its end"
            )


def _close(less_ns: int, more_ns: int, count: int) -> bool:
    """Whether one time is at most another, but for what honest clocks differ by."""
    return less_ns <= (1 + CLOCK_SHARE) * more_ns + CLOCK_NS * count
