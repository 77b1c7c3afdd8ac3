"""A small real model on a hub, asked by the functions that the product runs in a process of its own, but in this one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from pytest_glasshouse.errors import ConfigurationError, GlasshouseError, InfrastructureError
from pytest_glasshouse.wire.printable import printable
from pytest_glasshouse.workloads import model_hub
from pytest_glasshouse.workloads.base import BaseModel
from tests.loopback.causal_models import causal_lm
from tests.loopback.hub import Hub
from tests.loopback.hub_repository import commit_id

REPO = "Tests/Tiny-0.5B"
COMMIT, LATER = commit_id("first"), commit_id("later")
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"
TOKEN, OTHER = "hf_" + "a" * 34, "hf_" + "b" * 34
FILES = causal_lm("qwen2", shards=2)
MIB = 1 << 20


def hub_of(files: Mapping[str, bytes] = FILES, /, **options: Any) -> Hub:
    return Hub({REPO: {COMMIT: files}}, **options)


def described(
    hub: Hub | str,
    *,
    repo: str = REPO,
    token: str | None = None,
    revision: str | None = None,
    pause: Callable[[float], None] = lambda _seconds: None,
) -> BaseModel:
    """What `describe` gives, without its process: the answer becomes bytes all the same."""
    where = hub if isinstance(hub, str) else hub.url
    request: model_hub._Request = {"endpoint": where, "repo": repo, "revision": revision}
    answer, content = model_hub._answered(request, token, pause=pause)
    return model_hub._taken(request, *model_hub._unpacked(b"".join([json.dumps(answer).encode(), b"\n", *content])))


def refused(hub: Hub, *, kind: type[GlasshouseError] | None = None, token: str | None = None, revision: str | None = None) -> str:
    """The one sentence that such a hub ends in."""
    with pytest.raises(kind or (ConfigurationError, InfrastructureError)) as caught:
        described(hub, token=token, revision=revision)
    text = str(caught.value)
    assert REPO in text
    assert hub.url in text
    assert text == printable(text, limit=1000)
    assert "Traceback" not in text
    assert TOKEN not in text
    return text
