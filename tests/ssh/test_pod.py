"""The first process of a rented guest: when it ends the instance, and how."""

from __future__ import annotations

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_glasshouse.channel import pod_init as pod
from pytest_glasshouse.channel.pod_launch import CODE, pod_start
from tests.limits import HANG_S, until
from tests.ssh.conftest import MakePod, MakeSession

SETTINGS: pod.PodSettings = {
    "deadline": 1000.0, "contact_by": 500.0, "lease_s": 60.0, "host_key": "", "authorized_key": "", "ends": "", "api": "",
}  # fmt: skip


def test_the_deadline_is_absolute_whatever_the_contact(tmp_path: Path) -> None:
    """A restarted container must not get a new deadline."""
    (tmp_path / "contact").touch()
    os.utime(tmp_path / "contact", (999, 999))
    assert pod.Watchdog(SETTINGS, str(tmp_path), began=0.0).verdict(999.9) is None
    for began in (0.0, 999.0):
        assert "absolute deadline" in str(pod.Watchdog(SETTINGS, str(tmp_path), began=began).verdict(1000.0))


def test_a_host_that_never_connects_ends_it(tmp_path: Path) -> None:
    watchdog = pod.Watchdog(SETTINGS, str(tmp_path), began=0.0)
    assert watchdog.verdict(499.0) is None
    assert "never made contact" in str(watchdog.verdict(500.0))


def test_a_restarted_container_gets_a_moment_and_no_more(tmp_path: Path) -> None:
    watchdog = pod.Watchdog(SETTINGS, str(tmp_path), began=700.0)
    assert watchdog.verdict(759.0) is None
    assert "never made contact" in str(watchdog.verdict(760.0))


def test_a_host_that_falls_silent_ends_it(tmp_path: Path) -> None:
    (tmp_path / "contact").touch()
    os.utime(tmp_path / "contact", (600, 600))
    watchdog = pod.Watchdog(SETTINGS, str(tmp_path), began=0.0)
    assert watchdog.verdict(659.0) is None
    assert "no contact from the host for 60 s" in str(watchdog.verdict(660.0))


def test_a_host_that_sends_shutdown_ends_it(tmp_path: Path) -> None:
    (tmp_path / "shutdown").touch()
    assert "requested the shutdown" in str(pod.Watchdog(SETTINGS, str(tmp_path), began=0.0).verdict(1.0))


class Api(http.server.ThreadingHTTPServer):
    """Refuses the first `refusals` calls, as an overloaded API does."""

    def __init__(self, refusals: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.refusals = refusals
        self.calls: list[tuple[str, str, str, Any]] = []
        self.called = threading.Event()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Api

    def _answer(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(size)) if size else None
        self.server.calls.append((self.command, self.path, self.headers["Authorization"], body))
        refused = len(self.server.calls) <= self.server.refusals
        self.send_response(503 if refused else 204)
        self.end_headers()
        if not refused:
            self.server.called.set()

    do_DELETE = do_POST = _answer  # noqa: N815  (the names the standard library looks for)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def api(request: pytest.FixtureRequest) -> Iterator[Api]:
    server = Api(getattr(request, "param", 0))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def _address(api: Api) -> str:
    return f"http://127.0.0.1:{api.server_address[1]}"


_END = """import json, sys
from pytest_glasshouse.channel import pod_init as pod
settings, root, environment, attempts = json.loads(sys.stdin.read())
waits = []
pod.end(settings, root, "time", environment, wait=waits.append, attempts=attempts)
print(json.dumps(waits))
"""


def _end(settings: pod.PodSettings, root: Path, environment: dict[str, str], *, attempts: int) -> tuple[list[float], str]:
    """How long a pod waits between attempts to end itself, and all it prints; in a process of its own, below which all is killed."""
    done = subprocess.run(
        [sys.executable, "-c", _END], input=json.dumps([settings, str(root), environment, attempts]),
        capture_output=True, text=True, check=True, timeout=HANG_S,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1]), done.stdout + done.stderr


@pytest.mark.parametrize("api", [4], indirect=True)
def test_the_end_is_asked_for_until_it_is_granted_and_the_key_is_never_printed(api: Api, tmp_path: Path) -> None:
    settings: pod.PodSettings = {**SETTINGS, "ends": "runpod", "api": _address(api)}
    waits, printed = _end(settings, tmp_path / "x", {"RUNPOD_POD_ID": "pod1", "RUNPOD_API_KEY": "secret-key"}, attempts=2)
    assert [(method, path) for method, path, _, _ in api.calls] == [
        ("DELETE", "/v2/pods/pod1"),
        ("POST", "/graphql"),
        ("POST", "/v2/pods/pod1/action"),
        ("DELETE", "/v2/pods/pod1"),
        ("POST", "/graphql"),
    ]
    assert {key for _, _, key, _ in api.calls} == {"Bearer secret-key"}
    assert waits == [1.0, 2.0]
    assert "secret-key" not in printed


def test_a_vast_instance_ends_itself_with_its_own_key(api: Api, tmp_path: Path) -> None:
    settings: pod.PodSettings = {**SETTINGS, "ends": "vastai", "api": _address(api)}
    _end(settings, tmp_path / "x", {"CONTAINER_ID": "7", "CONTAINER_API_KEY": "k"}, attempts=1)
    assert api.calls == [("DELETE", "/api/v0/instances/7/", "Bearer k", {})]


def test_a_real_pod_past_its_deadline_wipes_its_disk_and_asks_for_its_end(make_pod: MakePod, api: Api) -> None:
    """It does not exit: a container whose first process ends is started again and bills on."""
    made = make_pod(deadline=time.time() + 0.5, ends="runpod", api=_address(api))
    assert api.called.wait(HANG_S)
    assert api.calls[0][:3] == ("DELETE", "/v2/pods/pod1", "Bearer pod-key")
    assert not made.pod.exited
    assert not (made.root / "host_key").exists()
    assert made.pod.processes() == (made.pod.first,)


def test_real_pod_that_is_stopped_ends_agent_and_sshd_where_it_is_not_the_first_process(
    make_pod: MakePod, make_session: MakeSession
) -> None:
    """An image may start it from a script of its own; nothing ends with it then unless it sees to that."""
    made = make_pod(start=("sh", "-c", '"$@" & wait; sleep 600', "sh", *pod_start()))
    make_session(made).connect(made.access, timeout_s=HANG_S)

    def running(text: str) -> list[int]:
        commands = {pid: Path(f"/proc/{pid}/cmdline") for pid in made.pod.processes()}
        return [pid for pid, path in commands.items() if path.exists() and text.encode() in path.read_bytes()]

    assert (len(running("guest.zip")) >= 1, len(running("sshd")) >= 2) == (True, True)
    (stopped,) = set(running(CODE)) - {made.pod.first}
    os.kill(stopped, signal.SIGTERM)
    until(lambda: running("sleep\0"), "the end of the product's process")
    assert (running(CODE), running("guest.zip"), running("sshd")) == ([made.pod.first], [], [])
