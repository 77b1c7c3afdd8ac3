"""Vast.ai's rows, null fields and all."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_glasshouse.providers.base import SshAccess
from pytest_glasshouse.providers.http_api import UnusableError
from pytest_glasshouse.providers.requirements import CudaVersion, Requirements
from pytest_glasshouse.providers.vastai_models import instance_from, offer_from, search_for


def read(**fields: Any) -> Any:
    return instance_from({"id": 7, **fields}, redacted=str)


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({"actual_status": None}, "pending"),
        ({"actual_status": "created"}, "pending"),
        ({"actual_status": "loading"}, "pending"),
        ({"actual_status": "rebooting"}, "pending"),
        ({"actual_status": "running", "intended_status": "running"}, "running"),
        ({"actual_status": "running", "intended_status": "stopped"}, "stopped"),
        ({"actual_status": "exited"}, "stopped"),
        ({"actual_status": "frozen"}, "stopped"),
        ({"actual_status": "stopped"}, "stopped"),
        ({"actual_status": "offline"}, "lost"),
        ({"actual_status": "unknown"}, "lost"),
        ({"actual_status": "hibernating"}, "unknown"),
        ({"actual_status": 3}, "unknown"),
        ({"actual_status": None, "status_msg": "Error response from daemon: OCI runtime create failed"}, "failed"),
        ({"actual_status": "loading", "status_msg": "docker pull failed"}, "failed"),
        ({"actual_status": "running", "status_msg": "0 failed checks"}, "running"),
    ],
)
def test_states(fields: dict[str, Any], state: str) -> None:
    assert read(**fields).state == state


def test_an_instance_may_have_nothing_but_its_id() -> None:
    names = "label actual_status intended_status status_msg gpu_name dph_total public_ipaddr ports ssh_host extra_env start_date"
    one = read(**dict.fromkeys(names.split()))
    assert (one.instance_id, one.name, one.access, one.gpu_model, one.price_usd_per_hour) == ("7", "", None, None, None)


@pytest.mark.parametrize("row", [None, [], {}, {"id": None}, {"id": "7"}, {"id": True}])
def test_a_row_without_an_id_is_an_error(row: Any) -> None:
    """Left out, it would be an instance that is never ended."""
    with pytest.raises(UnusableError):
        instance_from(row, redacted=str)


def test_the_ssh_port_is_the_machines_own_and_never_the_relays() -> None:
    relay = {"ssh_host": "ssh4.vast.ai", "ssh_port": 10022}
    one = read(public_ipaddr=" 203.0.113.9 ", ports={"22/tcp": [{"HostPort": "41234"}]}, **relay)
    assert one.access == SshAccess(host="203.0.113.9", port=41234)
    unmapped: list[Any] = [
        None,
        {},
        {"22/tcp": None},
        {"22/tcp": []},
        {"22/tcp": [{"HostPort": None}]},
        {"22/tcp": [{"HostPort": "x"}]},
    ]
    for ports in unmapped:
        assert read(public_ipaddr="203.0.113.9", ports=ports, **relay).access is None
    assert read(public_ipaddr=None, ports={"22/tcp": [{"HostPort": "1"}]}, **relay).access is None


@pytest.mark.parametrize(
    "fields", [{"dph_total": None}, {"gpu_name": "RTX 9999"}, {"num_gpus": 2}, {"id": None}, {"dph_total": 0}, {"num_gpus": None}]
)
def test_an_offer_that_lacks_a_field_is_left_out(fields: dict[str, Any]) -> None:
    whole: dict[str, Any] = {"id": 1, "gpu_name": "RTX A4000", "num_gpus": 1, "dph_total": 0.1}
    assert offer_from(whole) is not None
    assert offer_from({**whole, **fields}) is None


def test_the_search_names_every_gpu_by_vasts_name() -> None:
    query = search_for(["NVIDIA H100 80GB HBM3", "NVIDIA RTX PRO 6000 Blackwell Server Edition"])
    assert query["gpu_name"] == {"in": ["H100 SXM", "RTX PRO 6000 S"]}


def test_a_search_for_two_gpus_takes_offers_of_two() -> None:
    assert search_for(["NVIDIA RTX A4000"], gpus=2)["num_gpus"] == {"eq": 2}
    two: dict[str, Any] = {"id": 1, "gpu_name": "RTX A4000", "num_gpus": 2, "dph_total": 0.2}
    offer = offer_from(two, gpus=2)
    assert offer is not None
    assert (offer.gpus, offer.price_usd_per_hour) == (2, 0.2)
    assert offer_from({**two, "num_gpus": 1}, gpus=2) is None


def test_a_search_asks_for_what_is_required_in_the_units_of_the_api() -> None:
    """Memory in MB, a version as a number; offers used to be priced with 40 GB of storage, whatever was ordered."""
    asked = Requirements(cuda=CudaVersion(13, 0), gpu_memory_gb=80, memory_gb=64, disk_gb=300)
    query = search_for(["NVIDIA H100 80GB HBM3"], asked, disk_gb=300)
    assert (query["cuda_max_good"], query["gpu_ram"], query["cpu_ram"]) == ({"gte": 13.0}, {"gte": 80_000}, {"gte": 64_000})
    assert (query["disk_space"], query["allocated_storage"]) == ({"gte": 300.0}, 300.0)
