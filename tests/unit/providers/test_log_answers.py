"""Logs that no loopback server gives: where they are asked for, and how much of them is read."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_glasshouse.providers.base import Provider
from tests.unit.providers.one_answer import OneAnswer, OtherServer


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data",
        "https://127.0.0.1:9/x",
        "http://s3.amazonaws.com/vast.ai/instance_logs/a.log",
        "https://s3.amazonaws.com/another-bucket/a.log",
        "https://s3.amazonaws.com/vast.ai/instance_logs/../../other/a",
        "https://s3.amazonaws.com:8443/vast.ai/instance_logs/a",
        "https://user@s3.amazonaws.com/vast.ai/instance_logs/a",
        "https://s3.amazonaws.com.evil.example/vast.ai/instance_logs/a",
        "//127.0.0.1:9/x",
        "file:///etc/passwd",
        "https://[::1/x",
        "x" * 5000,
        5,
    ],
)
def test_a_log_is_asked_for_at_vasts_two_places_and_nowhere_else(vast: Provider, answers: OneAnswer, url: Any) -> None:
    """An address in an answer would otherwise make this machine ask whatever its network reaches."""
    answers.answer_with(200, {"success": True, "result_url": url})
    with OtherServer() as other:
        answers.answer_with(200, {"result_url": url.replace("127.0.0.1:9", other.where) if isinstance(url, str) else url})
        asked = len(answers.asked)
        assert vast.logs("7") == ""
        assert (len(answers.asked) - asked, other.asked) == (1, [])


def test_a_log_at_the_apis_own_address_is_read_by_path_or_full_url(vast: Provider, answers: OneAnswer) -> None:
    for url in ("/logs/7?x=1", f"{answers.url}/logs/7?x=1"):
        answers.answer_with(200, {"result_url": url})
        assert "result_url" in vast.logs("7")
        assert answers.asked[-1] == ("GET", "/logs/7?x=1")


def test_a_log_is_the_end_of_what_was_printed_and_no_more(rest: Provider, vast: Provider, answers: OneAnswer) -> None:
    line = b'data: {"line": "' + b"x" * 900 + b'"}\n\n'
    answers.answer_with(200, line * 200, Content_Type="text/event-stream")
    assert 0 < len(rest.logs("a")) <= 20_100
    deep = (
        b'data: {"line": '
        + b"[" * 5000
        + b"]" * 5000
        + b'}\n\ndata: nothing\n\ndata: 5\n\ndata: {"line": "last \\u001b[31m"}\n\n'
    )
    answers.answer_with(200, deep, Content_Type="text/event-stream")
    assert rest.logs("a").splitlines()[-1] == "last [31m"
    answers.answer_with(200, b"[" * 100_000)
    assert vast.logs("7") == ""
    assert rest.logs("a") == ""
