"""Invariant: the time that guest and legs claim has passed, by clocks that are not theirs.

The host reads its clock before it starts a leg and when it has the leg's signed exit; the server signs in its receipt how much
time passed at most since it released the key. Whatever a leg or its agent claims to have spent has to fit in between. Nothing
here shows that the time was spent on what is claimed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_glasshouse.invariants import verified
from pytest_glasshouse.invariants.finding import EvidenceReader, Finding, broken, judge_rounds, unseen
from pytest_glasshouse.observation.claims import PackageVerified, Zeroized
from pytest_glasshouse.observation.turns import segments_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_glasshouse.observation.document import Observation
    from pytest_glasshouse.observation.trained import Trained
    from pytest_glasshouse.rows.leg_order import Role

#: What two clocks may differ by, in millionths of what passed: Linux steers a clock by 500 at most, and there are two of them.
#: Nothing else is allowed for: the host reads before and after, and the server rounds up.
CLOCKS_PPM = 1_000


def time_accounted_for(observation: Observation) -> Finding:
    """Every second that was claimed passed on the host's clock, and after the key's release on the server's."""
    return judge_rounds("time accounted for", observation, _accounted)


def _accounted(reader: EvidenceReader) -> str:
    bodies = verified.ends(reader)
    claimed = {leg: sum(_spent(reader, leg, body)) for leg, body in bodies.items()}
    began, ended = [], []
    for leg in bodies:
        first, last = (reader.of(leg, "host", name) for name in ("startNs", "exitNs"))
        timeline = reader.of(leg, "timeline").values()
        _fits(f"the {leg} leg", claimed[leg], last - first, "the host's clock around the leg")
        _fits(f"the agent, of the {leg} leg,", max(timeline) - min(timeline), last - first, "the host's clock around the leg")
        began.append(first)
        ended.append(last)
    passed_ns = max(ended) - min(began)
    if "turns" in reader.notes:
        # Everything is done one leg at a time: setting up, turns and the ends.
        _fits("all legs together", sum(claimed.values()), passed_ns, "the host's clock around the round")
        _fits("the agent, of the turns,", _turns_ns(reader), passed_ns, "the host's clock around the round")
    fits = f"{sum(claimed.values()) / 1e9:.3f} s of all legs in {passed_ns / 1e9:.3f} s of the host's clock"
    return fits if "protected" not in bodies else f"{fits}; {_released(reader, bodies)}"


def _released(reader: EvidenceReader, bodies: Mapping[Role, Trained]) -> str:
    """Compare what was claimed of the time between the key's release and the receipt with the server's clock."""
    held_ns = _held_ms(reader) * 1_000_000
    claimed = sum(_spent(reader, "protected", bodies["protected"]))
    if "turns" in reader.notes:
        # The protected leg has its key in all of the others' turns too.
        claimed += sum(sum(_segments(body)) for leg, body in bodies.items() if leg != "protected")
    _fits("the protected leg, since it had the key,", claimed, held_ns, "the server's clock from release to receipt")
    entries = verified.entries(reader)
    began_us = min((entry.t_us for entry in entries if entry.type == "key_received"), default=0)
    journal_ns = (entries[-1].t_us - began_us) * 1000
    _fits("the journal, since the key was received,", journal_ns, held_ns, "the server's clock from release to receipt")
    return f"{claimed / 1e9:.3f} s since the key was released, in {held_ns / 1e9:.3f} s of the server's"


def _held_ms(reader: EvidenceReader) -> int:
    """The time from the key's release to the receipt at most, in milliseconds, as the server signed it."""
    receipt = verified.receipt_claims(reader)
    if "held_ms" in receipt:
        return _number(receipt["held_ms"])
    # Receipts of older servers have no `held_ms`; both times are whole seconds, rounded down.
    return (_number(receipt["iat"]) - _number(verified.result_claims(reader)["iat"]) + 1) * 1000


def _spent(reader: EvidenceReader, leg: Role, body: Trained) -> Iterator[int]:
    """Every period, in nanoseconds, that a leg reports once it has its material; they do not overlap."""
    yield _number(body["warmup_ns"])
    phases = body["phases"]
    yield from map(_number, (phases["load_ns"], phases["prologue_ns"], phases["export_ns"]))
    segments = [*_segments(body)]
    yield max(_number(body["elapsed_ns"]), sum(segments)) if segments else _number(body["elapsed_ns"])
    if leg == "protected":
        yield _number(verified.entry(reader, "package_verified", PackageVerified)["open_ns"])
        yield _number(verified.entry(reader, "zeroized", Zeroized)["zeroize_ns"])


def _segments(body: Trained) -> Iterator[int]:
    for part in segments_of(body).values():
        yield _number(part["elapsed_ns"])
        yield _number(part["wash_ns"])


def _turns_ns(reader: EvidenceReader) -> int:
    """From the first border of the turns to the last, in nanoseconds."""
    times = [_number(border[0]) for turn in verified.borders_claims(reader)["borders"] for border in turn if border]
    if not times:
        raise unseen("no turn was played", expected="turns", seen="none")
    return max(times) - min(times)


def _number(value: int) -> int:
    if value < 0:
        raise broken(
            "a claimed time is negative",
            expected="a number of nanoseconds, not below 0",
            seen=str(value),
            todo="do not use this row: its clock cannot be right",
        )
    return value


def _fits(who: str, claimed_ns: int, passed_ns: int, clock: str) -> None:
    if claimed_ns * 1_000_000 > passed_ns * (1_000_000 + CLOCKS_PPM):
        raise broken(
            f"{who} claims {claimed_ns / 1e9:.3f} s; {passed_ns / 1e9:.3f} s passed",
            expected=f"at most {passed_ns / 1e9:.3f} s by {clock}",
            seen=f"{claimed_ns / 1e9:.3f} s",
            todo="do not use this row: the claimed time did not pass by an independent clock",
        )
