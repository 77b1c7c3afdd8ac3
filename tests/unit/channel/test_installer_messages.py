"""Messages of the installer on a guest, before the agent runs: each is validated before it is used."""

from __future__ import annotations

import io
import json
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pytest_glasshouse.channel import bootstrap
from pytest_glasshouse.errors import ProtocolError

NEED = {"running": False, "python": "3.11", "machine": "x86_64", "missing": ["rfc8785"]}
SOCKET = "/var/lib/glasshouse/agent/agent.sock"


def installed(*messages: Any) -> tuple[str, list[Any], list[str]]:
    """The socket, the packages that were fetched, and the phases."""
    lines = b"".join((each if isinstance(each, bytes) else json.dumps(each).encode()) + b"\n" for each in messages)
    fetched: list[Any] = []
    phases: list[str] = []

    def fetch(missing: list[str], **_where: Any) -> tuple[()]:
        fetched.append(missing)
        return ()

    connection = bootstrap._InstallerConnection(cast("Any", SimpleNamespace(stdin=io.BytesIO(), stdout=io.BytesIO(lines))))
    socket = bootstrap._run_installer(
        connection, b"archive", "a", needed={"rfc8785": "0.1.4"}, fetch=fetch, on_phase=phases.append
    )
    return socket, fetched, phases


def test_an_honest_installers_messages_are_accepted() -> None:
    sent = [{"phase": phase} for phase in ("copy", "install", "agent")]
    socket, fetched, phases = installed({"need": NEED}, *sent, {"ready": {"socket": SOCKET}})
    assert (socket, fetched) == (SOCKET, [["rfc8785"]])
    assert phases[0] == "fetching what the image lacks: rfc8785"
    assert installed({"need": {"running": True}}, {"ready": {"socket": SOCKET}})[0] == SOCKET


LIES: dict[str, list[Any]] = {
    "another package": [{"need": {**NEED, "missing": ["rfc8785", "evil"]}}],
    "a package that is an option": [{"need": {**NEED, "missing": ["--index-url=http://x"]}}],
    "a Python that is an option": [{"need": {**NEED, "python": "3.11 --pre"}}],
    "a machine with more": [{"need": {**NEED, "machine": "x86_64\nevil"}}],
    "more members": [{"need": {**NEED, "overheadPct": 1}}],
    "nothing known": [{"x": 1}],
    "a phase that is none": [{"phase": "\x1b[2J"}],
    "phases without end": [{"phase": "copy"}] * 10_000,
    "a socket that forwards elsewhere": [{"ready": {"socket": "/x:evil:22"}}],
    "a socket with a line break": [{"ready": {"socket": "/x\nProxyCommand y"}}],
    "a socket that is an option": [{"ready": {"socket": "-oProxyCommand=x"}}],
    "a socket of no shell": [{"ready": {"socket": "/x$(y)`z`"}}],
    "a socket without end": [{"ready": {"socket": "/" + "x" * 200}}],
    "no socket": [{"ready": {}}],
}


@pytest.mark.parametrize("lie", LIES)
def test_malformed_message_reaches_no_command_line(lie: str) -> None:
    """The socket's path, package names and versions become arguments of commands."""
    with pytest.raises(ProtocolError):
        installed(*LIES[lie], {"ready": {"socket": SOCKET}})


def test_a_reason_of_the_guest_is_shown_in_printable_characters() -> None:
    with pytest.raises(bootstrap.GuestUnusableError, match="cannot run the agent") as caught:
        installed({"error": "\x1b[31m\n::error::x" + "y" * 5000})
    assert str(caught.value).isprintable()
    assert "::error" not in str(caught.value)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize("line", [b"Welcome to Ubuntu", b"[]", b'{"a":1,"a":2}', b"[" * 60_000, b'{"a":NaN}', b"\xff"])
def test_a_line_that_is_no_message_is_retried(line: bytes) -> None:
    """A greeting of the image, or a message of its shell."""
    with pytest.raises(ValueError, match="not an object"):
        installed(line)
