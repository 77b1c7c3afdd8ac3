"""Legs that lie about their work and time, as validly signed accounts: each lie must be found by `work witnessed` or the like.

As in `tamper.observation`: the leg's own words are changed before they are signed, and everything after them is consistent with
them. What the agent signs is the agent's, which does not lie.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pytest_glasshouse.tamper.case import Case
from pytest_glasshouse.tamper.observation import judge_changed_round
from pytest_glasshouse.tamper.signed_round import BATCH, HANDOVER_NS, SEGMENT_NS, WASH_NS, RoundEdit
from pytest_glasshouse.tamper.testbed import Editable
from pytest_glasshouse.tamper.turns import TURNS
from pytest_glasshouse.wire import evidence, journal, tokens
from pytest_glasshouse.wire.canonical import sha256_hex

#: The edit of each case of this module, whether its legs take turns, and how many rounds lie.
EDITS: dict[str, tuple[RoundEdit, bool, int]] = {}

WITNESSED = "work witnessed"
_COMPLETED = journal.STEPS.index("train_completed")
#: The places of a segment's numbers.
_UNITS, _ELAPSED, _CPU, _WASH = 1, 2, 3, 5


def _case(name: str, edit: RoundEdit, *, turns: bool = False, reason: str = WITNESSED, rounds: int = 1) -> Case:
    EDITS[f"cheat-{name}"] = (edit, turns, rounds)
    return Case(
        name=f"cheat-{name}",
        play=lambda testbed: judge_changed_round(testbed, edit, turns=TURNS if turns else (), rounds=rounds),
        expected_reason=reason,
        caught_by=reason.removeprefix("unseen: "),
        asset="journal",
    )


def _both(name: str, change: Callable[[Editable], None], **kind: Any) -> tuple[Case, Case]:
    """The same lie of the protected leg, in its journal, and of the raw leg, in its callback."""

    def protected(about: str, content: Any) -> None:
        if about == "entries":
            change(content[_COMPLETED][1])

    def raw(about: str, content: Any) -> None:
        if about == "callback":
            change(content)

    return _case(f"protected-{name}", protected, **kind), _case(f"raw-{name}", raw, **kind)


def _agent(name: str, change: Callable[[Editable], None], *, leg: str = "raw", **kind: Any) -> Case:
    """What the agent saw of a leg that did this."""

    def edit(about: str, content: Any) -> None:
        if about == f"{leg} stretches":
            change(content)

    return _case(f"{leg}-{name}", edit, **kind)


def _times(name: str, factor: float) -> Callable[[Editable], None]:
    def change(body: Editable) -> None:
        body[name] = round(body[name] * factor)

    return change


def _segments(place: int, factor: float, total: str | None = None) -> Callable[[Editable], None]:
    """Every segment's number at `place` times `factor`, and the total with it."""

    def change(body: Editable) -> None:
        for segment in body["segments"]:
            segment[place] = round(segment[place] * factor)
        if total is not None:
            body[total] = sum(segment[place] for segment in body["segments"])

    return change


def _one_segment(body: Editable) -> None:
    """Time moved from one segment to the other: the total is right."""
    first, second = body["segments"]
    first[_ELAPSED] -= 500_000
    second[_ELAPSED] += 500_000


def _turn_twice(body: Editable) -> None:
    body["segments"].append([*body["segments"][-1]])
    body |= {"units": body["units"] + 10, "elapsed_ns": body["elapsed_ns"] + SEGMENT_NS, "cpu_ns": body["cpu_ns"] + SEGMENT_NS}


def _bfloat16(body: Editable) -> None:
    body["epilogue"] = ["0.498046875"]


def _late_word(claims: Editable) -> None:
    """The leg says a tenth of a second late that its clock runs: what it does until then may be outside of its own time."""
    claims["stretches"][0][1] += SEGMENT_NS // 10


def _niced_for_a_while(claims: Editable) -> None:
    claims["conditions"].append({**claims["conditions"][0], "nice": 10})


def _condition(**changed: Any) -> Callable[[Editable], None]:
    return lambda claims: claims["conditions"][0].update(changed)


def _idle_in_each_turn(about: str, content: Any) -> None:
    """Nine hundredths of every turn of the protected leg pass after its clock has stopped."""
    if about == "borders":
        shift = 0
        for before, after in content["borders"]:
            before[0] += shift
            shift += SEGMENT_NS * 9 // 100 if content["turns"][content["borders"].index([before, after])] == "protected" else 0
            after[0] += shift


