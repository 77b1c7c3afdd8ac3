"""A leg goes on while the connection to its host is cut, and no event is lost."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

import pytest

from pytest_glasshouse.channel.access import SshAccess
from pytest_glasshouse.channel.guest_channel import GuestChannel
from pytest_glasshouse.invariants import judge
from pytest_glasshouse.legs.attestation import HostAttestation
from pytest_glasshouse.legs.leg_watch import Progress
from pytest_glasshouse.legs.row_runner import Allocation, ProtectedRuntime, RawRunner, RowSettings
from pytest_glasshouse.providers.base import Grant, Instance
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


#: Thirty seconds in soak; the same cuts for a moment in `make test`.
CUT_S = 30.0 if os.environ.get("SOAK") else 1.5
_CUTS = [
    pytest.param(CUT_S, False, id="dropped", marks=pytest.mark.soak),
    pytest.param(CUT_S, True, id="silent", marks=pytest.mark.soak),
]


@pytest.mark.parametrize(("cut_s", "silent"), _CUTS)
def test_a_link_that_is_cut_during_a_leg_loses_no_event_and_fails_no_row(
    make_pod: MakePod, make_session: MakeSession, links: list[Link], cut_s: float, silent: bool
) -> None:
    pod = make_pod()
    link = Link(pod.port)
    links.append(link)
    session = make_session(pod)
    through = SshAccess(host="127.0.0.1", port=link.port, user=os.environ.get("USER", "root"))
    path = session.connect(through, timeout_s=60)
    row = short_row(order="protected-first", target_s=cut_s / 2)
    with contextlib.closing(GuestChannel(path, allocation_id=pod.name)) as channel:
        hello = channel.request("hello")
    grant = Grant(
        grant_id="g", allocation_id=pod.name, provider="runpod", instance_id="pod1", address=path,
        gpu_model=str(hello["gpuModel"]), gpu_uuid=None, device="cpu", archive_sha256=str(hello["archiveSha256"]),
        reference_source="checkout", dry_run=True, simulated=True, rented=True,
    )  # fmt: skip
    cut_in: set[str] = set()

    def cut_once_per_leg(progress: Progress) -> None:
        if progress.phase == "train" and progress.leg not in cut_in:
            cut_in.add(progress.leg)
            link.cut(silent=silent)
            threading.Timer(cut_s, link.heal).start()

    host_attestation = HostAttestation()
    try:
        settings = RowSettings(declared=row, run_id="cut", seed=7)
        outcome = row.run(
            Allocation(grant, OneGuest(pod.name), settings, cut_once_per_leg), ProtectedRuntime(host_attestation), RawRunner()
        )
    finally:
        host_attestation.close()
    assert outcome.ended is None
    assert cut_in == {"protected", "raw"}
    assert link.connections >= 3
    broken = {one.invariant: one.reason for one in judge(outcome.observation) if one.finding != "held"}
    assert broken == {}
