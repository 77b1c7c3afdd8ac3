"""The guest that is attacked: a real agent, real legs, a real server, and directories to plant code in.

Knows how to start a guest once and play protected legs on it one after the other, without raw legs and with a workload that
trains nothing. Refuses to know attacks: `attacks.code_injection` does. The guest's installation links to this one, except for
one module that every leg imports and one extra package, both listed in a RECORD.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import importlib.resources
import os
import secrets
import shutil
import signal
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pytest_glasshouse.channel.archive import GUEST_MAIN, build_archive
from pytest_glasshouse.channel.guest_channel import GuestChannel
from pytest_glasshouse.errors import GlasshouseError, GuestGoneError
from pytest_glasshouse.invariants import attestation_verified
from pytest_glasshouse.legs.attestation import HostAttestation
from pytest_glasshouse.legs.leg_watch import Progress
from pytest_glasshouse.legs.protected import ProtectedRuntime
from pytest_glasshouse.legs.round import Round
from pytest_glasshouse.legs.row_runner import Allocation, RowSettings
from pytest_glasshouse.observation.document import Observation
from pytest_glasshouse.observation.outcome import Ended
from pytest_glasshouse.observation.reading import protected_of
from pytest_glasshouse.owner.sealing import Sealing
from pytest_glasshouse.providers import local_process as process
from pytest_glasshouse.providers.base import Grant, Instance
from pytest_glasshouse.rows.spec import RowSpec
from pytest_glasshouse.wire.canonical import sha256_hex

#: A single-file module that every leg imports, listed in its distribution's RECORD.
VICTIM_MODULE = "typing_extensions.py"
_BOOT_S = 60.0
_EXTRA = '''"""An installed library that runs a start-up file beside it, as some do."""

from pathlib import Path


def step():
    """Called in each training step; a start-up file may replace it."""


_startup = Path(__file__).with_name("glasshouse_extra.startup")
if _startup.is_file():
    exec(compile(_startup.read_text(), str(_startup), "exec"))
'''

OnProgress = Callable[[Progress], None]


@dataclass(kw_only=True)
class PlayedLeg:
    """A leg that was played: the host's observation of it, and how many data keys the server released for it."""

    observation: Observation
    released: int

    @property
    def reason(self) -> str | None:
        """The reason of the refusal by server or agent, or the attestation invariant if it does not hold; None otherwise."""
        notes = protected_of(self.observation["rounds"][0])
        refused, failed = notes.get("refusal"), notes.get("failed")
        if refused is not None:
            return refused["reason"]
        if failed is not None:
            return failed["reason"]
        finding = attestation_verified(self.observation)
        return None if finding.finding == "held" else finding.invariant

    @property
    def detail(self) -> str:
        """The reason of the attestation finding."""
        return attestation_verified(self.observation).reason


