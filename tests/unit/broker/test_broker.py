"""The broker over a provider we own, whose listing and failures are scripted."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import resource
import secrets
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_glasshouse.broker.broker import Broker, BrokerOptions
from pytest_glasshouse.broker.broker_socket import BrokerClient, BrokerServer
from pytest_glasshouse.broker.lease_ledger import LeaseLedger, read
from pytest_glasshouse.broker.timing import LOCAL
from pytest_glasshouse.errors import ConfigurationError, InfrastructureError, TerminateError
from pytest_glasshouse.guest import machine
from pytest_glasshouse.providers.base import Grant, Instance, Launch, Offer
from pytest_glasshouse.providers.lease import Lease
from pytest_glasshouse.providers.mock import MockProvider
from pytest_glasshouse.rows.spec import RowSpec
from tests.limits import HANG_S
from tests.loopback import fake_guest
from tests.seen_waiting import SeenWaiting

ROW = RowSpec(name="row", workload="mlp", gpu="anygpu", order="raw-first", target_s=1.0)


def _fake_archive() -> bytes:
    """A guest that answers hello and starts in a moment: what is tested here is the broker."""
    source = Path(fake_guest.__file__).read_text().replace(fake_guest.GPU_MODEL, f"CPU ({machine.cpu_model()})")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("__main__.py", source)
    return archive.getvalue()


class ScriptedProvider(MockProvider):
    """A mock whose create, listing and terminate may be replaced."""

    def __init__(self) -> None:
        super().__init__(archive=_fake_archive())
        self.hidden = False
        self.lag = 0
        self.refuses = False
        self.create_first: Callable[[str], None] = lambda _name: None
        self.created: list[str] = []

    def create(self, offer: Offer, *, launch: Launch) -> Instance:
        self.create_first(launch.name)
        self.created.append(launch.name)
        return super().create(offer, launch=launch)

    def list(self) -> tuple[Instance, ...]:
        if self.lag:
            self.lag -= 1
            return (Instance(instance_id="lagging", name=self.created[-1], state="running"),)
        return () if self.hidden else super().list()

    def terminate(self, instance_id: str) -> None:
        if self.refuses:
            raise TerminateError("refused", allocation_id=instance_id)
        super().terminate(instance_id)


@pytest.fixture
def provider() -> ScriptedProvider:
    return ScriptedProvider()


def _broker(run_dir: Path, provider: ScriptedProvider, *, give_up_s: float = HANG_S) -> Broker:
    options = BrokerOptions(
        provider="mock", run_id=f"unit-{secrets.token_hex(4)}", run_dir=run_dir, timing=replace(LOCAL, give_up_s=give_up_s),
        boot_timeout_s=HANG_S,
    )  # fmt: skip
    return Broker(options, providers={"mock": provider})


@pytest.fixture
def broker(tmp_path: Path, provider: ScriptedProvider) -> Broker:
    return _broker(tmp_path, provider)


def _ledger(tmp_path: Path) -> list[str]:
    return [json.loads(line)["step"] for line in (tmp_path / "ledger.jsonl").read_text().splitlines()]


@contextlib.contextmanager
def _full_disk(size: int) -> Iterator[None]:
    """No file of this process grows beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_intent_is_on_disk_before_anything_is_created(tmp_path: Path, broker: Broker, provider: ScriptedProvider) -> None:
    """A controller that is killed inside the create call must leave a name to search for."""
    seen: list[list[str]] = []
    provider.create_first = lambda _name: seen.append(_ledger(tmp_path))
    broker.acquire(ROW)
    broker.end_all()
    assert seen == [["intent"]]
    assert _ledger(tmp_path) == ["intent", "created", "listed", "ended", "gone"]


def test_second_row_gets_the_same_allocation(broker: Broker, provider: ScriptedProvider) -> None:
    first = broker.acquire(ROW)
    broker.release(first)
    second = broker.acquire(ROW)
    assert (first.allocation_id, len(provider.created)) == (second.allocation_id, 1)
    broker.end_all()


def test_row_waits_while_another_uses_this_machine(broker: Broker) -> None:
    """Two rows at once on one device would measure each other."""
    broker._fleet.changed = changed = SeenWaiting()
    first = broker.acquire(ROW, worker="gw0")
    granted: list[Grant] = []
    waiting = threading.Thread(target=lambda: granted.append(broker.acquire(ROW, worker="gw1")))
    assert not changed.waited.is_set()
    waiting.start()
    assert changed.waited.wait(HANG_S)
    assert granted == []
    broker.release(first)
    waiting.join(timeout=HANG_S)
    assert len(granted) == 1
    broker.end_all()


def test_dead_guest_is_not_given_to_the_next_row(broker: Broker, provider: ScriptedProvider) -> None:
    first = broker.acquire(ROW)
    provider.inject_fault(first.instance_id, "kill")
    broker.release(first)
    second = broker.acquire(ROW)
    assert first.allocation_id != second.allocation_id
    assert broker.end_all().status == "proven"


def test_dead_worker_loses_its_allocation(broker: Broker, provider: ScriptedProvider) -> None:
    """What still runs there is unknown."""
    grant = broker.acquire(ROW, worker="gw0")
    broker.abandon("gw0")
    assert grant.instance_id not in {instance.instance_id for instance in provider.list()}
    broker.end_all()


def test_cleanup_is_unproven_when_the_listing_never_showed_the_allocation(broker: Broker, provider: ScriptedProvider) -> None:
    """A listing that shows nothing while the guest runs proves nothing when it shows nothing afterwards."""
    provider.hidden = True
    broker.acquire(ROW)
    assert broker.end_all().status == "unproven"


