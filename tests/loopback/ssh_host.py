"""A host of the user's own: a real `sshd` on loopback, with one or two users, and the configuration that `ssh NAME` finds it by.

The users' allocations and locks are in this host's folder, so hosts of other tests do not see them. `ssh` reads its configuration
from the home of the password database, whatever HOME says; so the `ssh` first on this host's PATH is one that names the file.
"""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.limits import HANG_S, until
from tests.loopback.ports import reserve_port

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
_SSHD_CONFIG = """Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PidFile none
StrictModes no
UsePAM no
UseDNS no
PasswordAuthentication no
PermitRootLogin yes
MaxStartups 100
MaxSessions 100
LogLevel ERROR
SetEnv TMPDIR="{disk}" GLASSHOUSE_LOCKS="{locks}" {environment}
"""
_SSH_CONFIG = """Host {name}
  HostName 127.0.0.1
  Port {port}
  User {user}
  HostKeyAlias {name}
Host {name}-jumped
  HostName 127.0.0.1
  Port {port}
  User {user}
  HostKeyAlias {name}
  ProxyJump {name}
Host {name}-other
  HostName 127.0.0.1
  Port {port}
  User {other}
  HostKeyAlias {name}
Host {name}*
  IdentityFile {folder}/key
  IdentitiesOnly yes
  UserKnownHostsFile {folder}/known_hosts
"""
#: A second user in password files that only this sshd's mount namespace has.
OTHER_USER, _OTHER_ID = "glasshouse-other", 61017
_NAMESPACE = "mount --bind {folder}/passwd /etc/passwd && mount --bind {folder}/shadow /etc/shadow && exec {sshd} -D -e -f {folder}/sshd_config"