def _long_washouts(about: str, content: Any) -> None:
    """Four times as long, and the turns with them."""
    if about == "entries":
        _segments(_WASH, 4)(content[_COMPLETED][1])
    elif about == "borders":
        shift = 0
        for number, (before, after) in enumerate(content["borders"]):
            before[0] += shift
            shift += 3 * WASH_NS if content["turns"][number] == "protected" else 0
            after[0] += shift


def _adapter_again(about: str, content: Any) -> None:
    """Two rounds, each with the adapters of the first."""
    if about == "observation":
        content["rounds"].append({**copy.deepcopy(content["rounds"][0]), "round": 2})


def _checkpoints(change: Callable[[list[Any]], object]) -> Callable[[Editable], None]:
    def changed(body: Editable) -> None:
        change(body["checkpoints"])

    return changed


def _equal_weights(checkpoints: list[Any]) -> None:
    checkpoints.append([2, "0.125", checkpoints[0][2]])


def _no_warm_up_steps(body: Editable) -> None:
    """A warm-up of four seconds with hardly a step: the others are counted as timed ones."""
    body["warmup_ns"] = 4 * SEGMENT_NS


def _figures(leg: str, **changed: str) -> RoundEdit:
    def edit(about: str, content: Any) -> None:
        if about == "observation":
            content["rounds"][0][leg]["adapterFigures"].update(changed)

    return edit


def _in_every_round(leg: str, **figures: str) -> RoundEdit:
    """What the owner finds out of this leg's adapter, which is another one in each round, and always of this kind."""

    def edit(about: str, content: Any) -> None:
        if about == "observation":
            content["rounds"][-1][leg]["adapterFigures"].update(figures)

    return edit


def _many_units(change: Callable[[Editable], None], *, leg: str) -> RoundEdit:
    """Legs of fifty units where others have one, as their agent saw, and what one of them says of it changed."""

    def edit(about: str, content: Any) -> None:
        if about.endswith("stretches"):
            content["stretches"][0][4] = 50
        elif about in ("entries", "callback"):
            body = content if about == "callback" else content[_COMPLETED][1]
            body["units"], body["batches"]["training"] = 50, {BATCH: 51}
            body["warmup_ns"] //= 50
            if (about == "entries") == (leg == "protected"):
                change(body)

    return edit


def _two_per_cent_more(body: Editable) -> None:
    _times("units", 1.02)(body)
    body["batches"]["training"] = {BATCH: 52}


def _unseen_figures(about: str, content: Any) -> None:
    if about == "observation":
        del content["rounds"][0]["raw"]["adapterFigures"]


def _lora(change: RoundEdit) -> RoundEdit:
    """In a row of lora, whose data are a text: nobody evaluates its adapter."""

    def edit(about: str, content: Any) -> None:
        if about == "observation":
            content["material"]["workload"] = "lora"
        change(about, content)

    return edit


def _loss_of_the_raw_leg(about: str, content: Any) -> None:
    """Both its loss and its adapter's, which is consistent: only the other leg tells."""
    if about == "callback":
        content["final_loss"] = "3.0"
    _figures("raw", loss="2.9")(about, content)


