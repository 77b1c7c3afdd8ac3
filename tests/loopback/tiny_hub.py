"""A hub with one small model, and a client that follows and checks nothing: what the tests of the loopback hub share."""

from __future__ import annotations

import http.client
from typing import Any
from urllib.parse import urlsplit

from tests.limits import HANG_S
from tests.loopback.hub import Hub
from tests.loopback.hub_repository import commit_id

REPO = "org/tiny"
OLD, NEW = commit_id("old"), commit_id("new")
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
FILES = {"config.json": b"hello\n", "empty.txt": b"", FIRST: b"first " * 900, SECOND: b"second " * 900, "more/notes.md": b"notes"}
LET_IN, OTHER = "hf_" + "a" * 34, "hf_" + "b" * 34


def tiny_hub(**options: Any) -> Hub:
    return Hub({REPO: {OLD: {"config.json": b"old"}, NEW: FILES}}, **options)


def plain(url: str, method: str = "GET", **headers: str) -> tuple[http.client.HTTPResponse, http.client.HTTPConnection]:
    """A client that follows and checks nothing."""
    split = urlsplit(url)
    connection = http.client.HTTPConnection(split.netloc, timeout=HANG_S)
    connection.request(
        method, f"{split.path}?{split.query}", headers={name.replace("_", "-"): text for name, text in headers.items()}
    )
    return connection.getresponse(), connection


def answer(url: str, method: str = "GET", **headers: str) -> tuple[int, http.client.HTTPMessage, bytes]:
    response, connection = plain(url, method, **headers)
    try:
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def link(hub: Hub, file: str = FIRST) -> str:
    """Where the hub sends a client that wants a large file."""
    status, headers, _ = answer(f"{hub.url}/{REPO}/resolve/{NEW}/{file}", "HEAD")
    assert status == 302
    return headers["Location"]