class SshHost:
    """See the module. `name` is the alias; `disk` is where its allocations are."""

    def __init__(self, *, name: str = "box", path: Sequence[str] = (), two_users: bool = False, variables: str = "") -> None:
        """`variables` as `SetEnv` of sshd takes them, for commands there."""
        self.name = name
        #: Why a test leaves something behind on purpose.
        self.may_leave = ""
        self.folder = Path(tempfile.mkdtemp(prefix="ghh-"))
        self.disk, self.locks = self.folder / "d", self.folder / "locks"
        self.disk.mkdir()
        self.locks.mkdir()
        for shared in (self.disk, self.locks):
            shared.chmod(0o1777)
        self.folder.chmod(0o711)
        self.port = reserve_port()
        for key in ("host_key", "key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / key)], check=True)
        public = (self.folder / "key.pub").read_text()
        self._write("authorized_keys", public, 0o644)
        self._write("known_hosts", f"{name} {(self.folder / 'host_key.pub').read_text()}")
        # With SHLVL, bash takes itself for a shell within another, and does not run what this machine's user has in ~/.bashrc.
        environment = f'SHLVL="1" PATH="{":".join([*path, "/usr/local/bin:/usr/bin:/bin"])}" {variables}'
        self._write("sshd_config", _SSHD_CONFIG.format(
            port=self.port, folder=self.folder, disk=self.disk, locks=self.locks, environment=environment,
        ))  # fmt: skip
        self._write("config", _SSH_CONFIG.format(
            name=name, port=self.port, user=getpass.getuser(), other=OTHER_USER, folder=self.folder,
        ))  # fmt: skip
        (self.folder / "bin").mkdir()
        ssh = shutil.which("ssh") or "/usr/bin/ssh"
        self._write("bin/ssh", f'#!/bin/sh\nexec {ssh} -F {self.folder}/config "$@"\n', 0o755)
        command = [str(SSHD), "-D", "-e", "-f", str(self.folder / "sshd_config")]
        if two_users:
            for table, line in (
                ("passwd", f"{OTHER_USER}:x:{_OTHER_ID}:{_OTHER_ID}::/:/bin/sh"),
                ("shadow", f"{OTHER_USER}:*:1::::::"),
            ):
                self._write(table, Path(f"/etc/{table}").read_text() + line + "\n", 0o644)
            script = _NAMESPACE.format(folder=self.folder, sshd=SSHD)
            command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        self.log = self.folder / "sshd.log"
        with self.log.open("wb") as log:
            self._sshd = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        until(
            lambda: "listening" in self.log.read_text() or self._answers() or self._sshd.poll() is not None,
            "an sshd that listens",
        )
        assert self._sshd.poll() is None, self.log.read_text()

    @property
    def path(self) -> str:
        """A PATH whose `ssh` knows this host."""
        return f"{self.folder / 'bin'}:{os.environ.get('PATH', '')}"

    def processes(self) -> list[str]:
        """The command lines of everything that runs for an allocation of this host."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    words = (entry / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
                    inside = str(self.disk) in words or str(self.disk) in str((entry / "cwd").readlink())
                except OSError:
                    continue
                # One without a command line has given up its memory: it is ending.
                if inside and words and "sshd" not in words.split(" ")[0]:
                    found.append(words)
        return found

    def keepers(self) -> list[int]:
        """The process ids of its keepers."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    words = (entry / "cmdline").read_bytes()
                except OSError:
                    continue
                if f"{self.disk}/".encode() in words and b"keeper.py" in words:
                    found.append(int(entry.name))
        return found

    def left(self) -> list[str]:
        """Everything that is left of allocations: files, locks that are held, processes."""
        return [*map(str, self.disk.iterdir()), *map(str, self.locks.iterdir()), *self.processes()]

    def sever(self) -> None:
        """End every connection there is; new ones can be made."""
        for pid in _below(self._sshd.pid):
            _kill(pid)

    def close(self) -> None:
        """End it, and whatever was left on it."""
        for pid in [*self.keepers(), *_below(self._sshd.pid), self._sshd.pid]:
            _kill(pid)
        self._sshd.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _answers(self) -> bool:
        done = subprocess.run(
            [str(self.folder / "bin" / "ssh"), "-o", "BatchMode=yes", "-o", f"ConnectTimeout={HANG_S:.0f}", self.name, "true"],
            capture_output=True, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        return done.returncode == 0

    def _write(self, name: str, text: str, mode: int = 0o600) -> None:
        (self.folder / name).write_text(text)
        (self.folder / name).chmod(mode)


def need_sshd() -> None:
    """Skip a test, or fail it where CI is set, without a real sshd."""
    if SSHD is None:
        if os.environ.get("CI"):
            pytest.fail("expected a real sshd; install openssh-server")
        pytest.skip("needs openssh-server")


class UserSsh:
    """What a user's `ssh` knows: the hosts that were added. Its folder goes first on PATH."""

    def __init__(self) -> None:
        self.hosts: list[SshHost] = []
        self.folder = Path(tempfile.mkdtemp(prefix="ghu-"))
        ssh = self.folder / "ssh"
        ssh.write_text(f'#!/bin/sh\nexec {shutil.which("ssh") or "/usr/bin/ssh"} -F {self.folder}/config "$@"\n')
        ssh.chmod(0o755)

    def add(self, **options: object) -> SshHost:
        """Start a host that `ssh` finds."""
        host = SshHost(**options)  # type: ignore[arg-type]
        self.hosts.append(host)
        with (self.folder / "config").open("a") as config:
            config.write(f"Include {host.folder}/config\n")
        return host

    def close(self) -> dict[str, list[str]]:
        """End every host; what was left on each."""
        left = {host.name: [] if host.may_leave else host.left() for host in self.hosts}
        for host in self.hosts:
            host.close()
        shutil.rmtree(self.folder)
        return {name: found for name, found in left.items() if found}


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _below(pid: int) -> list[int]:
    found: list[int] = []
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit():
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    level = {pid}
    while level:
        level = {child for child, parent in parents.items() if parent in level}
        found += level
    return found
