"""Invariant: what a leg says of its work and time is what its agent saw of them, by the agent's own clock and count.

A leg writes its own account, and an archive that both sides trust can write a false one. The agent, which is another process,
signs when each timed stretch began and ended, how many units the leg had reported by then, the processor time it used, and under
what conditions the kernel ran it. What the adapters show of the work is judged in `trained_alike`. That every reported step was
worked is shown by no finding: `glasshouse check --replay` trains the leg again.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from pytest_glasshouse.invariants import rank_checks, verified
from pytest_glasshouse.invariants.finding import EvidenceReader, Finding, broken, judge_rounds, unseen
from pytest_glasshouse.invariants.steps_seen import batches_as_given, by_the_gpus_clock, repeated_alike, same_losses
from pytest_glasshouse.invariants.trained_alike import RoundsJudged, Seen
from pytest_glasshouse.observation.turns import segments_of, turns_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_glasshouse.observation.claims import Conditions
    from pytest_glasshouse.observation.document import Observation
    from pytest_glasshouse.observation.trained import Trained
    from pytest_glasshouse.rows.leg_order import Role

#: What may pass without the leg's clock running, or between a reading and the message that tells of it: a share of the time, and
#: for each stretch. Time in which the kernel let leg or agent wait for a processor is allowed for beside it: none was idle then.
UNTIMED_SHARE = 0.002
MESSAGES_NS = 5_000_000
#: Beside it, once for each leg: at either end of a stretch leg and agent each take an interpreter back, and another thread of
#: theirs may keep it for a switch interval of 5 ms (`sys.getswitchinterval`), which no kernel counts as waiting.
_SWITCHES_NS = 4 * 5_000_000
#: How much longer than planned a wash-out may last, as a share, beside the steps that were under way.
WASH_SHARE = 0.25
#: Steps are queued for so long before the device is waited for (`workloads.loop`).
_CHUNK_NS = 20_000_000
#: On a busy machine more passes there than the kernel counts as waiting (a lock of the interpreter whose holder waits, time that
#: the machine's own host took): so much of what leg and agent waited in all.
_BUSY_SHARE = 0.05
#: Of what a leg waited, so much may have been after its turn was given and before its wash-out's clock ran; the rest is in that.
_WAKE_NS = 100_000_000
#: Of what a leg waited, so much may have made each wash-out longer: the rest of its turn is most of it.
_WASH_WAITED_NS = 100_000_000


def work_witnessed(observation: Observation) -> Finding:
    """Every leg's totals, clock, wash-outs and conditions are as its agent saw them."""
    return judge_witnessed(observation, steps=True)


def judge_witnessed(observation: Observation, *, steps: bool) -> Finding:
    """`work witnessed`. Up to revision 5 nothing was known of what a leg's `steps` were (`steps_seen`)."""
    judged: defaultdict[tuple[int, int], RoundsJudged] = defaultdict(RoundsJudged)

    def witnessed(reader: EvidenceReader) -> str:
        return _witnessed(reader, judged[reader.node, reader.rank], steps=steps)

    def of_rank(reader: EvidenceReader) -> str:
        rank_checks.same_units(reader)
        return witnessed(reader)

    return judge_rounds("work witnessed", observation, witnessed, of_rank=of_rank, of_node=of_rank)


def _witnessed(reader: EvidenceReader, judged: RoundsJudged, *, steps: bool) -> str:
    bodies = verified.ends(reader)
    seen: dict[Role, Seen] = {}
    conditions: dict[Role, Conditions] = {}
    stretches = 0
    for leg, body in bodies.items():
        claims = verified.stretches_claims(reader, leg)
        rows = [_Stretch(row) for row in claims["stretches"]]
        timed = _timed(leg, body)
        if len(rows) != len(timed):
            raise broken(
                f"the {leg} leg reports {len(timed)} timed stretches; its agent saw {len(rows)}",
                expected=f"{len(rows)} stretches",
                seen=f"{len(timed)}",
                todo="do not use this row",
            )
        _same_arithmetic(leg, body)
        if steps:
            repeated_alike(leg, body, claims)
        seen[leg] = Seen(cpu_ns=_cpu_times(leg, body, claims["cpuNs"], len(rows)), waited_ns=sum(row.waited_ns for row in rows))
        _units_reported(leg, rows, [units for units, _ in timed])
        _by_agents_clock(leg, rows, [elapsed_ns for _, elapsed_ns in timed], waited_ns=sum(ends for ends, _ in claims["waitsNs"]))
        woken = sum(handover for _, handover in claims["waitsNs"]) + sum(min(row.waited_ns, _WAKE_NS) for row in rows)
        if steps:
            by_the_gpus_clock(
                leg, body, stretches=len(rows), wash_ns=sum(each["wash_ns"] for each in segments_of(body).values()),
                stretches_may_ns=_allowed_ns(body["elapsed_ns"], len(rows), seen[leg].waited_ns),
                turns_may_ns=_allowed_ns(body["elapsed_ns"], len(rows), woken),
            )  # fmt: skip
        if "turns" in reader.notes:
            _turns_timed(reader, leg, body, waited_ns=seen[leg].waited_ns, untimed_ns=woken)
        conditions[leg] = _one_of(leg, claims["conditions"])
        stretches += len(rows)
    _alike(conditions)
    if steps:
        batches_as_given(reader, bodies)
    judged.judge(reader, bodies, seen)
    return f"{stretches} timed stretches by the agent's clock, with the units reported when they ended"


