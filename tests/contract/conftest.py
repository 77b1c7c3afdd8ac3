"""The providers of this project, each ready to be used as any other: what a suite for all of them needs to know of one."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest

from pytest_glasshouse.channel.access import HostAccess, JobAccess, SshAccess, UnixAccess
from pytest_glasshouse.providers.base import Instance, Launch, Offer, Provider
from pytest_glasshouse.providers.place_settings import OwnMachines, SlurmSite
from pytest_glasshouse.providers.registry import open_provider
from pytest_glasshouse.providers.requirements import ANY_MACHINE, Requirements
from pytest_glasshouse.rows.spec import RowSpec
from tests.limits import until
from tests.loopback.faults import Fault
from tests.loopback.http import LoopbackServer
from tests.loopback.providers import runpod, vastai
from tests.loopback.ssh_host import SshHost

RENTED = ("runpod-rest", "runpod-sdk", "vastai")
IMAGE = "example/guest@sha256:" + "5" * 64

_numbers = count(1)


@dataclass(kw_only=True)
class Subject:
    """A provider under test, and the account behind it where it rents."""

    kind: str
    provider: Provider
    server: LoopbackServer | None = None
    made: list[Instance] = field(default_factory=list)
    #: How its guests are reached.
    access: type = UnixAccess
    #: What the account of a loopback server has, where the API shows it.
    balance_usd: float | None = None
    #: Whether its place ends what it was told to end a moment later, and shows it as ended for a while.
    ends_later: bool = False

    @property
    def cloud(self) -> Any:
        assert self.server is not None
        return self.server.cloud

    def fault(self, kind: Any, **fields: Any) -> None:
        """Script one fault."""
        self.cloud.faults.add(Fault(kind=kind, **fields))

    def launch(self, *start: str, **fields: Any) -> Launch:
        """A launch with a name of its own."""
        name = f"glasshouse-contract-{next(_numbers)}-{int(time.time()) + 600}"
        if self.server is None:
            now = time.time()
            return Launch(name=name, deadline=now + 600, contact_by=now + 600, lease_s=600.0)
        return Launch(name=name, image=IMAGE, start=start or ("sleep", "60"), **fields)

    def offer(self) -> Offer:
        return self.provider.offers(row())[0]

    def create(self, *start: str, **fields: Any) -> Instance:
        """Create one that works."""
        instance = self.provider.create(self.offer(), launch=self.launch(*start, **fields))
        self.made.append(instance)
        return instance

    def until_running(self, instance: Instance) -> None:
        """Wait until it runs, and has an address."""

        def runs() -> bool:
            shown = self.provider.get(instance.instance_id)
            return shown is not None and shown.state == "running" and shown.access is not None

        until(runs, "an allocation that runs")

    def until_gone(self, instance: Instance) -> None:
        """Nothing is left of it: at once, or where its place takes its time, soon."""

        def is_gone() -> bool:
            shown = self.provider.get(instance.instance_id)
            return shown is None or (self.ends_later and shown.state == "ended")

        if self.ends_later:
            until(is_gone, "an allocation that is gone")
        assert is_gone()

    def end(self) -> None:
        """End whatever there is."""
        for instance in self.made:
            self.provider.terminate(instance.instance_id)
        if self.server is not None:
            for one in self.provider.list():
                self.provider.terminate(one.instance_id)


def row(gpu: Any = None) -> RowSpec:
    return RowSpec(name="contract", workload="mlp", gpu=gpu or "anygpu", order="raw-first", target_s=1.0)


@pytest.fixture
def opened(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, ssh_host: Callable[..., SshHost]
) -> Iterator[Callable[..., Subject]]:
    """Open a provider by its kind, over a loopback account of its own where it rents."""
    servers: list[LoopbackServer] = []

    def make(
        kind: str,
        *,
        max_price: float | None = None,
        requirements: Requirements = ANY_MACHINE,
        pods: str | Sequence[str] = "none",
        **options: Any,
    ) -> Subject:
        if kind == "ssh":
            # One lock a host: a second allocation is on the other one.
            machines = OwnMachines(hosts=(ssh_host(name="one").name, ssh_host(name="two").name), remote_python=sys.executable)
            return Subject(kind=kind, provider=open_provider(kind, allow_simulated=True, machines=machines), access=HostAccess)
        if kind == "slurm":
            request.getfixturevalue("slurm")
            machines = OwnMachines(remote_python=sys.executable, slurm=SlurmSite(gres='h100 = "gpu:h100:1"'))
            provider = open_provider(kind, allow_simulated=True, machines=machines)
            return Subject(kind=kind, provider=provider, access=JobAccess, ends_later=True)
        if kind not in RENTED:
            return Subject(kind=kind, provider=open_provider(kind))
        server = (vastai if kind == "vastai" else runpod)(pods=pods, **options)
        servers.append(server)
        name = kind.split("-", maxsplit=1)[0]
        monkeypatch.setenv("VAST_URL" if name == "vastai" else "RUNPOD_API_BASE_URL", server.url)
        monkeypatch.setenv("VAST_API_KEY" if name == "vastai" else "RUNPOD_API_KEY", server.cloud.account_key)
        monkeypatch.setenv("GLASSHOUSE_RUNPOD_API", kind.rsplit("-", maxsplit=1)[-1])
        return Subject(
            kind=kind,
            provider=open_provider(name, allow_simulated=True, max_price_usd_per_hour=max_price, requirements=requirements),
            server=server,
            access=SshAccess,
            balance_usd=25.0 if kind in {"runpod-sdk", "vastai"} else None,
        )

    yield make
    for server in servers:
        server.close()


@pytest.fixture(params=RENTED)
def rented(request: pytest.FixtureRequest, opened: Callable[..., Subject]) -> Iterator[Subject]:
    """Each provider that rents, in turn. Its pods run nothing."""
    one = opened(request.param)
    yield one
    one.end()


@pytest.fixture(params=RENTED)
def running(request: pytest.FixtureRequest, opened: Callable[..., Subject]) -> Iterator[Subject]:
    """The same, with pods that run their start command."""
    one = opened(request.param, pods="start")
    yield one
    one.end()
