"""What becomes of a job between the broker's request and its end, on a real Slurm; its guest is an agent that trains nothing."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pytest_glasshouse.broker.broker import Broker, BrokerOptions
from pytest_glasshouse.broker.timing import Clock
from pytest_glasshouse.errors import (
    AmbiguousCreateError,
    BudgetError,
    ConfigurationError,
    InfrastructureError,
    LaunchRefusedError,
    NoCapacityError,
    ProviderError,
    TerminateError,
)
from pytest_glasshouse.providers.base import Launch
from pytest_glasshouse.providers.place_settings import OwnMachines, SlurmSite
from pytest_glasshouse.providers.registry import open_provider
from pytest_glasshouse.rows.spec import RowSpec
from tests.chaos.connection import ChaosHostConnection
from tests.limits import HANG_S, until
from tests.slurm.cluster import Cluster
from tests.slurm.engine import QUICK
from tests.unit.broker.scripted import NoReaper

GRES = 'h100 = "gpu:h100:1"'
ROWS = [RowSpec(name=f"row{n}", workload="mlp", gpu="h100", order="raw-first", target_s=1.0 + n) for n in range(4)]


class Queue:
    """A broker over the tests' Slurm."""

    def __init__(self, slurm: Cluster, folder: Path) -> None:
        self.slurm = slurm
        self.folder = folder
        self.steps: list[str] = []
        self.brokers: list[Broker] = []

    def broker(self, *, queue_s: float = HANG_S, ahead_s: Callable[[], float] = lambda: 0.0, **options: Any) -> Broker:
        """`options` named as those of the broker, or of a site."""
        site = SlurmSite(**{"gres": GRES, **{name: options.pop(name) for name in tuple(options) if hasattr(SlurmSite, name)}})
        machines = OwnMachines(remote_python=sys.executable, queue_timeout_s=queue_s, slurm=site)
        provider: Any = open_provider("slurm", allow_simulated=True, machines=machines)
        made = Broker(
            BrokerOptions(
                provider="slurm", run_id=f"queue-{os.getpid()}-{time.monotonic_ns() % 10**9}", run_dir=self.folder, machines=machines,
                allow_simulated=True, boot_timeout_s=HANG_S, timing=replace(QUICK, give_up_s=HANG_S), **options,
            ),
            providers={"slurm": provider},
            clock=Clock(wall=lambda: time.time() + ahead_s()),
            connection=ChaosHostConnection(
                provider, train_s=0.1, boot_s=HANG_S, told=str(self.folder), queue_s=queue_s
            ),
            emit=lambda _name, step: self.steps.append(step),
            start_reaper=NoReaper,
        )  # fmt: skip
        self.brokers.append(made)
        return made

    def until_waiting(self, broker: Broker) -> str:
        """Wait until the broker's job is in the queue; its id."""
        until(lambda: any(each.startswith("state PENDING") for each in self.steps), "a job that waits")
        return broker._fleet.allocations[-1].instance_id


@pytest.fixture
def queue(slurm: Cluster, tmp_path: Path) -> Iterator[Queue]:
    """Whatever is made with it is proven to be gone in the end."""
    made = Queue(slurm, tmp_path / "run")
    (tmp_path / "run").mkdir()
    yield made
    for broker in made.brokers:
        assert broker.end_all().status in ("proven", "nothing-rented")


