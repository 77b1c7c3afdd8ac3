"""OpenSSH, as its users run it: one client per guest that forwards one unix socket, and is started again when it ends.

Where a guest is, and the key to it, stand in files of mode 0600 in a directory of mode 0700; a process list shows the name
of the configuration file and nothing else. The host key is pinned: it was made here and given to the guest at its launch.
What is written is read back: `ssh -G` says what it understood, and anything but what was meant is an error.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

from pytest_glasshouse.channel.access import Host, Port, RemoteSocket, SshAccess, UserName
from pytest_glasshouse.channel.places import short_directory
from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.wire.printable import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_glasshouse.channel.pod_launch import PodKeys

#: What the guest is called in every command line.
ALIAS = "guest"
#: An address that nobody has (RFC 5737): what a configuration is tried with before there is a guest.
NOBODY = SshAccess(host="192.0.2.1", port=22)
#: The client's own exit status for a connection that failed or broke.
CONNECTION_FAILED = 255
_BACKOFF_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
#: A client that lived this long was connected; the next failure starts with the shortest pause again.
_LIVED_S = 10.0

#: Dies with the process (strictly: the thread) that started it, then becomes `ssh`.
_TIED = """import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
if os.getppid() != int(sys.argv[1]): os._exit(1)
os.execvp(sys.argv[2], sys.argv[2:])"""

#: How long `ssh` may take to read a file of thirty lines, in seconds.
_READ_BACK_S = 30.0
#: What no configuration of ours says, and what would run a command or lead elsewhere.
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
    """Where `ssh` is. Raises `ConfigurationError` where there is none."""
    found = shutil.which("ssh")
    if found is None:
        raise ConfigurationError("expected OpenSSH's client to reach a rented guest; saw no ssh on PATH. Install openssh-client")
    return found


class Doorway:
    """The files with which one guest is reached, in a directory of their own whose path fits a socket and needs no quoting."""

    def __init__(self, keys: PodKeys) -> None:
        self.directory = short_directory("ghs-")
        self.socket = self.directory / "agent.sock"
        self._write("client_key", keys.client_private)
        self._write("known_hosts", f"{ALIAS} {keys.host_public}\n")

    def point_to(self, access: SshAccess) -> None:
        """Say where the guest is now; a restart of its container may have moved it.

        Parses once more what it writes: `IntegrityError`. Raises `ConfigurationError` where `ssh` reads something else there.
        """
        host, port, user = Host(access.host), Port(access.port), UserName(access.user)
        self._write("config", _CONFIG.format(alias=ALIAS, host=host, port=port, user=user, directory=self.directory))
        self._read_back({
            "hostname": host, "port": str(port), "user": user, "hostkeyalias": ALIAS,
            "identityfile": f"{self.directory}/client_key", "userknownhostsfile": f"{self.directory}/known_hosts",
        })  # fmt: skip

    def _read_back(self, meant: Mapping[str, str]) -> None:
        try:
            done = subprocess.run(  # noqa: S603
                self.command("-G", ALIAS), check=False, capture_output=True, text=True, errors="replace",
                stdin=subprocess.DEVNULL, env=_environment(), timeout=_READ_BACK_S,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ConfigurationError(
                f"ssh could not be asked what it reads in its configuration ({type(error).__name__})"
            ) from None
        if done.returncode != 0:
            raise ConfigurationError(
                f"ssh does not take the configuration it is given ({printable(done.stderr.strip()) or 'it says nothing'}). "
                "Expected OpenSSH 6.8 or newer, and a user whom this machine knows"
            )
        read: dict[str, list[str]] = {}
        for line in done.stdout.splitlines():
            name, _, value = line.partition(" ")
            read.setdefault(name.lower(), []).append(value)
        wrong = [name for name, value in meant.items() if read.get(name) != [value]]
        wrong += [name for name in _NEVER if any(value != "none" for value in read.get(name, []))]
        if wrong:
            raise ConfigurationError(
                f"ssh reads something else in its configuration than was written there ({', '.join(wrong)}). "
                "Set TMPDIR to a path of letters and digits, and see that ssh on PATH is OpenSSH's"
            )

    def command(self, *arguments: str) -> list[str]:
        """`ssh` to the guest, with `arguments` behind its name."""
        return [ssh_client(), "-F", str(self.directory / "config"), "-T", *arguments]

    def remove(self) -> None:
        """Forget the keys."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def _write(self, name: str, content: str) -> None:
        path = self.directory / f"{name}.new"
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(content)
        path.rename(self.directory / name)


