"""Real guests whose agent lies: the row ends with a reason, and the next one runs on another guest as if nothing had been."""

from __future__ import annotations

from pathlib import Path

from pytest_glasshouse.broker.broker import Broker, BrokerOptions
from pytest_glasshouse.legs.attestation import HostAttestation
from pytest_glasshouse.legs.row_runner import Allocation, ProtectedRuntime, RawRunner, RowSettings
from pytest_glasshouse.observation.outcome import Outcome
from pytest_glasshouse.providers.mock import MockProvider
from tests.limits import HANG_S
from tests.numpy_guest.archive import numpy_archive, numpy_archive_with
from tests.numpy_guest.bytecode import use_kept
from tests.rounds.conftest import PATIENT, run_id, short_row

#: The first two guests of the run lie, each in its own way; the third is honest.
_LIAR = """import sys
sys.path.extend(value for flag, value in zip(sys.argv, sys.argv[1:]) if flag == "--site-packages")
from pytest_glasshouse.agent import agent, main, spool

def nested(depth):
    return {"x": nested(depth - 1)} if depth else 0

class Agent(agent.Agent):
    met = 0

    def on_hello(self, request, payload):
        reply, nothing = super().on_hello(request, payload)
        self.met += 1
        if self.met == 2:
            raise KeyError("no")
        return reply, nothing

class Spool(spool.Spool):
    def append(self, leg, kind, body):
        if kind == "started":
            body = {**body, "device": nested(24)}
        super().append(leg, kind, body)

if any("-1-" in argument for argument in sys.argv):
    agent.Spool = Spool
if any("-2-" in argument for argument in sys.argv):
    agent.Agent = Agent
sys.exit(main.main())
"""


def test_a_guest_that_lies_ends_its_own_row_and_no_other(tmp_path: Path) -> None:
    """A run that was paid for is published, less the rows whose guests broke the protocol: in an event, or in an answer."""
    archive = numpy_archive_with({"__main__.py": _LIAR.encode()})
    provider = MockProvider(archive=archive)
    use_kept(provider, "numpy")
    options = BrokerOptions(provider="mock", run_id=run_id(), run_dir=tmp_path, timing=PATIENT, boot_timeout_s=HANG_S)
    broker = Broker(options, providers={"mock": provider})
    host_attestation = HostAttestation()
    row = short_row()
    outcomes: list[Outcome] = []
    try:
        for _ in range(3):
            grant = broker.acquire(row)
            settings = RowSettings(declared=row, run_id="test", seed=7)
            outcomes.append(
                row.run(
                    Allocation(grant, broker, settings, lambda _moment: None), ProtectedRuntime(host_attestation), RawRunner()
                )
            )
            broker.release(grant)
    finally:
        host_attestation.close()
        cleanup = broker.end_all()
    assert cleanup.status == "proven"
    assert len(cleanup.allocations) == 3
    assert outcomes[-1].ended is None
    for each in outcomes[:2]:
        assert each.ended is not None
        assert each.ended.outcome == "error"
        assert "broke the protocol" in each.ended.reason
    assert outcomes[0].ended != outcomes[1].ended


def test_a_leg_that_is_late_is_gone_before_the_next_row_starts(tmp_path: Path) -> None:
    """Its guest is honest and goes on: the row after it must not find another leg running."""
    provider = MockProvider(archive=numpy_archive())
    use_kept(provider, "numpy")
    options = BrokerOptions(provider="mock", run_id=run_id(), run_dir=tmp_path, timing=PATIENT, boot_timeout_s=HANG_S)
    broker = Broker(options, providers={"mock": provider})
    host_attestation = HostAttestation()
    row = short_row()
    try:
        grant = broker.acquire(row)
        outcomes: list[Outcome] = []
        for timeout_s in (None, 0.001, None):  # the first has its byte code built
            settings = RowSettings(declared=row, run_id="test", seed=7, leg_timeout_s=timeout_s)
            outcomes.append(
                row.run(
                    Allocation(grant, broker, settings, lambda _moment: None), ProtectedRuntime(host_attestation), RawRunner()
                )
            )
        broker.release(grant)
    finally:
        host_attestation.close()
        cleanup = broker.end_all()
    late = outcomes[1].ended
    assert late is not None
    assert "did not end within 0.001 s" in late.reason
    assert outcomes[2].ended is None
    assert len(cleanup.allocations) == 1
