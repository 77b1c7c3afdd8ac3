"""What outlives a run: the reaper ends what a killed run left, and exits once that is proven."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_glasshouse.broker.lease_ledger import read
from pytest_glasshouse.broker.timing import Timing
from pytest_glasshouse.cli.main import main
from tests.limits import HANG_S, until
from tests.loopback.faults import Fault
from tests.loopback.http import LoopbackServer
from tests.loopback.manual_clock import ManualClock
from tests.loopback.providers import runpod, vastai

PROVIDERS = {"runpod": (runpod, "RUNPOD_API_BASE_URL", "RUNPOD_API_KEY"), "vastai": (vastai, "VAST_URL", "VAST_API_KEY")}
SHORT = Timing(poll_s=0.1, search_s=2.0, settle_s=0.3, give_up_s=HANG_S, reserve_s=0.0, grace_s=HANG_S)


def alive(pid: int) -> bool:
    """Whether a process still runs (a zombie does not)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


class Running:
    """A harness in a process of its own, with its reaper."""

    def __init__(self, server: LoopbackServer, directory: Path, *, timing: Timing = SHORT, rows: int = 1) -> None:
        _, url, key = PROVIDERS[server.name]
        environment = {name: value for name, value in os.environ.items() if not name.endswith(("_API_KEY", "_URL"))}
        environment |= {url: server.url, key: server.cloud.account_key, "HOME": "/nonexistent"}
        self.directory = directory
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.unit.broker.harness", server.name, str(directory), timing.to_json(), str(rows)],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def line(self) -> str:
        assert self.process.stdout is not None
        return str(self.process.stdout.readline()).strip()

    def reaper(self) -> int:
        """The pid of its reaper, from the process table."""
        for entry in Path("/proc").iterdir():
            try:
                command = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
            except OSError:
                continue
            if b"pytest_glasshouse.broker.reaper_process" in command and str(self.directory / "ledger.jsonl").encode() in command:
                return int(entry.name)
        return 0

    def close(self) -> None:
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        self.process.kill()
        self.process.wait()
        if pid := self.reaper():
            os.kill(pid, signal.SIGKILL)


@pytest.fixture(params=PROVIDERS)
def server(request: pytest.FixtureRequest) -> Iterator[LoopbackServer]:
    with PROVIDERS[request.param][0](pods="none") as made:
        made.name = request.param
        yield made


@pytest.fixture
def start(server: LoopbackServer, tmp_path: Path) -> Iterator[Callable[..., Running]]:
    made: list[Running] = []

    def begin(**options: object) -> Running:
        made.append(Running(server, tmp_path / "run1", **options))  # type: ignore[arg-type]
        return made[-1]

    yield begin
    for each in made:
        each.close()


def test_reaper_ends_what_a_killed_run_left_and_exits(start: Callable[..., Running], server: LoopbackServer) -> None:
    run = start(rows=2)
    assert [run.line()[:7], run.line()[:7]] == ["granted", "granted"]
    reaper = run.reaper()
    assert (alive(reaper), os.getsid(reaper)) == (True, reaper)
    assert len(server.cloud.billing()) == 2
    run.process.kill()
    until(lambda: server.cloud.billing() == (), "the end of what the run left")
    until(lambda: not alive(reaper), "the end of the reaper")
    leases, _ = read(run.directory / "ledger.jsonl")
    assert [lease.over for lease in leases.values()] == [True, True]


def test_no_key_is_in_the_process_list_or_on_disk(start: Callable[..., Running], server: LoopbackServer) -> None:
    run = start()
    run.line()
    key = server.cloud.account_key.encode()
    commands = [path.read_bytes() for pid in (run.process.pid, run.reaper()) for path in [Path(f"/proc/{pid}/cmdline")]]
    files = [path.read_bytes() for path in run.directory.rglob("*") if path.is_file()]
    assert [key in text for text in [*commands, *files]] == [False] * (2 + len(files))
    run.process.kill()
    until(lambda: server.cloud.billing() == (), "the end of what the run left")
    until(lambda: not run.reaper(), "the end of the reaper")


def test_reaper_exits_when_its_run_ends_in_order(start: Callable[..., Running], server: LoopbackServer) -> None:
    run = start()
    run.line()
    reaper = run.reaper()
    output, errors = run.process.communicate("")
    assert (output.strip(), errors, alive(reaper)) == ("proven", "", False)


def test_reaper_finds_an_instance_whose_answer_never_came(start: Callable[..., Running], server: LoopbackServer) -> None:
    """Killed between the request and its answer: the ledger has a name and no id."""
    clock = ManualClock()
    server.cloud.run_on(clock)
    server.cloud.faults.add(Fault(kind="late-create", after_s=1.0))
    run = start()
    until(lambda: server.cloud.waiting() == 1, "a create that lands later")
    os.kill(run.process.pid, signal.SIGSTOP)
    assert server.cloud.rented == {}
    clock.advance(1.0)
    run.process.kill()
    reaper = run.reaper()
    until(lambda: not alive(reaper), "the end of the reaper")
    assert [one.bills for one in server.cloud.rented.values()] == [False]


def test_reaper_goes_on_while_the_provider_fails(start: Callable[..., Running], server: LoopbackServer) -> None:
    run = start()
    run.line()
    server.cloud.faults.add(Fault(kind="refused", on="terminate", times=2), Fault(kind="503", on="list", times=3))
    run.process.kill()
    until(lambda: not run.reaper(), "the end of the reaper")
    assert server.cloud.billing() == ()


def test_frozen_run_is_ended_at_its_deadline(start: Callable[..., Running], server: LoopbackServer) -> None:
    """SIGSTOP: the pipe stays open, no deadline is checked, billing goes on."""
    # Only the reaper looks at the time that is added to the deadline: here it ends this lease 2 s after its begin, the run never.
    run = start(timing=replace(SHORT, lifetime_s=24 * 3600.0, overdue_s=2.0 - 24 * 3600.0))
    run.line()
    os.kill(run.process.pid, signal.SIGSTOP)
    until(lambda: server.cloud.billing() == (), "the end of what a frozen run rented")
    os.kill(run.process.pid, signal.SIGCONT)
    run.process.kill()
    until(lambda: not run.reaper(), "the end of the reaper")


def test_sweep_ends_allocations_of_a_run_that_is_gone(
    start: Callable[..., Running], server: LoopbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CI machine that is thrown away takes run and reaper with it."""
    run = start(timing=replace(SHORT, lifetime_s=2.0))
    run.line()
    os.kill(run.reaper(), signal.SIGKILL)
    run.process.kill()
    _, url, key = PROVIDERS[server.name]
    for name, value in {url: server.url, key: server.cloud.account_key, "HOME": "/nonexistent"}.items():
        monkeypatch.setenv(name, value)
    (name,) = read(run.directory / "ledger.jsonl")[0]
    deadline = int(re.findall(r"\d+", name)[-1])
    until(lambda: time.time() > deadline, "the deadline")
    assert main(["reap", "--expired", "--provider", server.name, "--allow-simulated"]) == 0
    assert server.cloud.billing() == ()