def rehearse() -> None:
    """Write the files for a guest that is not there, and see that a socket fits beside them and that `ssh` reads what was meant.

    Costs some ten milliseconds, before anything is rented. Raises `ConfigurationError`.
    """
    from pytest_glasshouse.channel.pod_launch import new_keys

    try:
        doorway = Doorway(new_keys())
        try:
            doorway.point_to(NOBODY)
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(doorway.socket))
        finally:
            doorway.remove()
    except OSError as error:
        raise ConfigurationError(
            f"the files with which a rented guest is reached cannot be written ({error.strerror or type(error).__name__}). "
            "Set TMPDIR to a directory with room that allows unix sockets"
        ) from None


class Tunnel:
    """Keeps the guest's socket forwarded to `doorway.socket` until it is closed. `on_down` hears of every broken connection.

    Where the socket is, the guest says: raises `IntegrityError` for what is no plain path.
    """

    def __init__(self, doorway: Doorway, remote_socket: str, *, on_down: Callable[[str], None] = lambda _why: None) -> None:
        self._doorway = doorway
        self._remote = RemoteSocket(remote_socket)
        self._on_down = on_down
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._client: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._keep, name="glasshouse-ssh", daemon=True)
        self._thread.start()

    def wait_until_up(self, timeout_s: float) -> bool:
        """Whether the guest's socket answers here within `timeout_s`."""
        until = time.monotonic() + timeout_s
        while not self._answers():
            if time.monotonic() >= until or self._closing.wait(0.02):
                return False
        return True

    def close(self) -> None:
        """Hang up; nothing is left running."""
        self._closing.set()
        with self._lock:
            if self._client is not None:
                self._client.kill()
        self._thread.join()

    def client_pid(self) -> int | None:
        """The process that holds the connection now."""
        with self._lock:
            return None if self._client is None else self._client.pid

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1.0)
            try:
                probe.connect(str(self._doorway.socket))
            except OSError:
                return False
            return True

    def _keep(self) -> None:
        # The client is tied to this very thread, which lives as long as the tunnel and dies with the process.
        failures = 0
        while not self._closing.is_set():
            began = time.monotonic()
            why = self._once()
            if self._closing.is_set():
                return
            self._on_down(why)
            failures = 0 if time.monotonic() - began > _LIVED_S else failures + 1
            self._closing.wait(_BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)])

    def _once(self) -> str:
        with contextlib.suppress(FileNotFoundError):
            self._doorway.socket.unlink()
        # Both ends are paths of letters that need no quoting, but for a percent sign of the guest's: ssh would expand it.
        forward = ["-N", "-n", "-L", f"{self._doorway.socket}:{self._remote.replace('%', '%%')}", ALIAS]
        with self._lock:
            if self._closing.is_set():
                return "closed"
            client = self._client = tied(self._doorway.command(*forward))
        _, said = client.communicate()
        return last_line(said, client.returncode)


def tied(command: list[str], **options: int) -> subprocess.Popen[str]:
    """Start `command` so that it dies with this thread. Its errors are kept, its environment is bare."""
    wrapped = [sys.executable, "-I", "-S", "-c", _TIED, str(os.getpid()), *command]
    return subprocess.Popen(  # noqa: S603
        wrapped,
        stdin=options.get("stdin", subprocess.DEVNULL),
        stdout=options.get("stdout", subprocess.DEVNULL),
        stderr=subprocess.PIPE,
        text=True,
        env=_environment(),
        start_new_session=True,
    )


def _environment() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LANG": "C.UTF-8"}


#: What OpenSSH says, and what it means here: its own words name hosts and ports.
_MEANINGS = {
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


def last_line(said: str, status: int) -> str:
    """What went wrong, without saying where: an endpoint is never printed."""
    for words, meaning in _MEANINGS.items():
        if words in said:
            return meaning
    return f"ssh ended with status {status}"
