"""OpenSSH to a host of the user's own, as the user set it up: configuration, agent, jump hosts and known hosts are the user's.

Every command is a new connection (no multiplexing), so that what it sees is seen in a connection of its own; it asks nothing at
a terminal, and forwards nothing but the one socket. A host is called by what the user wrote, and shown as `label` says.
"""

from __future__ import annotations

import base64
import contextlib
import importlib.resources
import json
import os
import re
import shlex
import shutil
import subprocess
import threading
from functools import cache
from typing import TYPE_CHECKING

from pytest_glasshouse.channel.access import HostAccess, SshName
from pytest_glasshouse.channel.pod_launch import bare
from pytest_glasshouse.channel.ssh import CONNECTION_FAILED, ssh_client
from pytest_glasshouse.channel.ssh_directory import short_directory
from pytest_glasshouse.errors import ConfigurationError, IntegrityError, ProviderError
from pytest_glasshouse.wire.canonical import Json, parse_object
from pytest_glasshouse.wire.printable import printable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pytest_glasshouse.channel.access import Access, RemoteSocket

_MODULES = ("pod_init", "host_lock", "host_keeper", "host_service")
_PACKAGE = "pytest_glasshouse.channel"
#: Without a quote, a line's end or an exclamation mark: any shell may read it.
_LOADER = (
    "import sys,json,types;b=sys.stdin.buffer;s=json.loads(b.read(int(b.readline())));m=lambda n:sys.modules.setdefault(n,"
    'types.ModuleType(n));[(m(n).__dict__.update(__path__=[]),exec(compile(t,n,"exec"),m(n).__dict__)) for n,t in s.items()];'
    'sys.exit(sys.modules["pytest_glasshouse.channel.host_service"].main(s))'
)
#: Hands its own streams to the keeper, which runs a command on them, and ends with that command's status.
_JOIN = (
    "import sys,socket,json,base64;s=socket.socket(socket.AF_UNIX);s.connect(sys.argv[1]);"
    'socket.send_fds(s,[json.dumps({"op":"run","command":base64.b64decode(sys.argv[2]).decode()}).encode()],[0,1,2]);'
    "r=s.recv(16);sys.exit(int(r) if r.isdigit() else 1)"
)
_OPTIONS = {
    "BatchMode": "yes", "ConnectTimeout": "20", "ServerAliveInterval": "5", "ServerAliveCountMax": "3", "ControlMaster": "no",
    "ControlPath": "none", "RemoteCommand": "none", "RequestTTY": "no", "ForwardAgent": "no", "ForwardX11": "no",
    "PermitLocalCommand": "no", "LogLevel": "ERROR",
}  # fmt: skip
_FORWARD = {"ExitOnForwardFailure": "no", "StreamLocalBindUnlink": "yes", "StreamLocalBindMask": "0177"}
_SIMPLE = re.compile(r"[A-Za-z0-9_-]{1,32}")
_LONGEST_ANSWER = 1 << 20
#: The exit status of a shell for a program that is not there.
_NO_PROGRAM = 127

#: Messages of OpenSSH and their reasons here: the messages themselves may contain addresses.
_REASONS = {
    "Host key verification failed": "its host key is not in your known hosts; run `ssh` to it once by hand",
    "HOST IDENTIFICATION HAS CHANGED": "its host key is not the one in your known hosts",
    "Permission denied": "it does not accept your keys without a question; load them into your agent",
    "Could not resolve": "its name cannot be resolved",
    "Connection refused": "connection refused",
    "timed out": "connection timed out",
    "Connection closed": "connection closed",
    "Connection reset": "connection reset",
    "Broken pipe": "connection broke",
    "not responding": "it stopped answering",
    "Bad owner or permissions": "ssh refuses your configuration, because others may write to it",
}


class NotReachedError(ProviderError):
    """Nothing of the order reached the host."""


