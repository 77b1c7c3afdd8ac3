"""Every reply of a guest is checked where it arrives, and no wait exceeds its deadline."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from pytest_glasshouse.channel.allowance import Allowance
from pytest_glasshouse.channel.guest_channel import GuestChannel, put
from pytest_glasshouse.errors import GlasshouseError, GuestGoneError, GuestRefusedError, ProtocolError
from pytest_glasshouse.legs.leg_watch import LegDeadlineError, LegWatch, Progress
from pytest_glasshouse.wire.guest_messages import COVARIATES, EVENTS_PER_PULL, REPLIES
from tests.limits import HANG_S
from tests.unit.channel.lying_agent import HELLO, LyingAgent, Trickle, event, exit_event, frame, refused

LEG = "raw-0"


def nested(depth: int) -> Any:
    return {"x": nested(depth - 1)} if depth else 0


def _with(honest: dict[str, Any], value: Any) -> dict[str, Any]:
    """The reply with another value as its first member."""
    return {**honest, next(iter(honest), "x"): value}


@contextlib.contextmanager
def talking(answers: dict[str, Any], **options: Any) -> Iterator[GuestChannel]:
    with LyingAgent(answers) as agent:
        channel = GuestChannel(agent.address, allocation_id="a", **options)
        try:
            yield channel
        finally:
            channel.close()


#: Replies that fit no operation.
LIES: dict[str, Any] = {
    "a foreign member": lambda honest: {**honest, "overheadPct": 1},
    "a member of any name": lambda honest: {**honest, "x" * 70_000: 1},
    "nested": lambda honest: _with(honest, nested(24)),
    "a long text": lambda honest: _with(honest, "y" * 120_000),
    "a negative number": lambda honest: _with(honest, -1),
    "a flag": lambda honest: _with(honest, True),
    "a list": lambda honest: _with(honest, [{"x": 1}]),
    "bytes beside it": lambda honest: frame(dict(honest), b"x" * 9),
    "a number beyond 2^53": lambda honest: frame(b'{"total":9007199254740993}'),
    "a float": lambda honest: frame(b'{"total":1.5}'),
    "a key twice": lambda honest: frame(b'{"total":1,"total":1}'),
    "no object": lambda honest: frame(b"[]"),
    "too large a frame": lambda honest: b"\xff\xff\xff\xff\x00\x00\x00\x00",
    "a refusal with more": lambda honest: {"error": "KeyError", "detail": "x", "overheadPct": 1},
    "a refusal without end": lambda honest: {"error": "KeyError", "detail": "x" * 1000},
    "a refusal of no kind": lambda honest: {"error": {"x": 1}, "detail": "x"},
}
HONEST: dict[str, dict[str, Any]] = {
    **{op: {} for op in REPLIES},
    "hello": HELLO,
    "enrol": {"ak": "A" * 43, "proof": "A" * 86},
    "get": {"total": 0},
    "pull": {"events": []},
    "covariates": {"fields": list(COVARIATES), "samples": [], "reasons": {}},
}


@pytest.mark.parametrize("op", sorted(HONEST))
@pytest.mark.parametrize("lie", LIES)
def test_malformed_reply_is_refused_where_it_arrives(op: str, lie: str) -> None:
    """It never becomes an observation, an unexpected exception, or an unreadable report."""
    if lie == "bytes beside it" and op == "get":
        return  # a piece does have bytes beside it
    with talking({op: LIES[lie](HONEST[op])}) as channel, pytest.raises(ProtocolError) as caught:
        channel.pull(0) if op == "pull" else channel.request(op)
    assert not isinstance(caught.value, GuestRefusedError)
    assert caught.value.allocation_id == "a"
    assert len(str(caught.value)) < 1000
    assert str(caught.value).isprintable()


def test_honest_replies_are_accepted() -> None:
    with talking({}) as channel:
        assert channel.request("hello") == HELLO
        assert channel.fetch("x") == b"abc"
        assert channel.request("put", {"name": "x", "offset": 0, "total": 0}) == {}


def test_an_unknown_operation_is_limited_to_a_short_answer() -> None:
    """Only a test's own agent has such an operation."""
    with talking({"train": {"done": True, "why": "x"}}) as channel:
        assert channel.request("train") == {"done": True, "why": "x"}
    lies: tuple[dict[str, Any], ...] = (
        {"done": {}},
        {"done": []},
        {"done": "\n"},
        {"x" * 100: 1},
        {str(number) + "x": 1 for number in range(20)},
    )
    for lie in lies:
        with talking({"train": lie}) as channel, pytest.raises(ProtocolError):
            channel.request("train")


