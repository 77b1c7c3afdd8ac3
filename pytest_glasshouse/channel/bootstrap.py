"""Copies the guest archive to a guest, installs the packages it lacks, and starts the agent there.

One command at the guest, whose standard input and output carry messages to and from `channel/pod_install.py`. It may be
repeated: a running agent is found again.
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
from typing import TYPE_CHECKING, TypedDict

from pytest_glasshouse.channel.access import RemoteSocket
from pytest_glasshouse.channel.pod_init import PYTHON
from pytest_glasshouse.channel.ssh import CONNECTION_FAILED
from pytest_glasshouse.channel.wheels import NEEDED, OLDEST_PYTHON, Wheel, wheels
from pytest_glasshouse.errors import GuestGoneError, InfrastructureError, IntegrityError, ProtocolError
from pytest_glasshouse.wire.canonical import Json, parse_object, sha256_hex
from pytest_glasshouse.wire.guest_messages import DETAIL
from pytest_glasshouse.wire.printable import printable
from pytest_glasshouse.wire.shapes import Fields, Flag, Items, OneOf, Text, wrong
from pytest_glasshouse.wire.typed import check_typed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_glasshouse.channel.tunnel import Route

#: Reads the installer from standard input first, so that it needs no place on the guest's disk.
_LOADER = "import sys;b=sys.stdin.buffer;exec(compile(b.read(int(b.readline())),'pod_install','exec'))"

#: How long a failed client may take to print its reason.
_LAST_OUTPUT_S = 2.0
#: The installer sends six messages at most.
_MOST_MESSAGES = 32
_LONGEST_MESSAGE = 1 << 16

_PHASES = {
    "copy": "copying the guest's code",
    "install": "installing what the image lacks",
    "agent": "starting the agent",
}

_VERSION = Text(most=8, pattern=r"[0-9]{1,2}\.[0-9]{1,3}")
_MACHINE = Text(most=32, pattern="[A-Za-z0-9_]{1,32}")
_SOCKET = Text(most=107, pattern=r"/[ %+,./0-9=@A-Z_a-z-]+")


class GuestUnusableError(InfrastructureError):
    """The guest was reached and cannot run the agent: another try would not help."""


class _Lacking(TypedDict):
    """The guest's Python and machine, and which packages it lacks."""

    python: str
    machine: str
    missing: list[str]


def bootstrap(
    route: Route,
    *,
    archive: bytes,
    allocation: str,
    timeout_s: float,
    on_phase: Callable[[str], None],
    needed: Mapping[str, str] = NEEDED,
    fetch: Callable[..., tuple[Wheel, ...]] = wheels,
) -> str:
    """Start the agent on the guest, unless it runs; the path of its socket there.

    Raises `GuestGoneError` where the connection fails (worth another try), `GuestUnusableError` with the guest's reason, and
    `ProtocolError` for a message that no installer sends.
    """
    remote = f'"${{{PYTHON}:-python3}}" -I -c {shlex.quote(_LOADER)}'
    client = subprocess.Popen(  # noqa: S603
        route.run_command(remote),
        env=route.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    late = threading.Timer(max(timeout_s, 0.1), client.kill)
    late.start()
    try:
        connection = _InstallerConnection(client)
        return _run_installer(connection, archive, allocation, needed=needed, fetch=fetch, on_phase=on_phase)
    except (ProtocolError, IntegrityError) as error:
        raise ProtocolError(f"guest of allocation {allocation}: {error}", allocation_id=allocation) from None
    except (OSError, EOFError, ValueError):
        # A client that gave up prints why before it exits.
        with contextlib.suppress(subprocess.TimeoutExpired):
            client.wait(_LAST_OUTPUT_S)
        client.kill()
        _, stderr = client.communicate()
        status = client.returncode
        reason = route.failure_reason(stderr.decode("utf-8", errors="replace"), status if status > 0 else CONNECTION_FAILED)
        raise GuestGoneError(
            f"guest of allocation {allocation} cannot be reached yet ({reason})", allocation_id=allocation
        ) from None
    finally:
        late.cancel()
        client.kill()
        client.communicate()


class _InstallerConnection:
    """JSON lines both ways, and raw bytes to the installer."""

    def __init__(self, client: subprocess.Popen[bytes]) -> None:
        assert client.stdin is not None  # noqa: S101
        assert client.stdout is not None  # noqa: S101
        self._in, self._out = client.stdin, client.stdout

    def send(self, message: Mapping[str, object]) -> None:
        self.send_bytes(json.dumps(message).encode() + b"\n")

    def send_bytes(self, content: bytes) -> None:
        self._in.write(content)
        self._in.flush()

    def receive(self) -> dict[str, Json]:
        line = self._out.readline(_LONGEST_MESSAGE)
        if not line.endswith(b"\n") and len(line) < _LONGEST_MESSAGE:
            raise EOFError
        try:
            return parse_object(line)
        except IntegrityError:
            # The image's greeting, or a message of its shell: worth another try.
            raise ValueError("not an object") from None


def _run_installer(
    connection: _InstallerConnection,
    archive: bytes,
    allocation: str,
    *,
    needed: Mapping[str, str],
    fetch: Callable[..., tuple[Wheel, ...]],
    on_phase: Callable[[str], None],
) -> str:
    code = (importlib.resources.files("pytest_glasshouse.channel") / "pod_install.py").read_bytes()
    connection.send_bytes(b"%d\n" % len(code) + code)
    connection.send({"allocation": allocation, "packages": dict(needed), "python": list(OLDEST_PYTHON)})
    missing = Items(of=OneOf(tuple(needed)), most=len(needed))
    lacking = Fields({"running": Flag(), "python": _VERSION, "machine": _MACHINE, "missing": missing})
    for _ in range(_MOST_MESSAGES):
        message = connection.receive()
        if "error" in message:
            reason = printable(message["error"], limit=DETAIL)
            raise GuestUnusableError(f"allocation {allocation} cannot run the agent: {reason}", allocation_id=allocation)
        if "need" in message:
            running = message["need"] == {"running": True}
            Fields({"need": Fields({"running": Flag()}) if running else lacking}).check(message, "install")
            need = None if running else check_typed(message["need"], _Lacking, "install.need")
            _send_files(connection, need, archive, fetch=fetch, on_phase=on_phase)
        elif "phase" in message:
            Fields({"phase": OneOf(tuple(_PHASES))}).check(message, "install")
            on_phase(_PHASES[str(message["phase"])])
        else:
            Fields({"ready": Fields({"socket": _SOCKET})}).check(message, "install")
            return RemoteSocket(check_typed(message["ready"], dict[str, str], "install.ready")["socket"])
    raise wrong("install", "its end", message)


def _send_files(
    connection: _InstallerConnection,
    need: _Lacking | None,
    archive: bytes,
    *,
    fetch: Callable[..., tuple[Wheel, ...]],
    on_phase: Callable[[str], None],
) -> None:
    if need is None:
        connection.send({})
        return
    with contextlib.ExitStack() as stack:
        found: tuple[Wheel, ...] = ()
        if need["missing"]:
            on_phase(f"fetching what the image lacks: {', '.join(need['missing'])}")
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ghw-")))
            found = fetch(need["missing"], python=need["python"], machine=need["machine"], directory=directory)
    announced = {"name": "guest.zip", "size": len(archive), "sha256": sha256_hex(archive)}
    listed = [{"name": wheel.name, "size": len(wheel.content), "sha256": wheel.sha256} for wheel in found]
    connection.send({"archive": announced, "wheels": listed})
    connection.send_bytes(archive)
    for wheel in found:
        connection.send_bytes(wheel.content)
