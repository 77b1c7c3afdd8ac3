"""Addresses and ids of instances, as a provider sends them: parsed, or reported as invalid, and the instance is ended either way."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_glasshouse.broker.broker import Broker, BrokerOptions
from pytest_glasshouse.broker.rented_connection import RentedConnection
from pytest_glasshouse.broker.timing import Timing
from pytest_glasshouse.channel.access import Host, Port
from pytest_glasshouse.errors import ConfigurationError, ProviderError, TerminateError
from pytest_glasshouse.providers.base import SshAccess
from tests.contract.conftest import IMAGE, RENTED, Subject, row
from tests.limits import HANG_S
from tests.unit.broker.scripted import NoReaper

QUICK = Timing(poll_s=0.02, search_s=1.0, settle_s=0.0, give_up_s=HANG_S, looks=1, bootstrap_s=5.0, reserve_s=0.0)
HOSTS = [
    "127.0.0.1\n  ProxyCommand touch {mark}",
    "-oProxyCommand=touch {mark}",
    "fe80::1%eth0",
    "`touch {mark}`",
    "p\xf6d",
    ["127.0.0.1"],
    7,
    True,
]
PORTS = ["22\n  ProxyCommand touch {mark}", 70000, -1, 22.5, "\uff12\uff12", True, [22]]


def broker_over(subject: Subject, folder: Path) -> Broker:
    options = BrokerOptions(
        provider=subject.provider.name, run_id="addresses", run_dir=folder, budget_usd=5.0, timing=QUICK, boot_timeout_s=HANG_S,
        allow_simulated=True,
    )  # fmt: skip
    return Broker(
        options, providers={subject.provider.name: subject.provider}, connection=RentedConnection(image=IMAGE), start_reaper=NoReaper,
    )  # fmt: skip


@pytest.mark.parametrize("kind", RENTED)
def test_an_invalid_address_runs_nothing_and_its_instance_is_ended_at_once(
    kind: str, opened: Callable[..., Subject], tmp_path: Path
) -> None:
    """A line break and `ProxyCommand` in it ran as the user of pytest. Such an address is not waited for until the boot deadline."""
    rented = opened(kind)
    mark = tmp_path / "ran"
    broker = broker_over(rented, tmp_path / "run")
    lies: list[tuple[Any, Any]] = [(host, None) for host in HOSTS] + [("127.0.0.1", port) for port in PORTS]
    for host, port in lies:
        address = tuple(one.format(mark=mark) if isinstance(one, str) else one for one in (host, port))
        rented.cloud.shown_address = (address[0], address[1])
        # Waiting for the boot's deadline ends in another error.
        with pytest.raises(ProviderError, match=r"cannot be reached where its provider says .*: field ") as caught:
            broker.acquire(row())
        assert caught.value.allocation_id is not None
        assert ("ports" in str(caught.value)) == (port is not None or kind != "vastai")
        assert str(caught.value).isprintable()
        assert "touch" not in str(caught.value)
        assert rented.cloud.billing() == ()
    assert broker.end_all().status == "proven"
    assert not mark.exists()


def test_an_instance_with_an_invalid_address_is_listed_and_ended_like_any_other(rented: Subject) -> None:
    """What cannot be reached bills all the same: the sweeper has to see it, and the instances beside it."""
    rented.cloud.shown_address = ("x\nProxyCommand id", None)
    bad = rented.create()
    rented.cloud.shown_address = ("127.0.0.1", None)
    good = rented.create()
    shown = {one.instance_id: one for one in rented.provider.list()}
    assert set(shown) == {bad.instance_id, good.instance_id}
    assert (shown[bad.instance_id].access, shown[good.instance_id].unusable) == (None, "")
    assert "field" in shown[bad.instance_id].unusable
    access = shown[good.instance_id].access
    assert isinstance(access, SshAccess)
    assert (type(access.host), type(access.port)) == (Host, Port)
    rented.provider.terminate(bad.instance_id)
    assert {one.instance_id for one in rented.provider.list()} == {good.instance_id}


def test_an_empty_address_is_not_yet_assigned(rented: Subject) -> None:
    for address in ((None, None), ("", None), ("127.0.0.1", 0)):
        rented.cloud.shown_address = address
        made = rented.create()
        shown = rented.provider.get(made.instance_id)
        assert shown is not None
        assert (shown.access, shown.unusable) == (None, "")


@pytest.mark.parametrize(
    "asked", ["..", ".", "", "a/b", "a/../b", "a?b=c", "a#b", "a%2fb", 'a"}) { id } #', "a\r\nX: y", "\uff17", "a" * 65, "-a"]
)
def test_an_invalid_id_is_never_put_into_a_url(rented: Subject, asked: str) -> None:
    before = len(rented.cloud.asked)
    with pytest.raises(ProviderError):
        rented.provider.get(asked)
    with pytest.raises(TerminateError):
        rented.provider.terminate(asked)
    assert isinstance(rented.provider.logs(asked), str)
    assert rented.cloud.asked[before:] == []


@pytest.mark.parametrize("kind", RENTED)
@pytest.mark.parametrize("chosen", ["its own", "row"])
def test_planning_fails_where_this_machine_has_no_ssh_client(
    kind: str, chosen: str, opened: Callable[..., Subject], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the run names the provider or each row does: before the price is asked for."""
    rented = opened(kind)
    name = rented.provider.name
    options = BrokerOptions(
        provider="row" if chosen == "row" else name,
        run_id="x",
        run_dir=tmp_path,
        budget_usd=5.0,
        allow_simulated=True,
        image=IMAGE,
    )
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match="saw no ssh on PATH"):
        Broker(options, providers={name: rented.provider}).plan([dataclasses.replace(row(), provider=name)])
    assert rented.cloud.asked == []