def test_a_refusal_is_shown_in_printable_characters() -> None:
    with talking({"drop": refused}) as channel, pytest.raises(GuestRefusedError, match="refused drop: KeyError") as caught:
        channel.request("drop", {"name": "x"})
    assert "\x1b" not in str(caught.value)
    assert "::error" not in str(caught.value)


EVENT_LIES: dict[str, list[Any]] = {
    "of no kind": [event(LEG, "confession", {})],
    "a foreign member": [event(LEG, "started", {"initial": "0" * 64, "order_seed": 1, "device": "cpu", "overheadPct": 1})],
    "nested": [event(LEG, "started", {"initial": nested(24), "order_seed": 1, "device": "cpu"})],
    "a negative number": [event(LEG, "progress", {"units": -1, "elapsed_ns": 1, "loss": "1.0"})],
    "a flag for a number": [event(LEG, "progress", {"units": True, "elapsed_ns": 1, "loss": "1.0"})],
    "no loss": [event(LEG, "progress", {"units": 1, "elapsed_ns": 1, "loss": "nan"})],
    "unicode digits": [event(LEG, "progress", {"units": 1, "elapsed_ns": 1, "loss": "١.٥"})],  # noqa: RUF001
    "a reason that is a command": [event(LEG, "failed", {"reason": "::error::x", "detail": ""})],
    "a detail that moves the cursor": [event(LEG, "failed", {"reason": "x", "detail": "\x1b[2J"})],
    "a detail without end": [event(LEG, "failed", {"reason": "x", "detail": "y" * 5000})],
    "a line that is none": [event(LEG, "journal", {"line": '{"type":"zeroized"}'})],
    "a line over the limit": [event(LEG, "journal", {"line": "x" * 70_000})],
    "no token": [event(LEG, "exit", {"exit": "a.b.c", "exit_status": 0})],
    "a token with a figure": [exit_event(LEG, gpu={"overheadPct": 1})],
    "a token with depth": [exit_event(LEG, images={"status": nested(20)})],
    "out of place": [event(LEG, "scan-loaded", {}, seq=1)],
    "twice the same place": [event(LEG, "scan-loaded", {}), event(LEG, "scanned-loaded", {})],
    "with a hole": [event(LEG, "scan-loaded", {}), event(LEG, "scanned-loaded", {}, seq=2)],
    "backwards": [event(LEG, "scan-loaded", {}), event(LEG, "scanned-loaded", {}, seq=-1)],
    "a place that is a flag": [event(LEG, "scan-loaded", {}), event(LEG, "scanned-loaded", {}, seq=True)],
    "too many": [event(LEG, "scan-loaded", {}, seq=number) for number in range(EVENTS_PER_PULL + 1)],
    "a name that is a path": [event("../" * 99, "scan-loaded", {})],
    "no event": ["event"],
    "no time": [{**event(LEG, "scan-loaded", {}), "t_ns": "now"}],
}  # fmt: skip


@pytest.mark.parametrize("lie", EVENT_LIES)
def test_malformed_event_is_refused_where_it_arrives(lie: str) -> None:
    with talking({"pull": {"events": EVENT_LIES[lie]}}) as channel, pytest.raises(ProtocolError):
        channel.pull(0)


TOTALS: dict[str, list[bytes]] = {
    "more than was sent there": [frame({"total": 5000}, b"x" * 5000)],
    "growing": [frame({"total": 4 * 1024 * 1024 + 1}, b"x" * 4 * 1024 * 1024), frame({"total": 4 * 1024 * 1024 + 9}, b"x")],
    "shrinking": [frame({"total": 4 * 1024 * 1024 + 9}, b"x" * 4 * 1024 * 1024), frame({"total": 4 * 1024 * 1024}, b"")],
    "without a piece": [frame({"total": 10}, b"")],
    "less than a piece": [frame({"total": 10}, b"x")],
    "more than a piece": [frame({"total": 10}, b"x" * 11)],
    "negative": [frame({"total": -1}, b"x")],
}


@pytest.mark.parametrize("lie", TOTALS)
def test_an_item_is_fetched_as_large_as_it_was_announced_and_may_be(lie: str) -> None:
    limit = 4096 if lie == "more than was sent there" else 8 * 1024 * 1024
    with talking({"get": TOTALS[lie]}) as channel, pytest.raises(ProtocolError):
        channel.fetch("x", limit=limit)


