"""OpenSSH to a rented guest: the route that a tunnel is kept open over.

A guest's endpoint and key are in files of mode 0600 in a directory of mode 0700; a process list shows only the name of the
configuration file. The host key is pinned: it was made here and given to the guest at its launch. The configuration is
verified with `ssh -G`: a value that `ssh` reads differently is an error.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from typing import TYPE_CHECKING

from pytest_glasshouse.channel.access import Host, Port, SshAccess, UserName
from pytest_glasshouse.channel.ssh_directory import short_directory
from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.wire.printable import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_glasshouse.channel.access import Access, RemoteSocket
    from pytest_glasshouse.channel.pod_launch import PodKeys

#: The guest's name in every command line.
ALIAS = "guest"
#: A documentation address (RFC 5737), to check the configuration before there is a guest.
EXAMPLE_ACCESS = SshAccess(host="192.0.2.1", port=22)
#: The exit status of `ssh` for a connection that failed or broke.
CONNECTION_FAILED = 255
#: How long `ssh -G` may take, in seconds.
_READ_BACK_S = 30.0
#: Options that would run a command or connect elsewhere; none may have a value.
_NEVER = (
    "proxycommand", "proxyjump", "localcommand", "remotecommand", "knownhostscommand", "localforward",
    "remoteforward", "dynamicforward", "certificatefile", "pkcs11provider", "setenv",
)  # fmt: skip

_CONFIG = """Host {alias}
  HostName {host}
  Port {port}
  User {user}
  IdentityFile {directory}/client_key
  IdentitiesOnly yes
  IdentityAgent none
  UserKnownHostsFile {directory}/known_hosts
  GlobalKnownHostsFile /dev/null
  HostKeyAlias {alias}
  HostKeyAlgorithms ssh-ed25519
  StrictHostKeyChecking yes
  CheckHostIP no
  UpdateHostKeys no
  PreferredAuthentications publickey
  BatchMode yes
  ConnectTimeout 10
  ServerAliveInterval 5
  ServerAliveCountMax 3
  TCPKeepAlive yes
  ExitOnForwardFailure yes
  StreamLocalBindUnlink yes
  StreamLocalBindMask 0177
  ControlMaster no
  ControlPath none
  ForwardAgent no
  ForwardX11 no
  LogLevel ERROR
