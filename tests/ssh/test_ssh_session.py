"""An SSH session to a guest: real sshd, real ssh, the agent installed and started over it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_glasshouse.channel.access import SshAccess
from pytest_glasshouse.channel.archive import guest_archive
from pytest_glasshouse.channel.guest_channel import GuestChannel
from pytest_glasshouse.channel.guest_session import GuestSession
from pytest_glasshouse.channel.pod_launch import new_keys
from pytest_glasshouse.errors import BootTimeoutError, GuestGoneError
from pytest_glasshouse.wire.canonical import sha256_hex
from tests.limits import HANG_S, until
from tests.ssh.conftest import MakePod, MakeSession


def _hello(path: str) -> dict[str, Any]:
    with contextlib.closing(GuestChannel(path, allocation_id="ssh", reconnect_s=HANG_S)) as channel:
        return channel.request("hello")


def _client_pid(session: GuestSession) -> int:
    """The process id of the current SSH client."""
    tunnel = session._tunnel
    assert tunnel is not None
    with tunnel._lock:
        assert tunnel._client is not None
        return tunnel._client.pid


def _pulled_nothing(channel: GuestChannel) -> bool:
    return channel.request("pull", {"cursor": 0, "wait_ms": 200})["events"] == []


def _refusal(make: Callable[[], GuestSession], access: SshAccess) -> str:
    """Why a session was given up; the time for it is longer where this machine has not even reached the guest."""
    for timeout_s in (3.0, 30.0, HANG_S):
        with pytest.raises(BootTimeoutError) as caught:
            make().connect(access, timeout_s=timeout_s)
        if "timed out" not in str(caught.value) and "refused" not in str(caught.value):
            break
    return str(caught.value)


def test_the_agent_is_installed_and_answers_through_a_forwarded_socket(make_pod: MakePod, make_session: MakeSession) -> None:
    pod, phases = make_pod(), list[str]()
    session = make_session(pod)
    hello = _hello(session.connect(pod.access, timeout_s=HANG_S, on_phase=phases.append))
    assert hello["archiveSha256"] == sha256_hex(guest_archive())
    assert hello["allocation"] == pod.name
    assert phases == ["connecting", "copying the guest's code", "starting the agent"]
    # Reaching it again finds the same agent: nothing is started twice.
    assert _hello(session.connect(pod.access, timeout_s=HANG_S))["agentNonce"] == hello["agentNonce"]

    # No endpoint and no key is in any process list, and the client's files are the user's alone.
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    private = pod.keys.client_private.splitlines()[1].encode()
    assert not [c for c in commands if private in c or f"127.0.0.1:{pod.port}".encode() in c or b"HostName" in c]
    client = Path(f"/proc/{_client_pid(session)}/cmdline").read_bytes().split(b"\0")
    directory = Path(client[client.index(b"-F") + 1].decode()).parent
    assert {path.stat().st_mode & 0o077 for path in (directory, *directory.iterdir())} == {0}

    # The client is killed: the request in flight is answered all the same, and once.
    killed = _client_pid(session)
    with contextlib.closing(GuestChannel(str(directory / "agent.sock"), allocation_id="ssh", reconnect_s=HANG_S)) as channel:
        threading.Timer(0.1, os.kill, (killed, signal.SIGKILL)).start()
        until(lambda: _pulled_nothing(channel) and _client_pid(session) != killed, "another client")
        assert _pulled_nothing(channel)

    # The shutdown request ends legs and agent at once, and the pod's first process wipes what is left.
    session.shut_down()
    session.close()
    assert not directory.exists()
    assert (pod.root / "shutdown").exists() or not pod.root.exists()


def test_a_guest_with_another_host_key_is_not_talked_to(make_pod: MakePod, make_session: MakeSession) -> None:
    """The machine at the address is not the guest that was launched."""
    pod = make_pod()
    ours = new_keys()
    wrong_keys = replace(pod.keys, host_public=ours.host_public)
    assert "another host key than the one it was launched with" in _refusal(lambda: make_session(pod, wrong_keys), pod.access)


def test_a_client_with_another_key_is_not_let_in(make_pod: MakePod, make_session: MakeSession) -> None:
    pod, other = make_pod(), new_keys()
    wrong_keys = replace(other, host_public=pod.keys.host_public)
    assert "did not accept this run's key" in _refusal(lambda: make_session(pod, wrong_keys), pod.access)


_HOST = """import sys
from pytest_glasshouse.channel.tunnel import spawn_with_pdeathsig
print(spawn_with_pdeathsig(["sleep", "600"], {"PATH": "/usr/bin:/bin"}).pid, flush=True)
sys.stdin.read()"""


def test_the_ssh_client_does_not_outlive_who_started_it() -> None:
    """A killed run leaves no connection behind."""
    host = subprocess.Popen([sys.executable, "-c", _HOST], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert host.stdin is not None
    assert host.stdout is not None
    with host.stdin, host.stdout:
        client = os.pidfd_open(int(host.stdout.readline()))
        try:
            host.kill()
            host.wait()
            assert select.select([client], [], [], HANG_S)[0]
        finally:
            os.close(client)


def test_a_guest_that_does_not_reconnect_in_time_is_lost(make_pod: MakePod, make_session: MakeSession) -> None:
    pod = make_pod()
    session = make_session(pod)
    path = session.connect(pod.access, timeout_s=HANG_S)
    with contextlib.closing(GuestChannel(path, allocation_id="ssh", reconnect_s=0.5)) as channel:
        channel.request("hello")
        pod.pod.signal(signal.SIGTERM)
        pod.pod.wait()
        with pytest.raises(GuestGoneError):
            _ask_three_times(channel)


def _ask_three_times(channel: GuestChannel) -> None:
    # The first may still be answered: the pod is killed, its answer may be under way.
    for _ in range(3):
        channel.request("hello")