def test_allocation_that_stays_listed_is_a_leak_until_it_is_gone(tmp_path: Path, provider: ScriptedProvider) -> None:
    broker = _broker(tmp_path, provider, give_up_s=0.2)
    grant = broker.acquire(ROW)
    provider.refuses = True
    cleanup = broker.end_all()
    assert (cleanup.status, grant.allocation_id in cleanup.detail) == ("leak", True)
    provider.refuses = False
    assert broker.end_all().status == "proven"


def test_listing_that_forgets_a_moment_later_is_no_leak(broker: Broker, provider: ScriptedProvider) -> None:
    """A process that was just reaped, a provider's cache: listed again before a leak is reported."""
    broker.acquire(ROW)
    provider.lag = 3
    assert broker.end_all().status == "proven"


def test_nothing_is_granted_once_the_run_is_ending(broker: Broker) -> None:
    broker.end_all()
    with pytest.raises(InfrastructureError, match="ending"):
        broker.acquire(ROW)


def test_signal_ends_every_guest_at_once(broker: Broker, provider: ScriptedProvider) -> None:
    grant = broker.acquire(ROW)
    broker.signal_end()
    assert grant.instance_id not in {instance.instance_id for instance in provider.list()}
    assert broker.end_all().status == "proven"


@pytest.mark.parametrize(
    ("provider_name", "faults", "message"),
    [
        ("nowhere", (), "provider 'nowhere': expected"),
        ("mock", ("no-such-fault",), "mock fault 'no-such-fault': expected one of"),
        ("local", ("wrong-gpu",), "played by the mock provider only"),
    ],
    ids=["provider", "fault", "fault-elsewhere"],
)
def test_configuration_errors_are_raised_before_anything_starts(
    tmp_path: Path, provider_name: str, faults: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Broker(BrokerOptions(provider=provider_name, run_id=f"unit-{secrets.token_hex(4)}", run_dir=tmp_path, faults=faults))
    assert not (tmp_path / "ledger.jsonl").exists()


def test_worker_gets_grants_and_errors_through_the_socket(broker: Broker, provider: ScriptedProvider) -> None:
    events: list[dict[str, object]] = []
    server = BrokerServer(broker, on_event=events.append)
    client = BrokerClient(server.address, worker="gw0")
    grant = client.acquire(ROW)
    assert grant.faults == ()
    assert grant.instance_id in {instance.instance_id for instance in client.listing()}
    client.event({"phase": "train", "elapsed_s": 1.5})
    assert events == [{"phase": "train", "elapsed_s": 1.5, "worker": "gw0"}]
    client.release(grant)
    broker.end_all()
    with pytest.raises(InfrastructureError, match="ending"):
        client.acquire(ROW)
    client.close()
    server.close()
    assert not Path(server.address).exists()


def test_worker_that_hangs_up_with_a_grant_loses_it(broker: Broker, provider: ScriptedProvider) -> None:
    server = BrokerServer(broker, on_event=lambda _event: None)
    client = BrokerClient(server.address, worker="gw0")
    client.acquire(ROW)
    client.close()
    other = BrokerClient(server.address, worker="gw1")
    assert other.acquire(ROW).allocation_id == provider.created[1]
    other.close()
    server.close()
    broker.end_all()


def test_row_that_was_not_priced_gets_no_allocation(broker: Broker, provider: ScriptedProvider) -> None:
    """Budget and consent were for the rows that were planned; a changed length is another row."""
    broker.plan([ROW])
    changed: tuple[dict[str, Any], ...] = ({"target_s": 1800.0}, {"name": "another"}, {"rounds": 9})
    for changes in changed:
        with pytest.raises(ConfigurationError, match=f"was not priced: the run planned {ROW.row_id}"):
            broker.acquire(dataclasses.replace(ROW, **changes))
    assert provider.created == []
    assert broker.acquire(ROW).allocation_id
    broker.end_all()


def test_a_guest_that_could_not_be_started_leaves_nothing_and_nothing_in_doubt(
    provider: ScriptedProvider, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full, or there is no room for one more process: exit 14, not 10."""
    folder = Path(tempfile.mkdtemp(prefix="t-", dir="/tmp"))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    provider._archive = b"x" * 200_000
    with _full_disk(100_000), pytest.raises(InfrastructureError, match=r"was not started: .*Nothing was created"):
        broker.acquire(ROW)
    assert broker.end_all().status == "nothing-rented"
    assert list(folder.iterdir()) == []
    folder.rmdir()


def test_an_intent_that_cannot_be_written_creates_nothing(provider: ScriptedProvider, broker: Broker, tmp_path: Path) -> None:
    with _full_disk(0), pytest.raises(InfrastructureError, match=r"cannot be written .*Nothing was created"):
        broker.acquire(ROW)
    assert provider.created == []
    assert broker.end_all().status == "nothing-rented"


def test_a_full_disk_does_not_prevent_ending_allocations(broker: Broker, tmp_path: Path) -> None:
    broker.release(broker.acquire(ROW))
    with _full_disk((tmp_path / "ledger.jsonl").stat().st_size):
        assert broker.end_all().status == "proven"


def test_a_ledger_line_after_an_incomplete_one_is_read(tmp_path: Path) -> None:
    ledger = LeaseLedger(tmp_path / "ledger.jsonl")
    lease = Lease(name="glasshouse-x-1-1", provider="mock", price_usd_per_hour=0.0, intent_at=1.0)
    ledger.intent(lease, base_url="")
    with ledger.path.open("ab") as file:
        file.write(b'{"step": "crea')
    ledger.write("gone", name=lease.name)
    assert read(ledger.path)[0][lease.name].gone_at is not None
