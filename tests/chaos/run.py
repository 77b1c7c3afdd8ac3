"""One chaos run from its plan to its judgement. Several may run side by side in threads: each has its own account and processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pytest_glasshouse.broker.lease_ledger import LEDGER, read
from pytest_glasshouse.broker.timing import Timing
from tests.chaos.connection import DONE, TOLD
from tests.chaos.on_slurm import OnSlurm
from tests.chaos.own_host import OwnHost
from tests.chaos.scenario import OWN_HOST, Scenario
from tests.limits import HANG_S
from tests.loopback.cloud import Cloud
from tests.loopback.http import LoopbackServer
from tests.loopback.pod_disk import Volume
from tests.loopback.providers import runpod, vastai
from tests.slurm.cluster import Cluster

#: Deadlines of seconds. An allocation exists at most 8 s, its watchdog ends it then.
TIMING = Timing(
    poll_s=0.1, search_s=1.2, settle_s=0.3, give_up_s=8.0, bootstrap_s=4.0, reserve_s=0.0, lifetime_s=8.0, overdue_s=0.5,
    grace_s=30.0,
)  # fmt: skip
BOOT_S = 3.0
#: Of a host of the user's own and of a job, where each request is a connection of its own.
OWN_TIMING = replace(TIMING, search_s=6.0, give_up_s=20.0, bootstrap_s=15.0, lifetime_s=30.0)
OWN_BOOT_S = 15.0
TRAIN_S = 0.3
#: How long the reaper and the guests' watchdogs have, from the last deadline on, before the sweep does their work: no judgement
#: depends on which of them did it.
_REAPER_S, _WATCHDOG_S = HANG_S / 15, HANG_S / 100
_LOOK_S = 0.02
#: What the clients that keep a tunnel have in their command lines.
_LINKS = (b"-L\0", b"agent.sock\0srun\0")


@dataclass
class Judged:
    """What became of one run. `wrong` is empty where everything held."""

    scenario: Scenario
    wrong: list[str] = field(default_factory=list)
    instances: int = 0
    green: int = 0
    released: int = 0
    refused: int = 0
    #: Who saw the last meter stop: the run, the reaper, the guests' watchdogs, or the sweep.
    ended_by: str = "nothing was rented"
    seconds: float = 0.0


class Running:
    """One run's processes."""

    def __init__(self, scenario: Scenario, server: LoopbackServer | OwnHost | OnSlurm, folder: Path) -> None:
        self.scenario = scenario
        self.cloud: Cloud | OwnHost | OnSlurm = server if isinstance(server, OwnHost | OnSlurm) else server.cloud
        self.timing = OWN_TIMING if isinstance(server, OwnHost | OnSlurm) else TIMING
        self.folder = folder
        self.run_id = f"chaos-{scenario.seed}"
        provider, _, api = scenario.provider.partition("-")
        url, key = ("VAST_URL", "VAST_API_KEY") if provider == "vastai" else ("RUNPOD_API_BASE_URL", "RUNPOD_API_KEY")
        self.provider = provider
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("RUNPOD_", "VAST_", "GLASSHOUSE_"))},
            "HOME": "/nonexistent",
        }  # fmt: skip
        if isinstance(server, OwnHost | OnSlurm):
            self.environment |= server.environment
        else:
            self.environment |= {url: server.url, key: server.cloud.account_key, "GLASSHOUSE_RUNPOD_API": api}
        settings = {
            "provider": provider, "run_id": self.run_id, "timing": self.timing.to_json(),
            "boot_s": OWN_BOOT_S if isinstance(server, OwnHost | OnSlurm) else BOOT_S, "told": str(folder / "told"), "train_s": TRAIN_S,
            "rows": scenario.rows, "workers": scenario.workers, "dishonest": sorted(scenario.dishonest),
        }  # fmt: skip
        self.log = (self.folder / "log").open("wb")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.harness", str(self.folder), json.dumps(settings)],
            env=self.environment, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, start_new_session=True,
        )  # fmt: skip

    def lines(self, name: str) -> list[dict[str, Any]]:
        path = self.folder / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def reaper(self) -> int:
        return next((pid for pid in _pids(str(self.folder / LEDGER)) if pid != self.process.pid), 0)

    def workers(self) -> list[int]:
        pids = (path.read_text() for path in self.folder.glob("worker*.pid"))
        return [int(text) for text in pids if text]

    def links(self) -> list[int]:
        """The ssh clients that hold the tunnels: children of the harness."""
        return [pid for pid in _children(self.process.pid) if any(mark in _command(pid) for mark in _LINKS)]

    def close(self) -> None:
        self.log.close()
        for pid in {self.process.pid, *_pids(str(self.folder))}:
            _kill(pid)
        self.process.wait()


def play(scenario: Scenario, *, slurm: Cluster | None = None) -> Judged:
    """Run it, kill what the plan kills, wait for the remaining processes to end the allocations, and judge."""
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="ghc-"))
    told = folder / "told"
    told.mkdir()
    if scenario.provider in (OWN_HOST, "slurm"):
        own = OwnHost() if slurm is None else OnSlurm(scenario, slurm, folder)
        try:
            return _played(scenario, own, folder, began)
        finally:
            own.close()
            shutil.rmtree(folder, ignore_errors=True)
    volume = Volume(host=told, inside=TOLD, why="whether a leg ended is judged when its pod is long gone", writable=True)
    with (vastai if scenario.provider == "vastai" else runpod)(pods="start", volumes=[volume]) as server:
        server.cloud.faults.add(*scenario.faults)
        judged = _played(scenario, server, folder, began)
    # After the pods, which may write there until they end.
    shutil.rmtree(folder, ignore_errors=True)
    return judged