class HostShell:
    """One host: its name, the Python to use there, and what it is asked."""

    def __init__(self, name: str, *, number: int, python: str = "") -> None:
        """`number` is its place in the user's list. Raises `ConfigurationError` for a name that `ssh` would not take for one."""
        try:
            self.name = SshName(name)
        except IntegrityError as error:
            raise ConfigurationError(f"--glasshouse-host {printable(name, limit=60)}: {error.detail}") from None
        self._python = python or "python3"
        #: What it is called where anybody may read it: an alias is no address.
        self.label = f"host {name}" if _SIMPLE.fullmatch(name) else f"host number {number} of --glasshouse-host"

    def command(self, remote: str) -> list[str]:
        """The command line that runs `remote` there."""
        options = [part for name, value in _OPTIONS.items() for part in ("-o", f"{name}={value}")]
        return [ssh_client(), "-T", *options, "--", self.name, remote]

    def python_command(self, code: str, *arguments: str) -> str:
        """A remote command: its Python with `code`."""
        return " ".join([shlex.quote(self._python), "-I", "-c", shlex.quote(code), *map(shlex.quote, arguments)])

    def forward(self, local: str, remote: str) -> list[str]:
        """The command line that forwards one socket."""
        options = [part for name, value in {**_OPTIONS, **_FORWARD}.items() for part in ("-o", f"{name}={value}")]
        return [ssh_client(), "-T", *options, "-N", "-n", "-L", f"{local}:{remote}", "--", self.name]

    def ask(self, order: Mapping[str, object], *, timeout_s: float = 60.0) -> dict[str, Json]:
        """The answer to one order, in a connection of its own.

        Raises `NotReachedError` where the order was not sent, `ProviderError` where what became of it is not known or the host
        cannot carry it out. Neither shows an address.
        """
        client = subprocess.Popen(  # noqa: S603
            self.command(self.python_command(_LOADER)),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(), start_new_session=True,
        )  # fmt: skip
        late = threading.Timer(timeout_s, client.kill)
        late.start()
        sent = False
        try:
            assert client.stdin is not None  # noqa: S101
            assert client.stdout is not None  # noqa: S101
            code = _sources()
            client.stdin.write(b"%d\n" % len(code) + code)
            client.stdin.flush()
            if _line(client) != {"there": True}:
                raise ValueError("another greeting")  # noqa: TRY301
            sent = True
            client.stdin.write(json.dumps(order).encode() + b"\n")
            client.stdin.flush()
            answer = _line(client)
        except (OSError, ValueError):
            client.kill() if sent else _wait(client)
            _, stderr = client.communicate()
            reason = self._reason(stderr.decode("utf-8", errors="replace"), client.returncode)
            kind = ProviderError if sent else NotReachedError
            raise kind(f"{self.label} cannot be asked: {reason}") from None
        else:
            if "error" in answer:
                raise ProviderError(f"{self.label}: {printable(answer['error'])}")
            return answer
        finally:
            late.cancel()
            client.kill()
            client.communicate()

    def _reason(self, stderr: str, status: int) -> str:
        if status == _NO_PROGRAM:
            return f"it has no {printable(self._python, limit=80)}; name its Python with --glasshouse-remote-python"
        if "SyntaxError" in stderr or "ModuleNotFoundError" in stderr:
            return "its Python is too old; name another one with --glasshouse-remote-python"
        return failure_reason(stderr, status)


class HostRoute:
    """The way to one guest on such a host. A `tunnel.Route`."""

    def __init__(self, host: HostShell) -> None:
        self._host = host
        self._directory = short_directory("ghr-")
        self._access: HostAccess | None = None

    @property
    def socket(self) -> Path:
        """See `tunnel.Route`."""
        return self._directory / "agent.sock"

    def aim(self, access: Access) -> None:
        """See `tunnel.Route`."""
        if not isinstance(access, HostAccess):
            raise ConfigurationError("expected a guest on a host of your own, saw another address")
        self._access = access

    def run_command(self, remote: str) -> list[str]:
        """See `tunnel.Route`: the keeper runs it, below itself."""
        assert self._access is not None  # noqa: S101
        keeper = f"{self._access.directory}/keeper.sock"
        return self._host.command(self._host.python_command(_JOIN, keeper, base64.b64encode(remote.encode()).decode()))

    def forward_command(self, remote_socket: RemoteSocket) -> list[str]:
        """See `tunnel.Route`."""
        return self._host.forward(str(self.socket), remote_socket.replace("%", "%%"))

    def environment(self) -> dict[str, str]:
        """See `tunnel.Route`: the user's own, with the agent in it."""
        return environment()

    def failure_reason(self, stderr: str, status: int) -> str:
        """See `tunnel.Route`."""
        return failure_reason(stderr, status)

    def secrets(self) -> tuple[str, ...]:
        """See `tunnel.Route`. A bare alias is no address."""
        name = self._host.name
        found = (str(self._directory), "" if _SIMPLE.fullmatch(name) else name, self._access.directory if self._access else "")
        return tuple(each for each in found if each)

    def remove(self) -> None:
        """See `tunnel.Route`."""
        shutil.rmtree(self._directory, ignore_errors=True)


def environment() -> dict[str, str]:
    """The environment of `ssh`: the user's, which names the agent and the home with the configuration."""
    return {**os.environ, "LC_ALL": "C.UTF-8"}


def failure_reason(stderr: str, status: int) -> str:
    """Why `ssh` to a host of the user's own failed, without its message."""
    for message, reason in _REASONS.items():
        if message in stderr:
            return reason
    return f"ssh ended with status {status if status >= 0 else CONNECTION_FAILED}"


@cache
def _sources() -> bytes:
    sources = {"pytest_glasshouse": "", _PACKAGE: ""}
    for name in _MODULES:
        text = (importlib.resources.files(_PACKAGE) / f"{name}.py").read_text(encoding="utf-8")
        sources[f"{_PACKAGE}.{name}"] = bare(text)
    return json.dumps(sources).encode()


def _line(client: subprocess.Popen[bytes]) -> dict[str, Json]:
    assert client.stdout is not None  # noqa: S101
    line = client.stdout.readline(_LONGEST_ANSWER)
    if not line.endswith(b"\n"):
        raise ValueError("cut")
    try:
        return parse_object(line)
    except IntegrityError:
        raise ValueError("not an object") from None


def _wait(client: subprocess.Popen[bytes]) -> None:
    """A client that gave up prints why before it exits."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        client.wait(2.0)
    client.kill()
