"""Rented rows from pytest's command line to the report: real client, real sshd, real bootstrap, real legs, on loopback providers.

`CI` fails what a developer's machine without sshd skips.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import tests.native_modules  # noqa: F401  (pytest runs in this process)
from pytest_glasshouse.broker.timing import Timing
from tests.limits import HANG_S, until
from tests.live.rented_engine import AHEAD, CONFTEST
from tests.loopback.http import LoopbackServer
from tests.loopback.providers import runpod, vastai
from tests.numpy_guest.bytecode import keep_in_cache
from tests.numpy_guest.resting import compiled_volumes
from tests.pytest_process import CompiledFiles, compiled_files

REPOSITORY = Path(__file__).parents[2]

#: Short enough for the suite; the published lengths are in `benchmarks/`.
ROWS = """
import pytest
from pytest_glasshouse.invariants import assert_held, attestation_verified, raw_callback_completed, runtime_zeroized
from pytest_glasshouse.rows import RowSpec

ROWS = [RowSpec(name=name, workload="mlp", gpu=gpu, order="protected-first", target_s=target, warmup_s=0.05, margin_pct=1.0 + place)
        for place, (name, gpu, target) in enumerate({rows!r})]

@pytest.mark.parametrize("row", ROWS)
def test_row(row, allocation, protected_runtime, raw_runner, row_report):
    outcome = row.run(allocation, protected_runtime, raw_runner)
    row_report.record(outcome)
    assert_held(outcome, attestation_verified, runtime_zeroized, raw_callback_completed)
"""


@dataclass
class Ran:
    """One pytest run that ended, everything it wrote, and every command line seen meanwhile."""

    code: int
    output: str
    report: dict[str, Any]
    files: dict[str, bytes]
    commands: set[bytes]


@dataclass
class Rental:
    """A project, a loopback account, and pytest between them: `run` in this process, `spawn` in one of its own."""

    server: LoopbackServer
    pytester: pytest.Pytester
    provider: str
    environment: Mapping[str, str]
    rows: list[tuple[str, str, float]] = field(default_factory=lambda: [("short", "a4000", 0.2)])
    #: The rows' test file, with `rows` to be put in.
    text: str = ROWS
    #: Guests that train with numpy; otherwise the run is a user's, and nothing in it is the test's.
    numpy: bool = True
    #: In place of the provider's own, with numpy guests.
    timing: Timing | None = None
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def folder(self) -> Path:
        return self.pytester.path

    def run(self, *arguments: str, meanwhile: Callable[[], None] = lambda: None) -> Ran:
        """For tests whose subject is what becomes of the row, and not the process."""

        def here(command: Sequence[str]) -> tuple[int, str]:
            with pytest.MonkeyPatch.context() as patch:
                for name in os.environ.keys() - self.environment.keys():
                    patch.delenv(name)
                for name, value in self.environment.items():
                    patch.setenv(name, value)
                result = self.pytester.runpytest_inprocess(*command)
            return int(result.ret), f"{result.stdout}\n{result.stderr}"

        return self._ran(here, arguments, meanwhile)

    def spawn(self, *arguments: str, meanwhile: Callable[[], None] = lambda: None) -> Ran:
        """As a user runs it."""

        def spawned(command: Sequence[str]) -> tuple[int, str]:
            done = subprocess.run(
                [sys.executable, "-m", "pytest", *command],
                cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, text=True, check=False, timeout=HANG_S,
            )  # fmt: skip
            return done.returncode, done.stdout

        return self._ran(spawned, arguments, meanwhile)

    def _ran(
        self, carry_out: Callable[[Sequence[str]], tuple[int, str]], arguments: Sequence[str], meanwhile: Callable[[], None]
    ) -> Ran:
        (self.folder / "test_rows.py").write_text(self.text.format(rows=self.rows))
        (self.folder / "pytest.ini").write_text("[pytest]\n")
        if self.numpy:
            timing = "" if self.timing is None else self.timing.to_json()
            (self.folder / "conftest.py").write_text(CONFTEST.format(folder=str(self.folder), timing=timing))
        report = self.folder / "reports" / "report.json"
        commands: set[bytes] = set()
        threads = [threading.Thread(target=_watch, args=(commands, self.over)), threading.Thread(target=meanwhile)]
        for thread in threads:
            thread.start()
        try:
            code, output = carry_out([
                "-p", "no:cacheprovider", "--provider", self.provider, "--budget", "5", "--glasshouse-allow-simulated",
                "--glasshouse-report", str(report), *arguments,
            ])  # fmt: skip
        finally:
            self.over.set()
            for thread in threads:
                thread.join()
        files = {str(path): path.read_bytes() for path in self.folder.rglob("*") if path.is_file()}
        document = json.loads(report.read_text()) if report.exists() else {}
        return Ran(code=code, output=output, report=document, files=files, commands=commands)

    def until_training(self) -> Path | None:
        """Wait until the first leg of the one pod trains: its spool. None where the run is over before."""
        until(lambda: self.over.is_set() or self._training(), "a leg that trains")
        return self._training()

    def _training(self) -> Path | None:
        # Where the installer lays it: a search of the whole disk would take more time than the run does.
        spools = [one.pod.root / "agent" / "spool.jsonl" for one in self.server.cloud.billing() if one.pod is not None]
        return next((path for path in spools if path.exists() and "train_progress" in path.read_text()), None)

    def put_clocks_forward(self, seconds: float) -> None:
        """The broker's clock and the provider's: that much more time is billed."""
        (self.folder / f"{AHEAD}.new").write_text(repr(seconds))
        (self.folder / f"{AHEAD}.new").rename(self.folder / AHEAD)
        self.server.cloud.clock = lambda: time.monotonic() + seconds

    def secrets(self) -> list[str]:
        """Keys and endpoints of everything that was ever rented here."""
        cloud = self.server.cloud
        found = [cloud.account_key]
        for one in cloud.rented.values():
            found += [one.pod_key, *(value for name, value in one.order.env.items() if name.startswith("GLASSHOUSE_POD"))]
            found += [f"127.0.0.1:{one.port}"] if one.port else []
        return found


def _watch(commands: set[bytes], over: threading.Event) -> None:
    while not over.wait(0.2):
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit():
                    commands.add((entry / "cmdline").read_bytes())
            except OSError:
                continue


def left_running(folder: Path) -> list[int]:
    """Processes with a file of this folder in their command lines: reapers, after a run."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and f"{folder}/" in (entry / "cmdline").read_text():
                found.append(int(entry.name))
    return found


