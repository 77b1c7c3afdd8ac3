"""Copies the guest archive to a rented guest, brings what its image lacks, and has the agent started there.

One SSH command whose standard input and output are a conversation with `guest/pod_install.py`. It may be repeated: an
agent that runs is found again.
"""

from __future__ import annotations

import contextlib
import importlib.resources
import json
import re
import shlex
import subprocess
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.channel import wheels as pinned
from pytest_glasshouse.channel.access import RemoteSocket
from pytest_glasshouse.channel.ssh import ALIAS, CONNECTION_FAILED, Doorway, last_line, ssh_client
from pytest_glasshouse.errors import GuestGoneError, InfrastructureError, IntegrityError
from pytest_glasshouse.guest.pod import PYTHON
from pytest_glasshouse.wire.canonical import Json, parse_object, sha256_hex
from pytest_glasshouse.wire.printable import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: Reads the installer from standard input first, so that it needs no place on the guest's disk.
_LOADER = "import sys;b=sys.stdin.buffer;exec(compile(b.read(int(b.readline())),'pod_install','exec'))"

_LAST_WORDS_S = 2.0
_LONGEST_LINE = 1 << 16
#: How much of the reason a guest gives is shown, in characters.
_REASON = 500
_VERSION = re.compile(r"[0-9]{1,2}\.[0-9]{1,3}")
_MACHINE = re.compile(r"[A-Za-z0-9_]{1,32}")

_PHASES = {
    "copy": "copying the guest's code",
    "install": "installing what the image lacks",
    "agent": "starting the agent",
}


class Refused(InfrastructureError):  # noqa: N818  (the guest's own words follow)
    """The guest was reached and cannot serve: repeating would change nothing."""


def bootstrap(
    doorway: Doorway,
    *,
    archive: bytes,
    allocation: str,
    timeout_s: float,
    tell: Callable[[str], None],
    needed: Mapping[str, str] = pinned.NEEDED,
    fetch: Callable[..., tuple[pinned.Wheel, ...]] = pinned.wheels,
) -> str:
    """Have the agent run on the guest; the path of its socket there.

    Raises `GuestGoneError` where the connection fails (worth another try) and `Refused` with the guest's reason.
    """
    remote = f'"${{{PYTHON}:-python3}}" -I -c {shlex.quote(_LOADER)}'
    client = subprocess.Popen(  # noqa: S603
        doorway.command(ALIAS, remote),
        executable=ssh_client(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    late = threading.Timer(max(timeout_s, 0.1), client.kill)
    late.start()
    try:
        talk = _Talk(client)
        return _converse(talk, archive, allocation, needed=needed, fetch=fetch, tell=tell)
    except IntegrityError as error:
        # Not one of `pod_install`'s words: whoever speaks there will not say another one the next time.
        why = f"it says what no installer says ({error.detail})"
        raise Refused(f"allocation {allocation} cannot run the agent: {why}", allocation_id=allocation) from None
    except (OSError, EOFError, ValueError):
        # A client that gave up says why before it is gone.
        with contextlib.suppress(subprocess.TimeoutExpired):
            client.wait(_LAST_WORDS_S)
        client.kill()
        _, said = client.communicate()
        status = client.returncode
        why = last_line(said.decode("utf-8", errors="replace"), status if status > 0 else CONNECTION_FAILED)
        raise GuestGoneError(
            f"guest of allocation {allocation} cannot be reached over SSH yet ({why})", allocation_id=allocation
        ) from None
    finally:
        late.cancel()
        client.kill()
        client.communicate()


class _Talk:
    """JSON lines both ways, and raw bytes one way."""

    def __init__(self, client: subprocess.Popen[bytes]) -> None:
        assert client.stdin is not None  # noqa: S101
        assert client.stdout is not None  # noqa: S101
        self._in, self._out = client.stdin, client.stdout

    def say(self, message: dict[str, Any]) -> None:
        self._in.write(json.dumps(message).encode() + b"\n")
        self._in.flush()

    def pour(self, content: bytes) -> None:
        self._in.write(content)
        self._in.flush()

    def hear(self) -> dict[str, Json]:
        line = self._out.readline(_LONGEST_LINE)
        if not line.endswith(b"\n") and len(line) < _LONGEST_LINE:
            raise EOFError
        return parse_object(line)


@dataclass(frozen=True, kw_only=True)
class _Need:
    """What the guest says that it has and lacks, in words that may stand in pip's command line."""

    running: bool
    missing: tuple[str, ...] = ()
    python: str = ""
    machine: str = ""

    @classmethod
    def of(cls, told: Json, needed: Mapping[str, str]) -> _Need:
        """Raises `IntegrityError` (`malformed`) for a package nobody named, or a version or machine of another form."""
        if not isinstance(told, dict) or not isinstance(told.get("running"), bool):
            raise IntegrityError("malformed", "a need without `running`")
        if told["running"]:
            return cls(running=True)
        missing, python, machine = told.get("missing"), told.get("python"), told.get("machine")
        if not isinstance(missing, list) or not all(isinstance(name, str) and name in needed for name in missing):
            raise IntegrityError("malformed", "a package that was not asked for")
        if not isinstance(python, str) or not _VERSION.fullmatch(python):
            raise IntegrityError("malformed", "a version of Python in another form")
        if not isinstance(machine, str) or not _MACHINE.fullmatch(machine):
            raise IntegrityError("malformed", "a machine in another form")
        return cls(running=False, missing=tuple(sorted({str(name) for name in missing})), python=python, machine=machine)


def _converse(
    talk: _Talk,
    archive: bytes,
    allocation: str,
    *,
    needed: Mapping[str, str],
    fetch: Callable[..., tuple[pinned.Wheel, ...]],
    tell: Callable[[str], None],
) -> str:
    code = (importlib.resources.files("pytest_glasshouse.guest") / "pod_install.py").read_bytes()
    talk.pour(b"%d\n" % len(code) + code)
    talk.say({"allocation": allocation, "packages": dict(needed), "python": list(pinned.PYTHON)})
    while True:
        heard = talk.hear()
        if "error" in heard:
            why = printable(heard["error"], limit=_REASON)
            raise Refused(f"allocation {allocation} cannot run the agent: {why}", allocation_id=allocation)
        if "need" in heard:
            _send_files(talk, _Need.of(heard["need"], needed), archive, fetch=fetch, tell=tell)
        elif "phase" in heard:
            tell(_PHASES.get(str(heard["phase"]), "installing"))
        elif "ready" in heard:
            ready = heard["ready"]
            return RemoteSocket(ready.get("socket") if isinstance(ready, dict) else None)


def _send_files(
    talk: _Talk,
    need: _Need,
    archive: bytes,
    *,
    fetch: Callable[..., tuple[pinned.Wheel, ...]],
    tell: Callable[[str], None],
) -> None:
    if need.running:
        talk.say({})
        return
    with contextlib.ExitStack() as stack:
        found: tuple[pinned.Wheel, ...] = ()
        if need.missing:
            tell(f"fetching what the image lacks: {', '.join(need.missing)}")
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ghw-")))
            found = fetch(list(need.missing), python=need.python, machine=need.machine, directory=directory)
    announced = {"name": "guest.zip", "size": len(archive), "sha256": sha256_hex(archive)}
    listed = [{"name": wheel.name, "size": len(wheel.content), "sha256": wheel.sha256} for wheel in found]
    talk.say({"archive": announced, "wheels": listed})
    talk.pour(archive)
    for wheel in found:
        talk.pour(wheel.content)