"""


def ssh_client() -> str:
    """The path of `ssh`. Raises `ConfigurationError` where there is none."""
    found = shutil.which("ssh")
    if found is None:
        raise ConfigurationError("expected OpenSSH's client to reach a rented guest; saw no ssh on PATH. Install openssh-client")
    return found


class SshFiles:
    """The SSH files of one guest: key, known hosts, configuration and forwarded socket, in one directory. A `tunnel.Route`."""

    def __init__(self, keys: PodKeys) -> None:
        self._access: SshAccess | None = None
        self.directory = short_directory("ghs-")
        self.socket = self.directory / "agent.sock"
        self._write("client_key", keys.client_private)
        self._write("known_hosts", f"{ALIAS} {keys.host_public}\n")

    def aim(self, access: Access) -> None:
        """See `tunnel.Route`."""
        if not isinstance(access, SshAccess):
            raise ConfigurationError("expected a guest that is reached over SSH with a key of the run, saw another address")
        self._access = access
        self.write_config(access)

    def run_command(self, remote: str) -> list[str]:
        """See `tunnel.Route`."""
        return self.command(ALIAS, remote)

    def forward_command(self, remote_socket: RemoteSocket) -> list[str]:
        """See `tunnel.Route`."""
        # Both paths need no quoting, except that ssh would expand a percent sign in the guest's.
        return self.command("-N", "-n", "-L", f"{self.socket}:{remote_socket.replace('%', '%%')}", ALIAS)

    def environment(self) -> dict[str, str]:
        """See `tunnel.Route`. None of the user's own settings."""
        return {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LANG": "C.UTF-8"}

    def failure_reason(self, stderr: str, status: int) -> str:
        """See `tunnel.Route`."""
        return failure_reason(stderr, status)

    def secrets(self) -> tuple[str, ...]:
        """See `tunnel.Route`."""
        own, access = (str(self.directory),), self._access
        return own if access is None else (*own, f"{access.host}:{access.port}", f"{access.user}@{access.host}")

    def write_config(self, access: SshAccess) -> None:
        """Write the configuration for the guest's endpoint, which a restart of its container may have changed.

        Raises `IntegrityError` for a malformed endpoint, `ConfigurationError` where `ssh` reads other values than were written.
        """
        host, port, user = Host(access.host), Port(access.port), UserName(access.user)
        self._write("config", _CONFIG.format(alias=ALIAS, host=host, port=port, user=user, directory=self.directory))
        self._verify_config({
            "hostname": host, "port": str(port), "user": user, "hostkeyalias": ALIAS,
            "identityfile": f"{self.directory}/client_key", "userknownhostsfile": f"{self.directory}/known_hosts",
        })  # fmt: skip

    def _verify_config(self, expected: Mapping[str, str]) -> None:
        try:
            done = subprocess.run(  # noqa: S603
                self.command("-G", ALIAS), check=False, capture_output=True, text=True, errors="replace",
                stdin=subprocess.DEVNULL, env=self.environment(), timeout=_READ_BACK_S,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ConfigurationError(
                f"expected `ssh -G` to print its configuration; saw {type(error).__name__}. Check that ssh on PATH is OpenSSH's"
            ) from None
        if done.returncode != 0:
            raise ConfigurationError(
                f"ssh refused its configuration ({printable(done.stderr.strip()) or 'without a message'}). "
                "Expected OpenSSH 6.8 or newer, and a user with an account on this machine"
            )
        read: dict[str, list[str]] = {}
        for line in done.stdout.splitlines():
            name, _, value = line.partition(" ")
            read.setdefault(name.lower(), []).append(value)
        wrong = [name for name, value in expected.items() if read.get(name) != [value]]
        wrong += [name for name in _NEVER if any(value != "none" for value in read.get(name, []))]
        if wrong:
            raise ConfigurationError(
                f"ssh reads other values in its configuration than were written ({', '.join(wrong)}). "
                "Set TMPDIR to a path of letters and digits, and check that ssh on PATH is OpenSSH's"
            )

    def command(self, *arguments: str) -> list[str]:
        """The command line of `ssh` with this configuration and `arguments`."""
        return [ssh_client(), "-F", str(self.directory / "config"), "-T", *arguments]

    def remove(self) -> None:
        """Delete the directory with the keys."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def _write(self, name: str, content: str) -> None:
        path = self.directory / f"{name}.new"
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(content)
        path.rename(self.directory / name)


def preflight() -> None:
    """Check, before anything is rented, that the SSH files can be written, that a socket fits and that `ssh` reads them.

    Takes some ten milliseconds. Raises `ConfigurationError`.
    """
    from pytest_glasshouse.channel.pod_launch import new_keys

    try:
        ssh_files = SshFiles(new_keys())
        try:
            ssh_files.write_config(EXAMPLE_ACCESS)
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(ssh_files.socket))
        finally:
            ssh_files.remove()
    except OSError as error:
        raise ConfigurationError(
            f"the SSH files for a rented guest cannot be written ({error.strerror or type(error).__name__}). "
            "Set TMPDIR to a directory with room that allows unix sockets"
        ) from None


#: Messages of OpenSSH and their reasons here: the messages themselves contain hosts and ports.
_REASONS = {
    "Host key verification failed": "the guest showed another host key than the one it was launched with",
    "HOST IDENTIFICATION HAS CHANGED": "the guest showed another host key than the one it was launched with",
    "Permission denied": "the guest did not accept this run's key",
    "Connection refused": "connection refused",
    "timed out": "connection timed out",
    "Connection closed": "connection closed",
    "Connection reset": "connection reset",
    "Broken pipe": "connection broke",
    "not responding": "the guest stopped answering",
    "Could not resolve": "the guest's address cannot be resolved",
}


def failure_reason(stderr: str, status: int) -> str:
    """Why the client failed, without its message: an endpoint is never printed."""
    for message, reason in _REASONS.items():
        if message in stderr:
            return reason
    return f"ssh ended with status {status}"