def end_reapers(folder: Path) -> None:
    """A reaper goes on until zero is proven. Its provider is gone now, so it never will be."""
    for pid in left_running(folder):
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="session")
def compiled() -> CompiledFiles:
    return compiled_files()


@pytest.fixture(scope="session")
def kept_bytecode(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the byte code of libraries is kept for guests."""
    return keep_in_cache(request.config, tmp_path_factory)


@pytest.fixture
def rental(
    request: pytest.FixtureRequest, pytester: pytest.Pytester, compiled: CompiledFiles, kept_bytecode: Path
) -> Iterator[Rental]:
    """`provider-api`, such as `runpod-rest`, as an indirect parameter; its guests train with numpy unless it ends in `-torch`."""
    if not shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin"):
        if os.environ.get("CI"):
            pytest.fail("expected a real sshd; install openssh-server")
        pytest.skip("needs openssh-server")
    asked = str(request.param)
    provider, _, api = asked.removesuffix("-torch").partition("-")
    url, key = ("VAST_URL", "VAST_API_KEY") if provider == "vastai" else ("RUNPOD_API_BASE_URL", "RUNPOD_API_KEY")
    inherited = {n: v for n, v in os.environ.items() if not n.startswith(("GLASSHOUSE_", "PYTEST_", "RUNPOD_", "VAST_"))}
    numpy = not asked.endswith("-torch")
    volumes = compiled_volumes(kept_bytecode) if numpy else []
    with (vastai if provider == "vastai" else runpod)(pods="start", volumes=volumes) as server:
        environment = {**inherited, url: server.url, key: server.cloud.account_key, "HOME": "/nonexistent"}
        environment |= {"GLASSHOUSE_RUNPOD_API": api} if api else {}
        environment |= {"PYTHONPATH": str(REPOSITORY)} if numpy else {}
        environment |= compiled.environment()
        del environment["PYTHONDONTWRITEBYTECODE"]
        made = Rental(server, pytester, provider, environment, numpy=numpy)
        yield made
        made.over.set()
    end_reapers(pytester.path)
    compiled.forget(pytester.path)