def test_a_guest_that_sends_without_end_is_stopped() -> None:
    """It would fill memory, and the report with it."""

    def more(request: dict[str, Any]) -> dict[str, Any]:
        begin = request["cursor"]
        return {"events": [event(LEG, "scan-loaded", {}, seq=begin + number) for number in range(100)]}

    def until_refused(allowance: Allowance) -> int:
        cursor = 0
        with talking({"pull": more}, allowance=allowance) as channel, contextlib.suppress(ProtocolError):
            for cursor in range(0, 100_000, 100):
                channel.pull(cursor)
        return cursor

    assert until_refused(Allowance(leg_bytes=50_000)) < 1000
    assert until_refused(Allowance(leg_events=450)) == 400
    run = Allowance(run_bytes=50_000)
    assert until_refused(run) < 1000
    run.begin()
    assert until_refused(run) == 0


@pytest.mark.parametrize("op", ["hello", "drop", "pull", "get"])
def test_an_answer_that_comes_a_byte_at_a_time_is_not_waited_for(op: str) -> None:
    """A timeout for each byte would never fire."""
    trickle = Trickle(frame({"events": [], "x": "y" * 5000}))
    with talking({op: trickle}, timeout_s=0.2) as channel, pytest.raises(GuestGoneError):
        channel.fetch("x", limit=0) if op == "get" else channel.request(op, within_s=0.3)
    assert trickle.sent < len(trickle.frame)


def test_a_guest_that_neither_reads_nor_accepts_is_not_waited_for() -> None:
    with LyingAgent() as agent:
        agent._listener.listen(0)
        held = [GuestChannel(agent.address, allocation_id="a", timeout_s=0.2)]
        agent.answers["put"] = [lambda _request: agent.gone.wait() or {}]
        with pytest.raises(GuestGoneError):
            put(held[0], "x", b"y" * 100)
        for channel in held:
            channel.close()


def watch(channel: GuestChannel, *, timeout_s: float, leg: str = "raw") -> LegWatch:
    progress = Progress(row_id="r", leg=leg, phase="start", round=1, rounds=1, elapsed_s=0.0)
    return LegWatch(
        channel, leg_id=LEG, leg=leg, timeout_s=timeout_s, target_s=1.0, steps=None, emit=lambda _progress: None, progress=progress,
        allocation_id="a",
    )  # fmt: skip


def test_a_legs_deadline_fires_while_its_guest_still_sends() -> None:
    """However slowly it sends, and whether or not it obeys the kill."""
    trickle = Trickle(frame({"events": [event(LEG, "failed", {"reason": "x", "detail": "y" * 500})] * 20}))
    with talking({"pull": trickle}) as channel, pytest.raises(LegDeadlineError, match="did not end within") as caught:
        watch(channel, timeout_s=0.2).until_exit(0, lambda _kind, _body: None)
    assert not caught.value.killed
    assert trickle.sent < len(trickle.frame)


def test_a_leg_that_is_late_is_killed() -> None:
    with talking({"pull": {"events": []}}) as channel, pytest.raises(LegDeadlineError) as caught:
        watch(channel, timeout_s=0.05).until_exit(0, lambda _kind, _body: None)
    assert caught.value.killed


AGAIN: dict[str, list[dict[str, Any]]] = {
    "started twice": [
        event(LEG, "started", {"initial": "0" * 64, "order_seed": 1, "device": "cpu"}, seq=number) for number in range(2)
    ],
    "speaks as a protected one": [event(LEG, "challenge-wanted", {})],
    "goes back in time": [event(LEG, "progress", {"units": 1, "elapsed_ns": 1, "loss": "1.0"}, seq=n, t_ns=9 - n) for n in range(2)],
}  # fmt: skip


@pytest.mark.parametrize("lie", AGAIN)
def test_an_impossible_sequence_of_events_ends_its_row(lie: str) -> None:
    kinds: list[str] = []
    with talking({"pull": {"events": AGAIN[lie]}}) as channel, pytest.raises(ProtocolError) as caught:
        watch(channel, timeout_s=HANG_S).until_exit(0, lambda kind, _body: kinds.append(kind))
    assert caught.value.allocation_id == "a"
    assert len(kinds) < 2


def test_no_reply_takes_longer_than_its_deadline() -> None:
    """Every operation in turn, answered one byte at a time: each ends."""
    for op in sorted(HONEST):
        trickle = Trickle(frame({"x": "y" * 10_000}))
        with talking({op: trickle}, timeout_s=0.05) as channel, pytest.raises(GlasshouseError):
            channel.pull(0, within_s=0.1) if op == "pull" else channel.request(op, within_s=0.1)
        assert trickle.sent < len(trickle.frame)
