"""Guests on this machine: each is a process tree in a directory of its own, and ends when its pipe closes.

Shared by `mock` and `local`. The listing reads the kernel's process table and not this process's memory, so it also shows what
another run left behind.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_glasshouse.errors import ConfigurationError, InfrastructureError, IntegrityError
from pytest_glasshouse.providers.base import Instance, UnixAccess
from pytest_glasshouse.providers.guest_python import guest_folders, guest_variables
from pytest_glasshouse.providers.lease import NAME_PREFIX
from pytest_glasshouse.wire.folder import new_folder

if TYPE_CHECKING:
    from pytest_glasshouse.rows.spec import RowSpec

_DIRECTORY_PREFIX = "gh-"
_LOG_BYTES = 2000
#: Space in a guest's directory: its archive, byte code, spool and log.
ROOM_BYTES = 32 << 20
#: A guest that never finishes booting, and still ends with its pipe.
_STALLED = "import shutil, sys; sys.stdin.buffer.read(); shutil.rmtree(sys.argv[3], ignore_errors=True)"


class GuestProcess:
    """One agent, its directory, and the pipe that ends it when it closes."""

    def __init__(
        self, directory: Path, name: str, archive: bytes, *, stalled: bool = False, site_packages: Sequence[str] = ()
    ) -> None:
        self.directory = directory
        self._site_packages = tuple(dict.fromkeys(site_packages or guest_folders()))
        self._name = name
        self._code = ["-c", _STALLED] if stalled else [str(directory / "guest.zip")]
        (directory / "guest.zip").write_bytes(archive)
        self.process = self._spawn()

    def _spawn(self) -> subprocess.Popen[bytes]:
        # The agent runs no byte code found beside a source: its cache begins empty, and its legs use the same one.
        cache = self.directory / "bytecode"
        shutil.rmtree(cache, ignore_errors=True)
        command = [sys.executable, "-I", "-S", "-X", "utf8", "-X", f"pycache_prefix={cache}", *self._code, "agent"]
        command += ["--directory", str(self.directory), "--allocation", self._name, "--until-eof"]
        for path in self._site_packages:
            command += ["--site-packages", path]
        with (self.directory / "agent.log").open("ab") as log:
            process = subprocess.Popen(  # noqa: S603
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", **guest_variables()},
                start_new_session=True,
            )
        _wait_until_shown(process)
        return process

    def reboot(self) -> None:
        """End the agent and start another in the same directory, as a container restart does."""
        self.kill()
        (self.directory / "agent.sock").unlink(missing_ok=True)
        self.process = self._spawn()

    def kill(self) -> None:
        """End the agent and everything it started, at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()


def _wait_until_shown(process: subprocess.Popen[bytes]) -> None:
    """Wait until the process table has its command line: right after the start it has none, and no listing finds it."""
    table = Path("/proc") / str(process.pid) / "cmdline"
    while process.poll() is None and b"--allocation" not in table.read_bytes():
        os.sched_yield()


def new_directory() -> Path:
    """A directory of its own for one guest."""
    return new_folder(_DIRECTORY_PREFIX)


def check_room(archive: bytes) -> None:
    """Raise `ConfigurationError` where a guest's directory does not fit on this disk, before anything is started."""
    directory: Path | None = None
    try:
        directory = new_directory()
        descriptor = os.open(directory / "guest.zip", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(archive)
            file.flush()
            os.posix_fallocate(descriptor, 0, ROOM_BYTES)
    except OSError as error:
        where = "a temporary directory" if directory is None else str(directory.parent)
        raise ConfigurationError(
            f"no room for a guest in {where} ({error.strerror or error}): expected {ROOM_BYTES >> 20} MiB; name "
            "another directory with TMPDIR"
        ) from None
    finally:
        if directory is not None:
            shutil.rmtree(directory, ignore_errors=True)


def check_gpus(row: RowSpec, *, has: int) -> None:
    """Raise `ConfigurationError` where a row asks for more GPUs than this machine `has`."""
    if row.gpus > has:
        raise ConfigurationError(
            f"row {row.name}: field gpus: expected at most the {has} of this machine; saw {row.gpus}. Nothing was started"
        )


def list_guests() -> tuple[Instance, ...]:
    """Every guest process of this project on this machine, from the process table."""
    # By instance: an agent and the launcher that waits for it are two processes with one command line.
    found: dict[str, Instance] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
            state = (entry / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0]
        except OSError:
            continue
        if b"agent" in arguments and b"--allocation" in arguments and b"--directory" in arguments and state != "Z":
            name = arguments[arguments.index(b"--allocation") + 1].decode(errors="replace")
            directory = arguments[arguments.index(b"--directory") + 1].decode(errors="replace")
            if name.startswith(NAME_PREFIX):
                # Any process may have such arguments; a guest's directory has a name that is an instance id.
                with contextlib.suppress(IntegrityError):
                    found[directory] = _instance(Path(directory), name)
    return tuple(found.values())


def _instance(directory: Path, name: str) -> Instance:
    socket = UnixAccess(path=str(directory / "agent.sock"))
    return Instance(instance_id=directory.name, name=name, state="running", raw_state="process", access=socket)


def find_guest(instance_id: str) -> Instance | None:
    """One guest of this machine, if the process table has it."""
    return next((instance for instance in list_guests() if instance.instance_id == instance_id), None)


class GuestProcesses:
    """The guests that this process started, by instance id."""

    def __init__(self, site_packages: Sequence[str] = ()) -> None:
        self._site_packages = site_packages
        self._guests: dict[str, GuestProcess] = {}

    def start(self, name: str, archive: bytes, *, stalled: bool = False) -> Instance:
        """Start one guest; a stalled one is a process that never answers.

        Raises `InfrastructureError` where it could not be started; then there is none, and no directory.
        """
        directory: Path | None = None
        try:
            directory = new_directory()
            guest = GuestProcess(directory, name, archive, stalled=stalled, site_packages=self._site_packages)
        except OSError as error:
            if directory is not None:
                shutil.rmtree(directory, ignore_errors=True)
            raise InfrastructureError(f"guest {name} was not started: {error.strerror or error}. Nothing was created") from None
        self._guests[directory.name] = guest
        return _instance(directory, name)

    def get(self, instance_id: str) -> GuestProcess:
        """A guest that this process started."""
        return self._guests[instance_id]

    def logs(self, instance_id: str) -> str:
        """The last lines its agent printed."""
        path = self.get(instance_id).directory / "agent.log"
        if not path.is_file():
            return ""
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _LOG_BYTES))
            return file.read(_LOG_BYTES).decode("utf-8", errors="replace")

    def end(self, instance_id: str) -> None:
        """Kill it and remove its directory; does nothing for a guest of another process, or one that is gone."""
        guest = self._guests.get(instance_id)
        if guest is not None:
            guest.kill()
            shutil.rmtree(guest.directory, ignore_errors=True)