@dataclass(kw_only=True)
class TargetGuest:
    """One guest; a context manager. `main` and `extra` replace files of its archive, whose digest its policy requires."""

    main: str = GUEST_MAIN
    extra: dict[str, bytes] = field(default_factory=dict)
    #: Called with the process id of the guest's first process, as soon as it exists.
    on_spawned: Callable[[int], None] = lambda _pid: None
    host_attestation: HostAttestation = field(default_factory=HostAttestation, init=False)
    sealed: list[Sealing] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="glasshouse-target-"))
        #: Empty, and first on the path: a module planted here shadows the installed one.
        self.shadow_folder = self.folder / "front"
        self.shadow_folder.mkdir()
        self.site = _installation(self.folder / "site")
        #: Created by planted code to show that it ran.
        self.marker = self.folder / "ran"
        self._archive = build_archive({**_workload(), "__main__.py": self.main.encode(), **self.extra})
        self._name = f"glasshouse-tamper-{self.folder.name.rpartition('-')[2]}"
        self.directory = process.new_directory()
        self._guest = process.GuestProcess(
            self.directory, self._name, self._archive, site_packages=(str(self.shadow_folder), str(self.site))
        )
        self.on_spawned(self._guest.process.pid)
        self._control: bool | None = None
        self._untouched = self._state()
        self._hello = self._wait()

    def _wait(self) -> dict[str, Any]:
        until = time.monotonic() + _BOOT_S
        while True:
            try:
                channel = GuestChannel(str(self.directory / "agent.sock"), allocation_id=self._name)
            except GuestGoneError:
                if time.monotonic() > until or self._guest.process.poll() is not None:
                    raise
                threading.Event().wait(0.01)
            else:
                with contextlib.closing(channel):
                    return dict(channel.request("hello"))

    @property
    def memory_only_values(self) -> tuple[str, ...]:
        """Values that the agent holds in memory and in no file."""
        return str(self._hello["ak"]), str(self._hello["agentNonce"])

    def launchers(self) -> Iterator[int]:
        """Process ids of the hardened processes that this guest's launchers of legs were forked from."""
        agents = [self._guest.process.pid, *children(self._guest.process.pid)]
        for pid in [child for agent in agents for child in children(agent)]:
            with contextlib.suppress(OSError):
                if b"--control" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    yield pid

    def end_launchers(self) -> None:
        """End this guest's launchers, so that the next leg is forked from one that imports everything anew."""
        ended = [pid for first in self.launchers() for pid in (first, *children(first))]
        for pid in ended:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        until = time.monotonic() + _BOOT_S
        while any(process_state(pid) not in ("", "Z") for pid in ended):
            if time.monotonic() > until:
                raise GlasshouseError("a launcher that was killed has not ended")
            threading.Event().wait(0.001)

    def control(self) -> bool:
        """Whether a leg without an attack is given its key and ends well. Played once: cases undo what they plant."""
        if self._control is None:
            leg = self.play()
            self._control = leg.released == 1 and leg.reason is None and not self.marker.exists()
        return self._control and self._untouched == self._state()

    def _state(self) -> list[tuple[str, int]]:
        entries = [*self.shadow_folder.iterdir(), *(each for each in self.site.iterdir() if not each.is_symlink())]
        # Byte code beside the sources is never read, so it is no change.
        return sorted((each.name, each.stat().st_size if each.is_file() else 0) for each in entries if each.name != "__pycache__")

    def play(self, *, on_progress: OnProgress = lambda _moment: None, target_s: float = 0.02, warm: bool = False) -> PlayedLeg:
        """Play one protected leg, from seal to receipt or refusal; with `warm`, the launcher of the leg before may fork it."""
        self.marker.unlink(missing_ok=True)
        if not warm:
            self.end_launchers()
        row = RowSpec(name="tamper", workload="mlp", gpu="anygpu", order="protected-first", target_s=target_s, warmup_s=0.0)
        settings = RowSettings(declared=row, run_id=f"tamper-{secrets.token_hex(4)}", seed=7, leg_timeout_s=_BOOT_S)
        allocation = Allocation(self._grant(), _NoBroker(self), settings, on_progress)
        before = self._released()
        outcome = row.run(allocation, _RecordingRuntime(self.host_attestation, self.sealed), _NoRawLeg())
        return PlayedLeg(observation=outcome.observation, released=self._released() - before)

    def _released(self) -> int:
        return self.host_attestation.releases()

    def _grant(self) -> Grant:
        hello = self._hello
        return Grant(
            grant_id="tamper", allocation_id=self._name, provider="mock", instance_id=self.directory.name,
            address=str(self.directory / "agent.sock"), gpu_model=str(hello["gpuModel"]), gpu_uuid=hello["gpuUuid"],
            device="cpu", archive_sha256=sha256_hex(self._archive), reference_source="checkout", dry_run=True, simulated=False,
        )  # fmt: skip

    def listing(self) -> tuple[Instance, ...]:
        """The guest in a provider's listing."""
        return (Instance(instance_id=self.directory.name, name=self._name, state="running"),)

    def close(self) -> None:
        """End the guest and remove its directories."""
        self._guest.kill()
        self.host_attestation.close()
        shutil.rmtree(self.directory, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class TargetGuests:
    """The guests that cases share, each started when the first case needs it. `extra` replaces files in all of them."""

    def __init__(self, extra: dict[str, bytes] | None = None) -> None:
        self._extra = extra or {}
        self._open: dict[str, TargetGuest] = {}

    def get(self, name: str, main: str | None) -> TargetGuest:
        """The guest of this name, whose archive starts with `main`."""
        if name not in self._open:
            self._open[name] = TargetGuest(main=main or GUEST_MAIN, extra=self._extra)
        return self._open[name]

    def close(self) -> None:
        """End them all."""
        for name in list(self._open):
            self._open.pop(name).close()


class _RecordingRuntime(ProtectedRuntime):
    """Records the packages it sealed, so that an attack can search for their secrets."""

    def __init__(self, host_attestation: HostAttestation, sealed_packages: list[Sealing]) -> None:
        super().__init__(host_attestation)
        self._sealed = sealed_packages

    def _seal(self, current: Round) -> Sealing:
        self._sealed.append(super()._seal(current))
        return self._sealed[-1]


class _NoRawLeg:
    """Stands in for the raw leg, which is not played."""

    def run(self, current: Round, role: str = "raw") -> Ended:
        del current, role
        return Ended(outcome="excluded", reason="no raw leg is played", decision="")


class _NoBroker:
    """Stands in for the broker of a guest that is not rented."""

    def __init__(self, guest: TargetGuest) -> None:
        self.listing = guest.listing

    def inject_fault(self, grant: Grant, action: str) -> None:
        raise GlasshouseError(f"no fault is played here: {action} on {grant.allocation_id}")

    def loss_reason(self, grant: Grant) -> tuple[str, str]:
        del grant
        return "", ""

    def end(self, grant: Grant, why: str) -> None:
        raise GlasshouseError(f"{grant.allocation_id} would have been ended: {why}")


def _workload() -> dict[str, bytes]:
    source = (importlib.resources.files("pytest_glasshouse.attacks") / "idle_workload.py").read_bytes()
    return {"torch.py": b"", "pytest_glasshouse/workloads/mlp.py": source}


def _installation(folder: Path) -> Path:
    """A directory of links to everything installed here, with a copy of the victim module and the extra package."""
    folder.mkdir()
    for kind in ("purelib", "platlib"):
        for entry in Path(sysconfig.get_path(kind)).iterdir():
            if entry.name not in (VICTIM_MODULE, "__pycache__") and not entry.name.endswith(".pth"):
                with contextlib.suppress(FileExistsError):
                    (folder / entry.name).symlink_to(entry)
    shutil.copy2(Path(sysconfig.get_path("purelib")) / VICTIM_MODULE, folder / VICTIM_MODULE)
    (folder / "glasshouse_extra.py").write_text(_EXTRA, encoding="utf-8")
    digest = base64.urlsafe_b64encode(hashlib.sha256(_EXTRA.encode()).digest()).rstrip(b"=").decode()
    about = folder / "glasshouse_extra-1.dist-info"
    about.mkdir()
    (about / "RECORD").write_text(f"glasshouse_extra.py,sha256={digest},{len(_EXTRA)}\n", encoding="utf-8")
    return folder


def process_state(pid: int) -> str:
    """The state of process `pid` as the kernel's table has it, one letter; empty where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0]
    except OSError:
        return ""


def children(pid: int) -> list[int]:
    """Process ids of the running children of `pid`."""
    found: list[int] = []
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(child) for child in tasks.read_text(encoding="ascii").split()]
    return found