class _Stretch:
    """One stretch as the agent signed it: the leg read its clock between the first two times, and between the last two."""

    def __init__(self, row: Sequence[int]) -> None:
        self.drained_ns, self.began_ns, self.drained_again_ns, self.ended_ns, self.units, self.waited_ns = row

    @property
    def least_ns(self) -> int:
        return self.drained_again_ns - self.began_ns

    @property
    def most_ns(self) -> int:
        return self.ended_ns - self.drained_ns


def _timed(leg: Role, body: Trained) -> list[tuple[int, int]]:
    """Units and nanoseconds of each timed stretch as the leg reports them; a leg's totals are the sums of its segments."""
    if "segments" not in body:
        return [(body["units"], body["elapsed_ns"])]
    segments = [*segments_of(body).values()]
    if len(segments) != len(body["segments"]):
        raise broken(f"the {leg} leg reports a turn twice", expected="one segment a turn", seen="two", todo="do not use this row")
    for total, name in ((body["units"], "units"), (body["elapsed_ns"], "elapsed_ns"), (body["cpu_ns"], "cpu_ns")):
        added = sum(segment[name] for segment in segments)
        if total != added:
            raise broken(
                f"the {leg} leg's {name} are not the sum of its segments",
                expected=str(added),
                seen=str(total),
                todo="do not use this row: a total was reported that was not measured",
            )
    return [(segment["units"], segment["elapsed_ns"]) for segment in segments]


def _cpu_times(leg: Role, body: Trained, seen: Sequence[Sequence[int]], stretches: int) -> int:
    """The processor time of a leg's stretches as its agent saw it, which is what the leg reports."""
    if len(seen) != stretches:
        raise unseen(f"the processor time of the {leg} leg was not observed", expected="a reading at both ends of a stretch")
    least, most = (sum(row[place] for row in seen) for place in (0, 1))
    if not least <= body["cpu_ns"] <= most:
        raise broken(
            f"the {leg} leg's processor time is not what its agent saw",
            expected=f"{least / 1e9:.6f} to {most / 1e9:.6f} s",
            seen=f"{body['cpu_ns'] / 1e9:.6f} s",
            todo="do not use this row: a time was reported that was not measured",
        )
    return least


def _same_arithmetic(leg: Role, body: Trained) -> None:
    """The prologue's first steps give the same losses after the training as before it."""
    repeated = body.get("epilogue", [])
    if not repeated:
        raise unseen(f"the {leg} leg did not repeat its prologue", expected="losses of the prologue's first steps", seen="none")
    same_losses(leg, body, repeated, when="after its training")


def _units_reported(leg: Role, rows: Sequence[_Stretch], units: Sequence[int]) -> None:
    """What is claimed of a stretch is what the leg had told its agent before the stretch was over."""
    before = 0
    for number, (row, claimed) in enumerate(zip(rows, units, strict=True), 1):
        if row.units - before != claimed:
            raise broken(
                f"the {leg} leg claims {claimed} units of timed stretch {number}; it had reported {row.units - before}",
                expected=f"{row.units - before} units, as its progress tells",
                seen=f"{claimed}",
                todo="do not use this row: work was claimed after the clock had stopped",
            )
        before = row.units


