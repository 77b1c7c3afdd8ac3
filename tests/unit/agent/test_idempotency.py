"""A request that arrives twice is carried out once."""

from __future__ import annotations

import threading

import pytest

from pytest_glasshouse.agent.idempotency import AgentReply, ReplyCache
from pytest_glasshouse.errors import ProtocolError
from tests.limits import HANG_S


def test_repetition_gets_the_first_answer_and_nothing_happens_twice() -> None:
    cache, done = ReplyCache(), list[int]()

    def carry_out() -> AgentReply:
        done.append(1)
        return {"count": len(done)}, b""

    first = cache.answer({"session": "a", "number": 1}, carry_out)
    assert cache.answer({"session": "a", "number": 1}, carry_out) == first
    assert len(done) == 1
    assert cache.answer({"session": "b", "number": 1}, carry_out)[0] == {"count": 2}
    assert cache.answer({"session": "a", "number": 2}, carry_out)[0] == {"count": 3}


def test_a_number_from_the_past_is_refused() -> None:
    cache = ReplyCache()
    for number in (1, 2):
        cache.answer({"session": "a", "number": number}, lambda: ({}, b""))
    with pytest.raises(ProtocolError, match="expected request 2 again, or a later one, in this session; saw 1"):
        cache.answer({"session": "a", "number": 1}, lambda: ({}, b""))


def test_repetition_waits_for_the_first_that_is_still_under_way() -> None:
    cache, begun, go, done = ReplyCache(), threading.Event(), threading.Event(), list[int]()

    def slowly() -> AgentReply:
        begun.set()
        go.wait(HANG_S)
        done.append(1)
        return {"slow": True}, b""

    replies: list[AgentReply] = []
    ask = lambda: replies.append(cache.answer({"session": "a", "number": 1}, slowly))  # noqa: E731
    both = [threading.Thread(target=ask) for _ in range(2)]
    for thread in both:
        thread.start()
    begun.wait(HANG_S)
    go.set()
    for thread in both:
        thread.join(HANG_S)
    assert replies == [({"slow": True}, b"")] * 2
    assert done == [1]


def test_idle_sessions_are_forgotten_so_that_memory_is_bounded() -> None:
    cache = ReplyCache()
    for number in range(200):
        cache.answer({"session": str(number), "number": 1}, lambda: ({}, bytes(10)))
    assert len(cache._sessions) == 64
