"""A leg goes on while the connection to its host is cut, and no event is lost."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator

import pytest

from pytest_glasshouse.channel.access import SshAccess
from pytest_glasshouse.channel.guest_channel import GuestChannel
from pytest_glasshouse.invariants import judge
from pytest_glasshouse.legs.attestation import HostAttestation
from pytest_glasshouse.legs.leg_watch import Progress
from pytest_glasshouse.legs.row_runner import Allocation, ProtectedRuntime, RawRunner, RowSettings
from pytest_glasshouse.providers.base import Grant, Instance
from tests.limits import HANG_S, until
from tests.numpy_guest.resting import resting_archive
from tests.rounds.conftest import short_row
from tests.ssh.conftest import MakePod, MakeSession
from tests.ssh.proxy import Link


class OneGuest:
    """A fake provider with one running pod."""

    def __init__(self, name: str) -> None:
        self.name = name

    def listing(self) -> tuple[Instance, ...]:
        return (Instance(instance_id="pod1", name=self.name, state="running"),)

    def inject_fault(self, grant: Grant, action: str) -> None:
        raise AssertionError(action)

    def loss_reason(self, grant: Grant) -> tuple[str, str]:
        return "", ""

    def end(self, grant: Grant, why: str) -> None:
        raise AssertionError(why)


@pytest.fixture
def links() -> Iterator[list[Link]]:
    made: list[Link] = []
    yield made
    for link in made:
        link.close()


#: Thirty seconds in soak; in `make test` the same cuts until something was lost by them.
CUT_S = 30.0 if os.environ.get("SOAK") else 0.0
#: Connections refused, or pieces swallowed, at least: a client waits longer after each, up to five seconds.
LOST = 1


@pytest.mark.parametrize(
    "silent", [pytest.param(False, id="dropped", marks=pytest.mark.soak), pytest.param(True, id="silent", marks=pytest.mark.soak)]
)
def test_a_link_that_is_cut_during_a_leg_loses_no_event_and_fails_no_row(
    make_pod: MakePod, make_session: MakeSession, links: list[Link], silent: bool
) -> None:
    """The guest trains with numpy and rests: a rented row with torch is in `tests/live`."""
    pod = make_pod()
    link = Link(pod.port)
    links.append(link)
    session = make_session(pod, archive=resting_archive())
    through = SshAccess(host="127.0.0.1", port=link.port, user=os.environ.get("USER", "root"))
    path = session.connect(through, timeout_s=HANG_S)
    row = short_row(order="protected-first", target_s=CUT_S / 2 + 1.5)
    with contextlib.closing(GuestChannel(path, allocation_id=pod.name)) as channel:
        hello = channel.request("hello")
    grant = Grant(
        grant_id="g", allocation_id=pod.name, provider="runpod", instance_id="pod1", address=path,
        gpu_model=str(hello["gpuModel"]), gpu_uuid=None, device="cpu", archive_sha256=str(hello["archiveSha256"]),
        reference_source="checkout", dry_run=True, simulated=True, remote=True,
    )  # fmt: skip
    cut_in: set[str] = set()
    healers: list[threading.Thread] = []

    def heal(lost: int, earliest: float) -> None:
        until(lambda: link.lost >= lost and time.monotonic() >= earliest, "a connection or a piece that is lost")
        link.heal()

    def cut_once_per_leg(progress: Progress) -> None:
        if progress.phase == "train" and progress.leg not in cut_in:
            cut_in.add(progress.leg)
            lost_before, began = link.lost, time.monotonic()
            link.cut(silent=silent)
            healers.append(threading.Thread(target=heal, args=(lost_before + LOST, began + CUT_S)))
            healers[-1].start()

    host_attestation = HostAttestation()
    try:
        settings = RowSettings(declared=row, run_id="cut", seed=7)
        outcome = row.run(
            Allocation(grant, OneGuest(pod.name), settings, cut_once_per_leg), ProtectedRuntime(host_attestation), RawRunner()
        )
    finally:
        host_attestation.close()
        for healer in healers:
            healer.join()
    assert outcome.ended is None
    assert cut_in == {"protected", "raw"}
    assert link.connections >= 3
    broken = {one.invariant: one.reason for one in judge(outcome.observation) if one.finding != "held"}
    assert broken == {}