def _half_the_cpu_time(about: str, content: Any) -> None:
    """What the protected leg reports is what its agent saw: half of what the raw leg used for as many units."""
    if about == "entries":
        _times("cpu_ns", 0.5)(content[_COMPLETED][1])
    elif about == "protected stretches":
        content["cpuNs"] = [[least // 2, most // 2] for least, most in content["cpuNs"]]


def _notes(change: Callable[[Editable], None]) -> RoundEdit:
    return lambda about, content: change(content["rounds"][0]["raw"]) if about == "observation" else None


def _by_a_stranger(notes: Editable) -> None:
    notes["stretches"] = tokens.sign(
        tokens.peek(notes["stretches"]), key=Ed25519PrivateKey.generate(), typ=evidence.TYP_STRETCHES
    )


def _batches(**changed: dict[str, int]) -> Callable[[Editable], None]:
    return lambda body: body["batches"].update(changed)


def _of_another_type(body: Editable) -> None:
    """In its prologue, too: only the other leg tells."""
    body["batches"] = {name: {"256x32 float32 float32 bfloat16": 2} for name in body["batches"]}


def _no_sizes(about: str, content: Any) -> None:
    if about == "observation":
        content["material"]["facts"].clear()


def _on_a_gpu(change: Callable[[Editable], object], *, leg: str) -> RoundEdit:
    """Both legs on a GPU whose clock agrees with theirs, and what one of them says changed."""

    def edit(about: str, content: Any) -> None:
        if about not in ("entries", "callback"):
            return
        body = content if about == "callback" else content[_COMPLETED][1]
        body["facts"]["device"] = "A GPU"
        turn_ns = WASH_NS + HANDOVER_NS if "segments" in body else 0
        timed = [each[_ELAPSED] for each in body.get("segments", [])] or [body["elapsed_ns"]]
        body["gpu_ns"] = [[each - 1000, each, each + turn_ns] for each in timed]
        if (about == "entries") == (leg == "protected"):
            change(body)

    return edit


def _gpu_times(place: int, by_ns: int) -> Callable[[Editable], None]:
    """So much more (or less) in each stretch, and in whatever that is part of."""

    def change(body: Editable) -> None:
        for row in body["gpu_ns"]:
            for each in range(place, 3):
                row[each] += by_ns

    return change


def _gpu(name: str, change: Callable[[Editable], object], **kind: Any) -> tuple[Case, Case]:
    protected, raw = (_case(f"{leg}-gpu-{name}", _on_a_gpu(change, leg=leg), turns=True, **kind) for leg in ("protected", "raw"))
    return protected, raw


def _other_steps(losses: list[str]) -> Callable[[Editable], None]:
    return lambda claims: claims["repeats"][0].update(losses=losses)


CASES = (
    *_both("units-doubled", _times("units", 2)),
    *_both("elapsed-halved", _times("elapsed_ns", 0.5)),
    *_both("clock-slowed-to-95", _times("elapsed_ns", 0.95)),
    *_both("clock-slowed-to-91", _times("elapsed_ns", 0.91)),
    *_both("clock-fast", _times("elapsed_ns", 1.002)),
    *_both("total-units-half-off", _times("units", 1.5), turns=True),
    *_both("total-time-half-off", _times("elapsed_ns", 0.5), turns=True),
    *_both("total-processor-time-off", _times("cpu_ns", 0.5), turns=True),
    *_both("segments-units-a-tenth-more", _segments(_UNITS, 1.1, "units"), turns=True),
    *_both("segments-clock-slowed", _segments(_ELAPSED, 0.95, "elapsed_ns"), turns=True),
    *_both("time-moved-between-segments", _one_segment, turns=True),
    *_both("turn-reported-twice", _turn_twice, turns=True),
    *_both("another-arithmetic-after-the-prologue", _bfloat16),
    *_both("processor-time-halved", _times("cpu_ns", 0.5)),
    *_both("checkpoints-not-reported", lambda body: body.pop("checkpoints"), reason=f"unseen: {WITNESSED}"),
    *_both("checkpoint-of-a-step-never-taken", _checkpoints(lambda each: each[0].__setitem__(0, 9))),
    *_both("checkpoint-twice", _checkpoints(lambda each: each.append([*each[0]]))),
    *_both("checkpoint-of-no-loss", _checkpoints(lambda each: each[0].__setitem__(1, 7))),
    *_both("weights-that-stay", _checkpoints(_equal_weights)),
    *_both("warm-up-counted-as-timed", _no_warm_up_steps),
    *(_case(f"{leg}-adapter-of-another-loss", _figures(leg, loss="2.5")) for leg in ("protected", "raw")),
    *(_case(f"{leg}-adapter-of-a-better-loss", _figures(leg, loss="0.01")) for leg in ("protected", "raw")),
    *(_case(f"{leg}-adapter-hardly-moved", _figures(leg, distance="0.001")) for leg in ("protected", "raw")),
    *(_case(f"{leg}-adapter-not-finite", _figures(leg, distance="nan")) for leg in ("protected", "raw")),
    *(_case(f"{leg}-lora-adapter-far-away", _lora(_figures(leg, distance="3.0"))) for leg in ("protected", "raw")),
    _case("protected-works-half-as-much", _half_the_cpu_time),
    _case("raw-adapter-not-looked-at", _unseen_figures, reason=f"unseen: {WITNESSED}"),
    _case("losses-far-from-each-other", _loss_of_the_raw_leg),
    _agent("processor-time-not-seen", lambda claims: claims["cpuNs"].clear(), reason=f"unseen: {WITNESSED}"),
    *_both("prologue-not-repeated", lambda body: body.pop("epilogue"), reason=f"unseen: {WITNESSED}"),
    *(_agent("another-arithmetic-in-between", _other_steps(["0.498046875"]), leg=leg) for leg in ("protected", "raw")),
    *(_agent("other-steps-repeated-in-between", _other_steps(losses)) for losses in (["0.5", "0.25", "0.125"],)),
    _agent("no-loss-told-in-between", _other_steps([])),
    _agent("not-asked-in-between", lambda claims: claims["repeats"].clear(), reason=f"unseen: {WITNESSED}"),
    *_both("batches-not-counted", lambda body: body.pop("batches"), reason=f"unseen: {WITNESSED}"),
    *_both("batches-of-the-prologue-not-counted", _batches(prologue={}), reason=f"unseen: {WITNESSED}"),
    *_both("half-of-the-samples", _batches(training={"128x32 float32 float32 float32": 2})),
    *_both("half-of-the-batches", _batches(training={BATCH: 1})),
    *_both("batches-in-another-precision", _batches(training={"256x32 float32 float32 bfloat16": 2})),
    *_both("all-batches-in-another-precision", _of_another_type),
    _case("sizes-of-the-data-not-known", _no_sizes, reason=f"unseen: {WITNESSED}"),
    *_gpu("not-timed", lambda body: body.update(gpu_ns=None), reason=f"unseen: {WITNESSED}"),
    *_gpu("time-of-a-stretch-left-out", lambda body: body["gpu_ns"].pop()),
    *_gpu("more-steps-than-time", lambda body: body["gpu_ns"][0].__setitem__(0, 2 * SEGMENT_NS)),
    *_gpu("works-on-when-the-clock-has-stopped", _gpu_times(1, SEGMENT_NS * 9 // 100)),
    *_gpu("clock-slower-than-the-legs", _gpu_times(0, -SEGMENT_NS * 5 // 100)),
    *_gpu("idle-in-each-turn", _gpu_times(2, SEGMENT_NS * 9 // 100)),
    _case(
        "protected-gpu-works-half-as-much",
        _on_a_gpu(
            lambda body: body["gpu_ns"].__setitem__(
                slice(None), [[steps // 2, stretch, turn] for steps, stretch, turn in body["gpu_ns"]]
            ),
            leg="protected",
        ),
    ),
    _case("idle-in-each-turn", _idle_in_each_turn, turns=True),
    _case("work-in-long-wash-outs", _long_washouts, turns=True),
    *(_agent("tells-late-that-its-clock-runs", _late_word, leg=leg) for leg in ("protected", "raw")),
    *(_agent("niced-for-a-while", _niced_for_a_while, leg=leg) for leg in ("protected", "raw")),
    _agent("niced", _condition(nice=10)),
    _agent("pinned", _condition(processors="1")),
    _agent("without-huge-pages", _condition(hugePages="0")),
    _agent("of-another-class", _condition(policy=3)),
    _agent("conditions-not-seen", lambda claims: claims["conditions"].clear(), reason=f"unseen: {WITNESSED}"),
    _agent("stretch-not-seen", lambda claims: claims["stretches"].pop(), turns=True),
    _agent("account-of-another-session", lambda claims: claims.update(nonce=sha256_hex(b"another"))),
    _case("raw-account-by-a-stranger", _notes(_by_a_stranger)),
    _case("raw-account-missing", _notes(lambda notes: notes.pop("stretches")), reason=f"unseen: {WITNESSED}"),
    *(
        _case(f"{leg}-units-2-per-cent-more-in-all-rounds", _many_units(_two_per_cent_more, leg=leg), rounds=3)
        for leg in ("protected", "raw")
    ),
    *(
        _case(f"{leg}-adapter-as-far-off-in-all-rounds", _in_every_round(leg, distance="0.2"), rounds=3)
        for leg in ("protected", "raw")
    ),
    *(
        _case(f"{leg}-adapter-of-another-loss-in-all-rounds", _in_every_round(leg, loss="2.5"), rounds=3)
        for leg in ("protected", "raw")
    ),
    _case("one-adapter-in-every-round", _adapter_again, reason="adapter digests distinct"),
)
