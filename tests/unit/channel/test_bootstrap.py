"""Messages of a guest during installation: they reach pip's command line, an `ssh` argument and the terminal."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_glasshouse.channel.bootstrap import GuestUnusableError, bootstrap
from pytest_glasshouse.channel.pod_launch import new_keys
from pytest_glasshouse.channel.ssh import SshFiles
from pytest_glasshouse.channel.wheels import Wheel
from pytest_glasshouse.errors import GuestGoneError, ProtocolError
from tests.limits import HANG_S

#: A fake `ssh` that prints a file and reads all input, or, with `once`, ends when the host has sent its order.
_SSH = """#!/bin/sh
cat {output}
[ ! -e {output}.once ] || exec grep -q '^{{"allocation"'
exec cat >/dev/null
"""
NEED = {"running": False, "python": "3.12", "machine": "x86_64", "missing": ["rfc8785"]}


@pytest.fixture
def guest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[str, list[Any], list[str]]]]:
    """Sends these lines; the result, the packages that were fetched, and the phases."""
    output = tmp_path / "output"
    (tmp_path / "ssh").write_text(_SSH.format(output=output))
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    ssh_files = SshFiles(new_keys())

    def run(*lines: Any, once: bool = False) -> tuple[str, list[Any], list[str]]:
        if once:
            output.with_name("output.once").touch()
        output.write_bytes(b"".join(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in lines))
        asked: list[Any] = []
        phases: list[str] = []

        def fetch(missing: list[str], **where: Any) -> tuple[Wheel, ...]:
            asked.append((missing, where["python"], where["machine"]))
            return ()

        path = bootstrap(ssh_files, archive=b"x", allocation="a", timeout_s=HANG_S, on_phase=phases.append, fetch=fetch)
        return path, asked, phases

    yield run
    ssh_files.remove()


def test_a_usual_installation_ends_with_the_agents_socket_path(guest: Callable[..., Any]) -> None:
    path, asked, phases = guest({"need": NEED}, {"phase": "agent"}, {"ready": {"socket": "/a/agent.sock"}})
    assert path == "/a/agent.sock"
    assert asked == [(["rfc8785"], "3.12", "x86_64")]
    assert phases == ["fetching what the image lacks: rfc8785", "starting the agent"]


@pytest.mark.parametrize(
    "socket",
    [None, 7, [], "", "agent.sock", "/a:127.0.0.1:22", "/a\n", "/../etc/x", "-L/x", "/${HOME}", "/" + "a" * 200, {"a": 1}],
    ids=repr,
)
def test_a_socket_that_is_no_plain_path_is_not_forwarded(guest: Callable[..., Any], socket: Any) -> None:
    with pytest.raises((GuestUnusableError, ProtocolError)):
        guest({"ready": {"socket": socket}})


LINES: list[Any] = [
        {"ready": None}, {"ready": []}, {"need": None}, {"need": []}, {"need": {}}, {"need": {"running": 1}},
        {"need": {**NEED, "missing": None}}, {"need": {**NEED, "missing": "rfc8785"}}, {"need": {**NEED, "missing": ["evil"]}},
        {"need": {**NEED, "missing": ["--index-url=http://x"]}}, {"need": {**NEED, "missing": [["rfc8785"]]}},
        {"need": {**NEED, "python": 3.12}}, {"need": {**NEED, "python": "--index-url=x"}}, {"need": {**NEED, "python": "3.12\n"}},
        {"need": {**NEED, "python": "\uff13.12"}}, {"need": {**NEED, "machine": "x86_64\x1b[31m"}}, {"need": {**NEED, "machine": None}},
        [], 7, "ready", b"not JSON\n", b"[" * 30_000 + b"\n", b'{"a":' * 30_000 + b"\n", b'{"need":1,"need":2}\n', b'{"x":NaN}\n', b"\xff\xfe\n",
        b"x" * 70_000 + b"\n",
]  # fmt: skip


@pytest.mark.parametrize("line", LINES, ids=map(str, range(len(LINES))))
def test_malformed_messages_are_refused(guest: Callable[..., Any], line: Any) -> None:
    """They once raised arbitrary exceptions, or reached a command line."""
    with pytest.raises((GuestUnusableError, ProtocolError, GuestGoneError)) as caught:
        guest(line, once=True)
    assert caught.value.allocation_id == "a"
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


def test_a_guests_reason_is_shown_as_one_printable_line(guest: Callable[..., Any]) -> None:
    with pytest.raises(GuestUnusableError) as caught:
        guest({"error": "no\x1b[2J\n::error::gone\u202e" + "x" * 5000})
    assert str(caught.value).isprintable()
    assert "::" not in str(caught.value)
    assert len(str(caught.value)) < 700
