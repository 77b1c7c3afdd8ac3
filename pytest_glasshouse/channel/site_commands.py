"""Runs the client programs of a site's batch system: on this machine, or on a login node by the user's own `ssh`.

A client gets no more of this process's environment than it needs: what a job inherits is written where it runs.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_glasshouse.channel.ssh import ssh_client
from pytest_glasshouse.errors import CredentialsError

if TYPE_CHECKING:
    from collections.abc import Callable

#: What clients need of the environment here. Every other variable may be a secret, and a job inherits what its client has.
_PASSED = ("PATH", "HOME", "USER", "LOGNAME", "SLURM_CONF", "SLURM_CLUSTERS", "TZ")
_STDERR_BYTES = 64 * 1024
_SSH = (
    "-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=20", "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3",
    "-o", "ControlMaster=no", "-o", "RequestTTY=no", "-o", "ForwardAgent=no", "-o", "ForwardX11=no",
    "-o", "PermitLocalCommand=no", "-o", "LogLevel=ERROR",
)  # fmt: skip
#: The exit statuses of `ssh` for a connection that failed, and of a shell for a program that is not there.
SSH_FAILED, NO_PROGRAM = 255, 127


@dataclass(frozen=True, kw_only=True)
class Ran:
    """A client that ended. `status` is None where it was killed because its time was over, or because of what it printed."""

    status: int | None
    stdout: bytes
    stderr: str
    #: Whether it printed more than was to be read.
    cut: bool = False


@dataclass(frozen=True, kw_only=True)
class SiteCommands:
    """Where the clients are: on this machine, or at `login`, which `ssh` accepts."""

    login: str = ""

    def check(self, program: str) -> None:
        """Raise `CredentialsError` where this machine lacks what it takes to run `program`."""
        needed = "ssh" if self.login else program
        if shutil.which(needed) is None:
            raise CredentialsError(
                f"expected {needed} on PATH; saw none. Run this where the site's clients are, or name a login node with "
                "--glasshouse-slurm-login"
            )

    def argv(self, command: list[str]) -> list[str]:
        """The command line, on this machine, that runs `command`."""
        if not self.login:
            return command
        return [ssh_client(), *_SSH, "--", self.login, shlex.join(command)]

    def environment(self) -> dict[str, str]:
        """The environment of `argv`: for `ssh` the user's own, with the agent in it, which stays here."""
        if self.login:
            return {**os.environ, "LC_ALL": "C.UTF-8"}
        return {**{name: os.environ[name] for name in _PASSED if name in os.environ}, "LC_ALL": "C.UTF-8"}

    def run(self, command: list[str], *, stdin: bytes = b"", timeout_s: float, limit: int = 1 << 20, give_up_on: str = "") -> Ran:
        """Run `command` to its end, within `timeout_s` seconds; read at most `limit` bytes of its output.

        `give_up_on` is a text on its standard error after which it is killed. Raises `CredentialsError` where it is missing.
        """
        try:
            client = subprocess.Popen(  # noqa: S603
                self.argv(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                env=self.environment(), cwd="/", start_new_session=True,
            )  # fmt: skip
        except OSError:
            self.check(command[0])
            raise
        killed = threading.Event()

        def kill() -> None:
            killed.set()
            client.kill()

        late = threading.Timer(timeout_s, kill)
        late.start()
        said: list[str] = []
        threads = [
            threading.Thread(target=_feed, args=(client, stdin), daemon=True),
            threading.Thread(target=_read_stderr, args=(client, said, give_up_on, kill), daemon=True),
        ]
        for thread in threads:
            thread.start()
        assert client.stdout is not None  # noqa: S101
        with client.stdout as output:
            found = output.read(limit + 1)
            if len(found) > limit:
                client.kill()
        status = client.wait()
        late.cancel()
        threads[1].join(timeout=5.0)
        return Ran(
            status=None if killed.is_set() else status,
            stdout=found[:limit],
            stderr="".join(said)[:_STDERR_BYTES],
            cut=len(found) > limit,
        )


def _feed(client: subprocess.Popen[bytes], content: bytes) -> None:
    assert client.stdin is not None  # noqa: S101
    with contextlib.suppress(OSError):
        client.stdin.write(content)
    with contextlib.suppress(OSError):
        client.stdin.close()


def _read_stderr(client: subprocess.Popen[bytes], said: list[str], give_up_on: str, kill: Callable[[], None]) -> None:
    assert client.stderr is not None  # noqa: S101
    kept = 0
    with client.stderr as lines:
        while line := lines.readline(_STDERR_BYTES):
            text = line.decode("utf-8", errors="replace")
            if kept < _STDERR_BYTES:
                said.append(text)
                kept += len(text)
            if give_up_on and give_up_on in text:
                kill()
