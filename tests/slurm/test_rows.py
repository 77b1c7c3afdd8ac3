"""Rows on a real Slurm, from pytest's command line to the report and the empty queue. Guests train with numpy, but for one."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

import tests.native_modules  # noqa: F401  (pytest runs in this process)
from pytest_glasshouse.check.check import check_file
from tests.limits import until
from tests.loopback.ssh_host import SshHost
from tests.slurm.cluster import Cluster
from tests.slurm.site import Ran, Site
from tests.smoke_rows import smoke

REPOSITORY = Path(__file__).parents[2]


def whole(ran: Ran, site: Site, rows: int = 1) -> None:
    assert ran.code == 0, ran.output
    assert len(ran.report["rows"]) == rows
    for row in ran.report["rows"]:
        assert (row["provider"], row["gpuModel"], row["simulated"], row["dryRun"]) == ("slurm", "simulated (CPU)", True, True)
        assert {finding["finding"] for finding in row["findings"]} == {"held"}
    assert ran.report["cleanup"]["status"] == "proven"
    assert check_file(site.folder / "reports" / "report.json").faults == ()


def test_a_row_in_a_job_is_carried_out_whole_from_a_login_node(site: Site, ssh_host: Callable[..., SshHost]) -> None:
    """`sbatch`, `squeue`, `scancel` and every stream run there, over the user's own `ssh`; here is no client of Slurm."""
    slurm = site.slurm.environment
    clients = [str(Path(folder) / "sbatch") for folder in slurm["PATH"].split(":")]
    login = ssh_host(name="login", path=[slurm["PATH"]], variables=f'SLURM_CONF="{slurm["SLURM_CONF"]}"')
    assert any(Path(client).exists() for client in clients)
    site.environment = {**site.environment, "PATH": os.environ["PATH"], "SLURM_CONF": "/nowhere"}
    site.ini = f"glasshouse_slurm_login = {login.name}"
    whole(site.run(), site)


def test_a_row_of_two_gpus_is_one_job_that_has_both(site: Site) -> None:
    """The map's request is for one GPU of its kind; the job asks for as many as the row has."""
    with Cluster(1, gpus=2) as cluster:
        two = Site(cluster, site.pytester, {**site.environment, **cluster.environment}, gpus=2)
        ran = two.run()
        whole(ran, two)
        (row,) = ran.report["rows"]
        assert (row["gpus"], row["scaling"]["gpus"]) == (2, 2)
        assert "gres:gpu:h100:2" in cluster.run("scontrol", "show", "job", row["providerInstanceId"]).replace("=", ":")
        until(lambda: not cluster.living(), "an empty queue")


def test_a_row_of_more_gpus_than_a_node_has_is_refused_before_anything_waits(site: Site) -> None:
    site.gpus = 2
    ran = site.run()
    assert ran.code == 4, ran.output
    assert site.jobs() == ()


def test_rows_of_several_workers_are_jobs_of_their_own(site: Site) -> None:
    pytest.importorskip("xdist")
    site.seconds = (0.2, 0.2)
    ran = site.run("-n2")
    whole(ran, site, rows=2)
    assert len({row["providerInstanceId"] for row in ran.report["rows"]}) == 2


def test_a_row_whose_job_is_preempted_is_infrastructure_and_never_green(site: Site) -> None:
    """Nothing was judged broken and trying again is safe: exit 14, in one line with Slurm's reason."""
    site.seconds = (60.0,)

    def preempt() -> None:
        if site.until_training():
            site.occupy("--partition=urgent")

    ran = site.run("--glasshouse-slurm-partition=gpu", meanwhile=preempt)
    site.slurm.end_jobs()
    assert (ran.code, ran.outcomes) == (14, ["infrastructure"]), ran.output
    assert "the allocation is PREEMPTED (another job preempted it" in ran.reasons[0]
    assert ran.report["cleanup"]["status"] == "proven"


def test_a_plan_that_slurm_refuses_is_exit_4_in_one_line(site: Site) -> None:
    ran = site.run("--glasshouse-slurm-partition=nowhere")
    assert ran.code == 4
    (line,) = [each for each in ran.output.splitlines() if "ERROR" in each]
    assert "the partition is unknown; set glasshouse_slurm_partition" in line


def test_a_job_that_would_wait_for_ever_is_exit_4(site: Site) -> None:
    ran = site.run("--glasshouse-slurm-partition=lab", "--glasshouse-slurm-account=chemistry")
    assert (ran.code, ran.outcomes) == (4, ["error"]), ran.output
    assert "would never run" in ran.reasons[0]


def test_a_queue_that_takes_too_long_is_exit_14_and_shown_meanwhile(site: Site) -> None:
    site.occupy()
    ran = site.ended(site.spawn("--glasshouse-queue-timeout=1"))
    site.slurm.end_jobs()
    assert (ran.code, ran.outcomes) == (14, ["infrastructure"]), ran.output
    assert "waited 1 s for a GPU that others use" in ran.reasons[0]
    assert "0.00 GPU-hours so far" in ran.output


def test_a_run_that_would_take_too_many_gpu_hours_is_exit_11(site: Site) -> None:
    ran = site.run("--glasshouse-max-gpu-hours=0.01")
    assert ran.code == 11, ran.output
    assert site.slurm.states() == {} or not site.jobs()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_killed_leaves_nothing_in_the_queue(site: Site, number: signal.Signals) -> None:
    """After SIGKILL the reaper does it, which reads what site this is from its environment."""
    site.seconds = (60.0,)
    process = site.spawn()
    site.until_training()
    process.send_signal(number)
    ran = site.ended(process)
    assert ran.code != 0
    until(lambda: not site.slurm.living(), "an empty queue")


@pytest.mark.skipif(not os.environ.get("SOAK"), reason="a minute is the shortest time limit of Slurm")
def test_a_time_limit_that_is_reached_is_infrastructure(site: Site) -> None:
    site.seconds = (300.0,)
    ran = site.run("--glasshouse-slurm-time=1", "--glasshouse-leg-timeout=400")
    assert (ran.code, ran.outcomes) == (14, ["infrastructure"]), ran.output
    assert "TIMEOUT (its time limit was reached" in ran.reasons[0]


@pytest.mark.torch
@pytest.mark.skipif(not os.environ.get("SOAK"), reason="six rows with torch take minutes")
def test_the_smoke_rows_run_in_jobs(site: Site) -> None:
    """As a user runs them: nothing in it is the test's, but the base model, which is pushed and no hub's."""
    gres = "h100=gpu:h100:1\na4000=gpu:h100:1"
    smoke(site.folder, {**site.environment, "GLASSHOUSE_SLURM_GRES": gres}, "--provider=slurm")
