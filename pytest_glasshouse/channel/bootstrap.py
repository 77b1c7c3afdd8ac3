"""Copies the guest archive to a rented guest, brings what its image lacks, and has the agent started there.

One SSH command whose standard input and output are a conversation with `channel/pod_install.py`. It may be repeated: an
agent that runs is found again.
"""

from __future__ import annotations

import contextlib
import importlib.resources
import json
import shlex
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.channel import wheels as pinned
from pytest_glasshouse.channel.access import RemoteSocket
from pytest_glasshouse.channel.pod_init import PYTHON
from pytest_glasshouse.channel.ssh import ALIAS, CONNECTION_FAILED, Doorway, last_line, ssh_client
from pytest_glasshouse.errors import GuestGoneError, InfrastructureError, IntegrityError, ProtocolError
from pytest_glasshouse.wire.canonical import parse_object, sha256_hex
from pytest_glasshouse.wire.guest_messages import DETAIL
from pytest_glasshouse.wire.printable import printable
from pytest_glasshouse.wire.shapes import Fields, Flag, Items, OneOf, Text, wrong

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: Reads the installer from standard input first, so that it needs no place on the guest's disk.
_LOADER = "import sys;b=sys.stdin.buffer;exec(compile(b.read(int(b.readline())),'pod_install','exec'))"

_LAST_WORDS_S = 2.0
#: The installer says six things at most.
_MOST_WORDS = 32
_LONGEST_WORD = 1 << 16

_PHASES = {
    "copy": "copying the guest's code",
    "install": "installing what the image lacks",
    "agent": "starting the agent",
}


_VERSION = Text(most=8, pattern=r"[0-9]{1,2}\.[0-9]{1,3}")
_MACHINE = Text(most=32, pattern="[A-Za-z0-9_]{1,32}")
_SOCKET = Text(most=107, pattern=r"/[ %+,./0-9=@A-Z_a-z-]+")


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

    Raises `GuestGoneError` where the connection fails (worth another try), `Refused` with the guest's reason, and
    `ProtocolError` where the guest says what no installer says.
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
    except (ProtocolError, IntegrityError) as error:
        raise ProtocolError(f"guest of allocation {allocation}: {error}", allocation_id=allocation) from None
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

    def hear(self) -> dict[str, Any]:
        line = self._out.readline(_LONGEST_WORD)
        if not line.endswith(b"\n") and len(line) < _LONGEST_WORD:
            raise EOFError
        try:
            return parse_object(line)
        except IntegrityError:
            # An image that greets, or a shell that complains: worth another try.
            raise ValueError("not an object") from None


def _converse(
    talk: _Talk,
    archive: bytes,
    allocation: str,
    *,
    needed: Mapping[str, str],
    fetch: Callable[..., tuple[pinned.Wheel, ...]],
    tell: Callable[[str], None],
) -> str:
    code = (importlib.resources.files("pytest_glasshouse.channel") / "pod_install.py").read_bytes()
    talk.pour(b"%d\n" % len(code) + code)
    talk.say({"allocation": allocation, "packages": dict(needed), "python": list(pinned.PYTHON)})
    missing = Items(of=OneOf(tuple(needed)), most=len(needed))
    lacking = Fields({"running": Flag(), "python": _VERSION, "machine": _MACHINE, "missing": missing})
    for _ in range(_MOST_WORDS):
        heard = talk.hear()
        if "error" in heard:
            why = printable(heard["error"], limit=DETAIL)
            raise Refused(f"allocation {allocation} cannot run the agent: {why}", allocation_id=allocation)
        if "need" in heard:
            running = heard["need"] == {"running": True}
            Fields({"need": Fields({"running": Flag()}) if running else lacking}).check(heard, "install")
            _send_files(talk, heard["need"], archive, fetch=fetch, tell=tell)
        elif "phase" in heard:
            Fields({"phase": OneOf(tuple(_PHASES))}).check(heard, "install")
            tell(_PHASES[heard["phase"]])
        else:
            Fields({"ready": Fields({"socket": _SOCKET})}).check(heard, "install")
            return RemoteSocket(heard["ready"]["socket"])
    raise wrong("install", "its end", heard)


def _send_files(
    talk: _Talk,
    need: dict[str, Any],
    archive: bytes,
    *,
    fetch: Callable[..., tuple[pinned.Wheel, ...]],
    tell: Callable[[str], None],
) -> None:
    if need["running"]:
        talk.say({})
        return
    with contextlib.ExitStack() as stack:
        found: tuple[pinned.Wheel, ...] = ()
        if need["missing"]:
            tell(f"fetching what the image lacks: {', '.join(map(str, need['missing']))}")
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ghw-")))
            found = fetch(need["missing"], python=str(need["python"]), machine=str(need["machine"]), directory=directory)
    announced = {"name": "guest.zip", "size": len(archive), "sha256": sha256_hex(archive)}
    listed = [{"name": wheel.name, "size": len(wheel.content), "sha256": wheel.sha256} for wheel in found]
    talk.say({"archive": announced, "wheels": listed})
    talk.pour(archive)
    for wheel in found:
        talk.pour(wheel.content)
