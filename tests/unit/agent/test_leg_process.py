"""The agent does not trust a leg: messages are checked and bounded before they are stored."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pytest_glasshouse.agent.gpu_memory import GpuMemory
from pytest_glasshouse.agent.launchers import Launchers
from pytest_glasshouse.agent.leg_process import LegProcess
from pytest_glasshouse.agent.leg_scan import _ServedMemory
from pytest_glasshouse.agent.memory_files import MemoryFiles
from pytest_glasshouse.agent.spool import Spool
from pytest_glasshouse.errors import ProtocolError
from pytest_glasshouse.wire import frames
from pytest_glasshouse.wire.peer_credentials import PeerCredentialSocket

Pair = tuple[PeerCredentialSocket, socket.socket]


@pytest.fixture
def pair() -> Any:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        peer = PeerCredentialSocket(ours)
        peer.pid = os.getpid()
        yield peer, theirs


def _launchers(folder: Path) -> Launchers:
    nothing: Any = None
    return Launchers(folder, archive_fd=0, site_packages=[], baseline=nothing, bytecode=nothing)


@pytest.fixture
def leg(tmp_path: Path) -> LegProcess:
    nothing: Any = None
    return LegProcess(
        leg_id="raw-0", order={"kind": "raw", "nonce": "", "plan": nothing, "material": {}}, workspace=tmp_path / "leg", components={},
        baseline=nothing, bytecode=nothing, container="a", launchers=_launchers(tmp_path), gpu=GpuMemory(None), key=Ed25519PrivateKey.generate(), memory_files=MemoryFiles(),
        spool=Spool(tmp_path / "spool.jsonl"),
    )  # fmt: skip


MESSAGES: dict[str, tuple[str, dict[str, Any]]] = {
    "a figure": ("progress", {"units": 1, "elapsed_ns": 1, "loss": "1.0", "overheadPct": 1}),
    "a nested start": ("started", {"initial": [[[[]]]], "order_seed": 1, "device": "cpu"}),
    "a line that is none": ("journal", {"line": "{}"}),
    "a head that is no token": ("head", {"head": "x"}),
    "another thing than an adapter": ("export", {"name": "../x", "offset": 0, "total": 1}),
    "an adapter without end": ("export", {"name": "adapter", "offset": 0, "total": 1 << 40}),
    "nothing known": ("confession", {}),
}


@pytest.mark.parametrize("message", MESSAGES)
def test_malformed_message_is_not_forwarded(message: str, leg: LegProcess, pair: Pair) -> None:
    kind, body = MESSAGES[message]
    with pytest.raises(ProtocolError):
        leg._take_in(pair[0], kind, body, bytearray(b"x"))
    assert leg._spool.since(0, wait_s=0) == []
    with pytest.raises(ProtocolError, match="saw no such name"):
        leg._memory_files.descriptor("raw-0-adapter")


def test_valid_message_is_forwarded(leg: LegProcess, pair: Pair) -> None:
    leg._take_in(pair[0], "progress", {"units": 1, "elapsed_ns": 1, "loss": "1.0"}, bytearray())
    leg._take_in(pair[0], "export", {"name": "adapter", "offset": 0, "total": 1}, bytearray(b"x"))
    assert [event["type"] for event in leg._spool.since(0, wait_s=0)] == ["progress"]
    assert leg._memory_files.read("raw-0-adapter", offset=0, size=9) == (b"x", 1)


@pytest.mark.parametrize("count", [-1, 17, True, "16", None])
def test_a_read_returns_no_more_bytes_than_were_requested(count: Any, pair: Pair) -> None:
    window = os.memfd_create("window")
    try:
        frames.send(pair[1], {"type": "read-done", "body": {"count": count}})
        with pytest.raises(ProtocolError, match="read-done"):
            _ServedMemory(pair[0], window, window).read(0, memoryview(bytearray(16)))
    finally:
        os.close(window)