def _by_agents_clock(leg: Role, rows: Sequence[_Stretch], elapsed: Sequence[int], *, waited_ns: int) -> None:
    for number, (row, claimed) in enumerate(zip(rows, elapsed, strict=True), 1):
        if not row.least_ns <= claimed <= row.most_ns:
            raise broken(
                f"the {leg} leg's clock and its agent's differ in timed stretch {number}",
                expected=f"{row.least_ns / 1e9:.6f} to {row.most_ns / 1e9:.6f} s by the agent's clock",
                seen=f"{claimed / 1e9:.6f} s",
                todo="do not use this row: the leg's clock is not the guest's",
            )
    untold_ns = sum(row.most_ns - row.least_ns for row in rows)
    waited_ns += round(_BUSY_SHARE * sum(row.waited_ns for row in rows))
    allowed_ns = _allowed_ns(sum(elapsed), len(rows), waited_ns)
    if untold_ns > allowed_ns:
        raise broken(
            f"the {leg} leg let {untold_ns / 1e9:.3f} s pass between its clock's readings and the messages about them",
            expected=f"at most {allowed_ns / 1e9:.3f} s of {sum(elapsed) / 1e9:.3f} s",
            seen=f"{untold_ns / 1e9:.3f} s",
            todo="do not use this row: its clock cannot be compared with the agent's",
        )


def _turns_timed(reader: EvidenceReader, leg: Role, body: Trained, *, waited_ns: int, untimed_ns: int) -> None:
    """A turn is wash-out and segment, and nothing else; a wash-out is as long as planned."""
    segments = segments_of(body)
    turns = [turn for turn in turns_of(verified.borders_claims(reader)) if turn.role == leg and turn.number in segments]
    spent_ns = sum(segments[turn.number]["elapsed_ns"] + segments[turn.number]["wash_ns"] for turn in turns)
    turns_ns = sum(turn.elapsed_ns for turn in turns)
    allowed_ns = _allowed_ns(turns_ns, len(turns), untimed_ns)
    if turns_ns - spent_ns > allowed_ns:
        raise broken(
            f"the {leg} leg left {(turns_ns - spent_ns) / 1e9:.3f} s of its turns untimed",
            expected=f"at most {allowed_ns / 1e9:.3f} s of {turns_ns / 1e9:.3f} s",
            seen=f"{(turns_ns - spent_ns) / 1e9:.3f} s",
            todo="do not use this row: time passed in its turns while no clock of its ran",
        )
    plan = reader.of(leg, "trainingPlan", "segments")
    wash_ns, planned_ns = sum(segment["wash_ns"] for segment in segments.values()), plan["washout_ns"] * len(segments)
    step_ns = body["elapsed_ns"] // max(1, body["units"])
    most_ns = round((1 + WASH_SHARE) * planned_ns) + len(segments) * (2 * step_ns + _CHUNK_NS)
    most_ns += min(waited_ns, _WASH_WAITED_NS * len(segments))
    if wash_ns > most_ns:
        raise broken(
            f"the {leg} leg's wash-outs are longer than planned",
            expected=f"at most {most_ns / 1e9:.3f} s, for {planned_ns / 1e9:.3f} s",
            seen=f"{wash_ns / 1e9:.3f} s",
            todo="do not use this row: work was done where it does not count",
        )


def _allowed_ns(of_ns: int, stretches: int, waited_ns: int) -> int:
    """Time that may pass beside what is timed."""
    return round(UNTIMED_SHARE * of_ns) + MESSAGES_NS * stretches + _SWITCHES_NS + waited_ns


def _one_of(leg: Role, seen: Sequence[Conditions]) -> Conditions:
    if not seen or not all(seen):
        raise unseen(f"the conditions of the {leg} leg were not observed", expected="priority and processors at every stretch")
    if len(seen) > 1:
        raise broken(
            f"the conditions of the {leg} leg changed while it was timed",
            expected=_shown(seen[0]),
            seen=_shown(seen[1]),
            todo="do not use this row: its priority, processors or pages were changed",
        )
    return seen[0]


def _alike(conditions: dict[Role, Conditions]) -> None:
    first = next(iter(conditions))
    for leg, found in conditions.items():
        if found != conditions[first]:
            raise broken(
                f"the {leg} leg ran under other conditions than the {first} leg",
                expected=_shown(conditions[first]),
                seen=_shown(found),
                todo="do not use this row: a difference that is no protection was measured",
            )


def _shown(conditions: Conditions) -> str:
    return ", ".join(f"{name} {value}" for name, value in conditions.items())
