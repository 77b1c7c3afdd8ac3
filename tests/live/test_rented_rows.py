"""A rented row, whole: from the price table to the proof that nothing bills, on every way to rent."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_glasshouse.broker.timing import SIMULATED
from pytest_glasshouse.check.check import check_file
from tests.limits import until
from tests.live.conftest import Ran, Rental
from tests.loopback.faults import Fault

#: Seconds for which the connection is cut in the middle of a leg, at least; `ssh` gives a connection up after 15.
CUT_S = 30.0 if os.environ.get("SOAK") else 0.0
#: Ends as any simulated provider, but gives up soon.
SHORT = replace(SIMULATED, give_up_s=2.0)


def _nothing_secret(ran: Ran, rental: Rental) -> None:
    """Over reports, logs, captured output and every command line of the machine while it ran."""
    everything = {"output": ran.output.encode(), "process list": b"\n".join(ran.commands), **ran.files}
    found = [
        f"secret {n} in {where}" for n, s in enumerate(rental.secrets()) for where, t in everything.items() if s.encode() in t
    ]
    assert found == []


def _carried_out_whole(ran: Ran, rental: Rental) -> None:
    """It is a good row from its rental to its report, and nothing of it is left."""
    assert ran.code == 0, ran.output
    (one,) = rental.server.cloud.rented.values()
    (row,) = ran.report["rows"]
    assert (row["provider"], row["providerInstanceId"]) == (rental.provider, one.instance_id)
    assert (row["gpuModel"], row["simulated"], row["dryRun"], row["publishable"]) == ("simulated (CPU)", True, True, False)
    assert (row["attestation"], row["runtimeState"], row["rawCallback"], row["sameAllocation"]) == (
        "verified", "zeroized", "completed", True,
    )  # fmt: skip
    assert "simulated provider" in row["unpublishableBecause"]
    assert ran.report["cleanup"]["status"] == "proven"
    assert "SIMULATED" in ran.output
    assert check_file(rental.folder / "reports" / "report.json").faults == ()
    assert rental.server.cloud.billing() == ()
    _nothing_secret(ran, rental)


#: A rented row with torch is one of lora in `test_rented_models.py`; one of mlp too in soak.
GUESTS = ["runpod-rest", "runpod-sdk", *(["runpod-rest-torch"] if os.environ.get("SOAK") else [])]


@pytest.mark.soak
@pytest.mark.parametrize("rental", GUESTS, indirect=True)
def test_row_on_a_rented_pod_is_carried_out_whole(rental: Rental) -> None:
    """With guests that train with numpy by two APIs, and by the third one below."""
    _carried_out_whole(rental.spawn(), rental)


@pytest.mark.parametrize("rental", ["runpod-rest", *(["runpod-sdk"] if os.environ.get("SOAK") else [])], indirect=True)
def test_row_of_two_gpus_rents_a_pod_with_two_and_pays_for_both(rental: Rental) -> None:
    rental.text = rental.text.replace("gpu=gpu,", "gpu=gpu, gpus=2,")
    ran = rental.run()
    _carried_out_whole(ran, rental)
    (one,), (row,) = rental.server.cloud.rented.values(), ran.report["rows"]
    assert (one.order.gpus, row["gpus"]) == (2, 2)
    assert one.price_usd_per_hour == pytest.approx(2 * rental.server.cloud.prices[one.gpu])
    assert "2 x NVIDIA RTX A4000" in ran.output


@pytest.mark.parametrize("rental", ["runpod-rest"], indirect=True)
def test_pod_that_vanishes_in_a_leg_is_infrastructure_over_several_processes_too(rental: Rental) -> None:
    """Nothing was judged broken and trying again is safe: exit 14."""
    pytest.importorskip("xdist")
    rental.rows = [("long", "a4000", 60.0)]

    def vanish() -> None:
        rental.until_training()
        for one in rental.server.cloud.billing():
            rental.server.cloud.vanish(one.instance_id)

    ran = rental.run("-n1", meanwhile=vanish)
    assert ran.code == 14, ran.output
    (row,) = ran.report["excludedResults"]
    assert (row["outcome"], "the provider says that the allocation is gone" in row["reason"]) == ("infrastructure", True)
    assert ran.report["cleanup"]["status"] == "proven"


@pytest.mark.parametrize("rental", ["vastai"], indirect=True)
def test_cut_connection_loses_no_event_and_the_row_is_carried_out_whole(rental: Rental) -> None:
    """Every sshd of the pod stands still for a while: no packet is answered, and the leg goes on."""
    rental.rows = [("long", "a4000", CUT_S + 3.0)]
    went_on: list[int] = []

    def stop() -> None:
        spool = rental.until_training()
        assert spool is not None
        (one,) = rental.server.cloud.billing()
        assert one.pod is not None
        servers = [pid for pid in one.pod.processes() if b"sshd" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        assert len(servers) >= 2, "one that listens and one that is connected"
        for pid in servers:
            os.kill(pid, signal.SIGSTOP)
        before, began = spool.stat().st_size, time.monotonic()
        until(lambda: spool.stat().st_size > before and time.monotonic() >= began + CUT_S, "an event while nobody is connected")
        went_on.append(spool.stat().st_size - before)
        for pid in servers:
            os.kill(pid, signal.SIGCONT)

    ran = rental.spawn(meanwhile=stop)
    assert len(went_on) == 1, ran.output
    _carried_out_whole(ran, rental)
    (row,) = ran.report["rows"]
    assert {finding["finding"] for finding in row["findings"]} == {"held"}


@pytest.mark.parametrize("rental", ["vastai"], indirect=True)
def test_restart_in_a_leg_ends_the_row_and_not_silently(rental: Rental) -> None:
    """An empty disk, another boot, another agent: what ran before is not this allocation any more."""
    rental.rows = [("long", "a4000", 60.0)]

    def restart() -> None:
        rental.until_training()
        for one in rental.server.cloud.billing():
            rental.server.cloud.restart(one.instance_id)

    ran = rental.run(meanwhile=restart)
    assert ran.code == 14, ran.output
    (row,) = ran.report["excludedResults"]
    assert (row["outcome"], "it was restarted" in row["reason"]) == ("infrastructure", True)
    assert (ran.report["rows"], ran.report["cleanup"]["status"]) == ([], "proven")


@pytest.mark.parametrize("rental", ["runpod-rest"], indirect=True)
def test_cleanup_that_is_not_proven_names_what_may_bill_and_how_to_end_it(rental: Rental) -> None:
    rental.server.cloud.faults.add(Fault(kind="refused", on="terminate", times=10_000))
    rental.timing = SHORT
    ran = rental.spawn()
    (one,) = rental.server.cloud.rented.values()
    assert ran.code == 10, ran.output
    last = ran.output.strip().splitlines()[-4:]
    assert any("cleanup is not proven" in line and one.order.name in line for line in last)
    assert any(f"DELETE https://api.runpod.io/v2/pods/{one.instance_id}" in line for line in last)
    rental.server.cloud.faults = type(rental.server.cloud.faults)()
    # The reaper of that run keeps running, and ends it as soon as the provider lets it.
    until(lambda: rental.server.cloud.billing() == (), "the end of what the run left behind")
