"""Each provider over a server with one scripted answer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pytest_glasshouse.providers.base import Provider
from pytest_glasshouse.providers.registry import open_runpod
from pytest_glasshouse.providers.vastai import open_vastai
from tests.unit.providers.one_answer import OneAnswer


@pytest.fixture
def answers() -> Iterator[OneAnswer]:
    server = OneAnswer()
    yield server
    server.close()


@pytest.fixture
def rest(answers: OneAnswer) -> Provider:
    return open_runpod({"RUNPOD_API_KEY": "key-of-the-test", "RUNPOD_API_BASE_URL": answers.url})


@pytest.fixture
def sdk(answers: OneAnswer, monkeypatch: pytest.MonkeyPatch) -> Provider:
    monkeypatch.setenv("RUNPOD_API_BASE_URL", answers.url)
    environ = {"RUNPOD_API_KEY": "key-of-the-test", "RUNPOD_API_BASE_URL": answers.url, "GLASSHOUSE_RUNPOD_API": "sdk"}
    return open_runpod(environ)


@pytest.fixture
def vast(answers: OneAnswer) -> Provider:
    return open_vastai({"VAST_API_KEY": "key-of-the-test", "VAST_URL": answers.url})