class InBackground:
    """A call in a thread: its result, or the error it raised."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.error: BaseException | None = None
        self.result: Any = None

        def run() -> None:
            try:
                self.result = call()
            except BaseException as error:  # noqa: BLE001  (the test looks at it)
                self.error = error

        self.thread = threading.Thread(target=run)
        self.thread.start()

    def end(self) -> BaseException | None:
        self.thread.join(HANG_S)
        assert not self.thread.is_alive()
        return self.error


def occupied(slurm: Cluster, *options: str) -> tuple[str, ...]:
    """Jobs of somebody else that have every GPU."""
    command = ("sbatch", "--parsable", "--gres=gpu:h100:1", "--output=/dev/null", "--chdir=/", "--time=60", *options)
    ids = tuple(slurm.run(*command, "--wrap", "exec sleep 3600").strip() for _ in slurm.nodes)
    until(lambda: all(slurm.states().get(each) == "RUNNING" for each in ids), "jobs that have every GPU")
    return ids


def test_waiting_is_shown_with_slurms_reason_and_costs_nothing(queue: Queue) -> None:
    others = occupied(queue.slurm)
    broker = queue.broker(max_gpu_hours=5.0)
    broker.plan(ROWS[:1])
    waiting = InBackground(lambda: broker.acquire(ROWS[0]))
    until(lambda: any("Resources" in each and "estimated start 20" in each for each in queue.steps), "reason and estimated start")
    assert broker.gpu_hours() == 0.0
    queue.slurm.run("scancel", *others)
    assert waiting.end() is None
    assert waiting.result.gpu_model == "simulated (CPU)"
    until(lambda: (broker.gpu_hours() or 0.0) > 0.0, "hours that count")


def test_a_queue_that_takes_longer_than_its_limit_is_no_capacity(queue: Queue) -> None:
    others = occupied(queue.slurm)
    broker = queue.broker(queue_s=0.5)
    with pytest.raises(
        NoCapacityError, match=r"waited 0\.5 s for a GPU that others use \(state PENDING.*raise --glasshouse-queue-timeout"
    ):
        broker.acquire(ROWS[0])
    assert broker.end_all().status == "proven"
    assert set(queue.slurm.staying()) == set(others)
    queue.slurm.end_jobs()


def test_a_held_job_is_not_waited_for(queue: Queue) -> None:
    occupied(queue.slurm)
    broker = queue.broker()
    waiting = InBackground(lambda: broker.acquire(ROWS[0]))
    queue.slurm.run("scontrol", "hold", queue.until_waiting(broker))
    error = waiting.end()
    assert isinstance(error, InfrastructureError)
    assert "JobHeldAdmin: an administrator holds it" in str(error)
    queue.slurm.end_jobs()


@pytest.mark.parametrize(
    ("site", "says"),
    [
        ({"partition": "nowhere"}, "the partition is unknown; set glasshouse_slurm_partition"),
        ({"gres": "h100=gpu:a100:1"}, "no node of the partition has that GPU; check glasshouse_slurm_gres"),
        ({"partition": "short", "time": "60"}, "60 minutes is longer than the 10 that its partition allows"),
        ({"container_image": "site/image:1"}, "the site's sbatch has none; unset glasshouse_slurm_container_image"),
        ({"gres": "a4000=gpu:a4000:1"}, "expected a line such as h100"),
    ],
)
def test_what_slurm_would_refuse_is_refused_before_the_first_row(queue: Queue, site: dict[str, Any], says: str) -> None:
    """A plan that cannot work ends with exit 4, and nothing was submitted."""
    broker = queue.broker(**site)
    with pytest.raises(ConfigurationError, match=says) as caught:
        broker.plan(ROWS[:1])
    assert str(caught.value).isprintable()
    assert broker.end_all().status == "nothing-rented"


def test_a_job_that_its_account_may_not_run_is_refused_though_slurm_lets_it_wait(queue: Queue) -> None:
    """Where accounts are not enforced Slurm accepts the job, which then waits for ever."""
    broker = queue.broker(partition="lab", account="chemistry")
    broker.plan(ROWS[:1])
    with pytest.raises(
        LaunchRefusedError, match=r"would never run: the partition does not (accept|allow).*account not known"
    ) as caught:
        broker.acquire(ROWS[0])
    assert str(caught.value).isprintable()


def test_a_partition_that_is_down_is_not_waited_for(queue: Queue) -> None:
    broker = queue.broker(partition="closed")
    broker.plan(ROWS[:1])
    with pytest.raises(InfrastructureError, match="PartitionDown: the partition is down; choose another"):
        broker.acquire(ROWS[0])


def test_a_time_limit_from_the_plan_is_what_the_partition_allows_at_most(queue: Queue) -> None:
    broker = queue.broker(partition="short")
    broker.plan(ROWS)
    grant = broker.acquire(ROWS[0])
    assert queue.slurm.run("squeue", "-h", "-j", grant.instance_id, "-o", "%l").strip() == "10:00"


def _requeue(slurm: Cluster, job: str) -> None:
    """As an administrator may, though the job was submitted with --no-requeue."""
    slurm.run("scontrol", "update", f"JobId={job}", "Requeue=1")
    slurm.run("scontrol", "requeue", job)


def _fail_node(slurm: Cluster, job: str) -> None:
    slurm.stop_node(slurm.run("squeue", "-h", "-j", job, "-o", "%N").strip())


def _suspend(slurm: Cluster, job: str) -> None:
    slurm.run("scontrol", "suspend", job)
    slurm.run("scontrol", "resume", job)


LOSSES: dict[str, tuple[Callable[[Cluster, str], Any], str]] = {
    "cancelled by somebody": (lambda slurm, job: slurm.run("scancel", job), "CANCELLED (it was cancelled"),
    "preempted": (lambda slurm, _job: occupied(slurm, "--partition=urgent"), "PREEMPTED (another job preempted it"),
    "requeued": (_requeue, "REQUEUED"),
    "node failed": (_fail_node, "NODE_FAIL (its node failed"),
    "suspended and resumed": (_suspend, "SUSPENDED"),
}


@pytest.mark.parametrize("how", LOSSES)
def test_a_job_that_others_take_away_is_lost_by_slurms_account(queue: Queue, how: str) -> None:
    """Its guest may answer again: a job that was suspended goes on, and one that was requeued runs once more."""
    lose, says = LOSSES[how]
    broker = queue.broker()
    grant = broker.acquire(ROWS[0])
    assert broker.loss_reason(grant)[0] == "unreachable"
    lose(queue.slurm, grant.instance_id)
    until(lambda: broker.loss_reason(grant)[0] == "lost", "a job that is lost")
    kind, reason = broker.loss_reason(grant)
    assert kind == "lost"
    assert says in reason
    until(lambda: grant.instance_id not in queue.slurm.living(), "the end of what is lost")
    if how == "node failed":
        for node in queue.slurm.nodes:
            queue.slurm.start_node(node) if node in queue.slurm.down else None
    queue.slurm.end_jobs()


def test_four_rows_at_once_are_four_jobs(queue: Queue) -> None:
    """Rows of other places wait for the one allocation of their kind; a queue may give each its own."""
    broker = queue.broker(queue_s=HANG_S)
    broker.plan(ROWS)
    workers = [InBackground(partial(broker.acquire, row, worker=row.name)) for row in ROWS]
    until(lambda: len([each for each in broker._fleet.allocations if each.instance_id]) == 4, "four jobs")
    until(lambda: sum(each.result is not None for each in workers) == 2, "a job on each of two nodes")
    for each in [each for each in workers if each.result is not None]:
        broker.release(each.result)
    assert [each.end() for each in workers] == [None] * 4
    assert len({each.result.instance_id for each in workers}) == 4


def test_a_job_is_ended_when_no_row_is_left_for_it(queue: Queue) -> None:
    """Others may wait for its GPU, and hours count."""
    broker = queue.broker()
    broker.plan(ROWS[:2])
    first = broker.acquire(ROWS[0])
    broker.release(first)
    second = broker.acquire(ROWS[1])
    assert first.instance_id == second.instance_id
    broker.release(second)
    until(lambda: not queue.slurm.living(), "an empty queue before the end of the run")


def test_a_run_does_not_wait_for_gpus_that_its_own_idle_jobs_hold(queue: Queue) -> None:
    """Rows of another GPU type are jobs of another kind; with as many kinds as GPUs the last one waited for the first."""
    kinds: list[Any] = ["h100", "a4000", "rtx4090", "h100"]
    rows = [replace(row, gpu=gpu) for row, gpu in zip(ROWS, kinds, strict=True)]
    broker = queue.broker(gres="\n".join(f"{gpu}=gpu:h100:1" for gpu in kinds))
    broker.plan(rows)
    for row in rows:
        broker.release(broker.acquire(row))
    until(lambda: not queue.slurm.living(), "an empty queue")


def test_more_gpu_hours_than_the_cap_are_not_begun(queue: Queue) -> None:
    broker = queue.broker(max_gpu_hours=0.01)
    with pytest.raises(BudgetError, match=r"the estimate is 0\.\d\d GPU-hours and the cap 0\.01: nothing was started"):
        broker.plan(ROWS)


def test_the_cap_of_gpu_hours_ends_everything_when_it_is_reached(queue: Queue) -> None:
    ahead: list[float] = [0.0]
    broker = queue.broker(max_gpu_hours=2.0, ahead_s=lambda: ahead[0])
    grant = broker.acquire(ROWS[0])
    assert grant.instance_id in queue.slurm.living()
    ahead[0] = 2.1 * 3600
    until(lambda: not queue.slurm.living(), "the end of the job")
    assert broker.over_budget.startswith("the cap of 2 GPU-hours is reached: 2.1")
    with pytest.raises(BudgetError):
        broker.acquire(ROWS[1])


def _lying_sbatch(folder: Path, text: str) -> str:
    """A PATH whose sbatch is this script."""
    script = folder / "bin" / "sbatch"
    script.parent.mkdir()
    script.write_text(f"#!/bin/sh\n{text}\n")
    script.chmod(0o755)
    return f"{script.parent}:{os.environ['PATH']}"


def test_a_job_whose_answer_was_lost_is_found_by_its_name(queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broker = queue.broker()
    lost = 'case $* in *--test-only*) exec /usr/bin/sbatch "$@";; esac\n/usr/bin/sbatch "$@" >/dev/null\n'
    lost += "echo 'sbatch: error: Batch job submission failed: Socket timed out on send/recv operation' >&2\nexit 1"
    monkeypatch.setenv("PATH", _lying_sbatch(tmp_path, lost))
    grant = broker.acquire(ROWS[0])
    assert [grant.instance_id] == list(queue.slurm.living())
    assert "adopted" in (tmp_path / "run" / "ledger.jsonl").read_text()


def test_an_answer_that_was_lost_without_a_job_is_searched_for_and_never_existed(
    queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = queue.broker()
    monkeypatch.setenv("PATH", _lying_sbatch(tmp_path, "echo 'sbatch: error: something new' >&2; exit 1"))
    with pytest.raises(AmbiguousCreateError, match=r"the answer to submitting job .* was lost: something new"):
        broker.acquire(ROWS[0])
    assert broker.end_all().status == "proven"


def test_a_controller_that_is_gone_neither_proves_nor_loses_anything(queue: Queue) -> None:
    """An empty listing of squeue with an error beside it is no empty queue."""
    provider = queue.broker()._fleet.provider("slurm")
    now = time.time()
    name = f"glasshouse-gone-{os.getpid()}-1-{int(now) + 600}"
    launch = Launch(name=name, deadline=now + 600, contact_by=now + 600, lease_s=600)
    made = provider.create(provider.offers(ROWS[0])[0], launch=launch)
    with queue.slurm.without_controller():
        for ask in (provider.list, lambda: provider.get(made.instance_id)):
            with pytest.raises(ProviderError, match="the controller does not answer squeue"):
                ask()
        with pytest.raises(TerminateError, match="scancel did not end job"):
            provider.terminate(made.instance_id)
        with pytest.raises(ProviderError, match=r"did not reach its controller: .* Nothing was submitted"):
            provider.create(provider.offers(ROWS[0])[0], launch=launch)
    assert provider.get(made.instance_id) is not None
    provider.terminate(made.instance_id)


def test_a_full_queue_is_no_capacity_and_sbatch_does_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Left alone, sbatch sleeps and tries again for minutes."""
    with Cluster(nodes=1, extra="MaxJobCount=2") as small:
        for name, value in small.environment.items():
            monkeypatch.setenv(name, value)
        occupied(small)
        queue = Queue(small, tmp_path)
        broker = queue.broker()
        with pytest.raises(AmbiguousCreateError, match="its queue is full") as caught:
            broker.acquire(ROWS[0])
        assert str(caught.value).isprintable()
        assert broker.end_all().status == "proven"