def _played(scenario: Scenario, server: LoopbackServer | OwnHost | OnSlurm, folder: Path, began: float) -> Judged:
    running = Running(scenario, server, folder)
    judged = Judged(scenario)
    try:
        _kills(running)
        _wait_and_judge(running, judged)
    finally:
        running.close()
    judged.seconds = time.monotonic() - began
    return judged


def _kills(running: Running) -> None:
    scenario, process = running.scenario, running.process
    _until(lambda: (running.folder / LEDGER).exists() or process.poll() is not None, HANG_S)
    _until(lambda: process.poll() is not None, scenario.at_s)
    cloud = running.cloud
    of_the_cloud = {"pod": cloud.kill, "machine": cloud.vanish, "restart": cloud.restart}
    if scenario.victim in of_the_cloud:
        _each(cloud, of_the_cloud[scenario.victim])
    match scenario.victim:
        case "harness":
            _kill(process.pid)
        case "sigterm" | "sigint":
            _kill(process.pid, signal.SIGTERM if scenario.victim == "sigterm" else signal.SIGINT)
        case "worker" | "link":
            for pid in running.workers()[:1] if scenario.victim == "worker" else running.links():
                _kill(pid)
        case "host":
            # The whole tree, reaper first or last as the table has it: a lost machine ends all at once.
            for pid in [process.pid, *running.workers(), *_pids(str(running.folder))]:
                _kill(pid)
        case "frozen":
            _kill(process.pid, signal.SIGSTOP)


def _wait_and_judge(running: Running, judged: Judged) -> None:
    scenario, process, cloud = running.scenario, running.process, running.cloud
    if scenario.victim == "frozen":
        _until(
            lambda: not cloud.billing() and not cloud.waiting(), running.timing.lifetime_s + running.timing.overdue_s + _REAPER_S
        )
        _kill(process.pid, signal.SIGCONT)
        _kill(process.pid)
    elif not _until(lambda: process.poll() is not None, HANG_S):
        judged.wrong.append(f"the run did not end within {HANG_S:.0f} s")
        _kill(process.pid)
    process.wait()
    end = running.lines("end")
    if end and end[-1]["status"] in ("proven", "nothing-rented") and cloud.billing():
        judged.wrong.append(f"the run said {end[-1]['status']} and {len(cloud.billing())} were billing")
    if isinstance(cloud, OwnHost):
        cloud.rented |= {each for lease in read(running.folder / LEDGER)[0].values() for each in lease.instance_ids}
    judged.instances = len(cloud.rented)
    _who_ended_it(running, judged, reported=bool(end))
    _judge_rows(running, judged)
    if not _until(lambda: not running.reaper(), HANG_S):
        judged.wrong.append("the reaper is still there though nothing bills")


def _who_ended_it(running: Running, judged: Judged, *, reported: bool) -> None:
    cloud = running.cloud

    def over() -> bool:
        return not cloud.billing() and not cloud.waiting()

    deadline = max((lease.deadline for lease in read(running.folder / LEDGER)[0].values()), default=time.time())
    if not cloud.rented and over():
        return
    if over():
        judged.ended_by = "the run" if reported else "reaper"
    elif (
        running.reaper() and _until(lambda: over() or not running.reaper(), max(deadline - time.time(), 0) + _REAPER_S) and over()
    ):
        judged.ended_by = "reaper" if time.time() < deadline else "reaper or watchdog"
    elif _until(over, max(deadline - time.time(), 0) + _WATCHDOG_S):
        judged.ended_by = "watchdog"
    else:
        judged.ended_by = "sweep"
    judged.instances = len(cloud.rented)
    if judged.ended_by == "sweep":
        swept = subprocess.run(
            [sys.executable, "-m", "pytest_glasshouse", "reap", "--expired", "--provider", running.provider, "--allow-simulated"],
            env=running.environment, capture_output=True, text=True, timeout=HANG_S, check=False,
        )  # fmt: skip
        if not over():
            judged.wrong.append(f"still billing after every deadline and the sweep (exit {swept.returncode}): {swept.stdout}")


def _judge_rows(running: Running, judged: Judged) -> None:
    done = running.folder / "told" / DONE
    finished = set(done.read_text().split()) if done.exists() else set()
    for row in running.lines("rows"):
        if row["outcome"] == "green":
            judged.green += 1
            if row["nonce"] not in finished:
                judged.wrong.append(f"{row['row']} is green and its leg never ended")
    for key in running.lines("keys"):
        judged.released += key["released"]
        judged.refused += key["dishonest"]
        if key["dishonest"] and key["released"]:
            judged.wrong.append("a key was released for evidence that is wrong")


def _each(cloud: Cloud | OwnHost | OnSlurm, act: Callable[[str], None]) -> None:
    for one in cloud.billing():
        act(one.instance_id)


def _pids(text: str) -> list[int]:
    """Processes with `text` in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes()
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if text.encode() in command and state != "Z":
                found.append(int(entry.name))
    return found


def _children(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _kill(pid: int, number: int = signal.SIGKILL) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _until(what: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end:
            return False
        time.sleep(_LOOK_S)
    return True
