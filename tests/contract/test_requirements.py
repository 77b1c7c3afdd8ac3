"""What a rented machine must have: asked of each provider by its own filters, and named where it excludes every offer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_glasshouse.errors import ConfigurationError, NoCapacityError, ProviderError
from pytest_glasshouse.providers.requirements import CudaVersion, Requirements
from pytest_glasshouse.run.engine import Engine
from pytest_glasshouse.run.options import Options
from pytest_glasshouse.run.plan import ResolvedModel
from tests.contract.conftest import RENTED, Subject, row
from tests.loopback.hosts import Host

Opened = Callable[..., Subject]
A4000 = "NVIDIA RTX A4000"
SHOWN = ("runpod-rest", "vastai")
CUDA_13 = Requirements(cuda=CudaVersion(13, 0))


def hosts_for_all(subject: Subject, *hosts: Host) -> None:
    """Every GPU of the account is on these machines."""
    for model in subject.cloud.prices:
        subject.cloud.hosts[model] = hosts


@pytest.mark.parametrize("kind", RENTED)
def test_a_machine_with_an_older_driver_is_never_given(opened: Opened, kind: str) -> None:
    """An image with CUDA 13 does not start on it, and bills until the boot timeout."""
    subject = opened(kind, requirements=CUDA_13)
    hosts_for_all(subject, Host(cuda="12.4"), Host(cuda="13.0"))
    made = subject.create()
    assert subject.cloud.rented[made.instance_id].host.cuda == "13.0"
    subject.end()


@pytest.mark.parametrize("kind", RENTED)
def test_a_newer_driver_is_as_good(opened: Opened, kind: str) -> None:
    subject = opened(kind, requirements=CUDA_13)
    hosts_for_all(subject, Host(cuda="13.2"))
    subject.create()
    subject.end()


@pytest.mark.parametrize("kind", SHOWN)
def test_no_offer_that_fits_is_an_error_that_names_what_excluded_them(opened: Opened, kind: str) -> None:
    subject = opened(kind, requirements=CUDA_13)
    subject.cloud.hosts[A4000] = (Host(cuda="12.4"),)
    with pytest.raises(NoCapacityError) as caught:
        subject.provider.offers(row())
    assert "CUDA 13.0 or newer excludes 5 of 5 (newest seen: 12.8)" in str(caught.value)
    assert "--glasshouse-min-cuda" in str(caught.value)


def test_graphql_names_what_it_asked_for_where_nothing_is_given(opened: Opened) -> None:
    """It shows no CUDA version before a create request: which requirement excluded every machine is not known."""
    subject = opened("runpod-sdk", requirements=CUDA_13)
    with pytest.raises(NoCapacityError, match=r"asked for with CUDA 13\.0 or newer"):
        subject.create()
    assert subject.cloud.rented == {}


@pytest.mark.parametrize("kind", SHOWN)
def test_the_instance_shows_the_cuda_version_of_its_machine(opened: Opened, kind: str) -> None:
    subject = opened(kind)
    hosts_for_all(subject, Host(cuda="12.4"))
    made = subject.create()
    found = subject.provider.get(made.instance_id)
    assert found is not None
    assert found.cuda == CudaVersion(12, 4)
    subject.end()


@pytest.mark.parametrize("kind", RENTED)
def test_gpus_with_less_memory_are_not_offered(opened: Opened, kind: str) -> None:
    subject = opened(kind, requirements=Requirements(gpu_memory_gb=80))
    memory = {offer.gpu_model for offer in subject.provider.offers(row())}
    assert memory == {"NVIDIA H100 80GB HBM3", "NVIDIA RTX PRO 6000 Blackwell Server Edition"}
    with pytest.raises(NoCapacityError, match="80 GB of GPU memory excludes 1 of 1"):
        subject.provider.offers(row("a4000"))


@pytest.mark.parametrize("kind", ["runpod-sdk", "vastai"])
def test_a_machine_with_less_memory_is_never_given(opened: Opened, kind: str) -> None:
    subject = opened(kind, requirements=Requirements(memory_gb=100))
    hosts_for_all(subject, Host(memory_gb=64), Host(memory_gb=256))
    made = subject.create()
    assert subject.cloud.rented[made.instance_id].host.memory_gb == 256
    subject.end()


def test_api_v2_has_no_filter_for_memory_and_says_so(opened: Opened) -> None:
    with pytest.raises(ConfigurationError, match="no filter for a machine's memory"):
        opened("runpod-rest", requirements=Requirements(memory_gb=100))


def test_a_machine_with_less_disk_is_never_given(opened: Opened) -> None:
    subject = opened("vastai", requirements=Requirements(disk_gb=300))
    hosts_for_all(subject, Host(disk_gb=100), Host(disk_gb=400))
    made = subject.create(disk_gb=300)
    assert subject.cloud.rented[made.instance_id].host.disk_gb == 400
    subject.end()


def test_several_requirements_are_each_counted(opened: Opened) -> None:
    subject = opened("vastai", requirements=Requirements(cuda=CudaVersion(13, 0), memory_gb=200, disk_gb=100))
    subject.cloud.hosts[A4000] = (Host(cuda="13.0", memory_gb=64), Host(cuda="12.8", memory_gb=256), Host(disk_gb=50))
    with pytest.raises(NoCapacityError) as caught:
        subject.provider.offers(row("a4000"))
    for part in ("CUDA 13.0 or newer excludes 2 of 3 (newest seen: 12.8)", "200 GB of memory excludes 2 of 3 (most seen: 128",
                 "100 GB of disk excludes 1 of 3 (most seen: 50"):  # fmt: skip
        assert part in str(caught.value)


@pytest.mark.parametrize("requirements", [Requirements(), CUDA_13])
def test_a_search_that_finds_something_is_not_repeated(opened: Opened, requirements: Requirements) -> None:
    """Vast.ai refuses two searches within some seconds."""
    subject = opened("vastai", requirements=requirements)
    hosts_for_all(subject, Host(cuda="13.0"))
    subject.provider.offers(row())
    assert subject.cloud.asked.count("offers") == 1


def test_only_price_excludes_what_has_everything(opened: Opened) -> None:
    subject = opened("vastai", requirements=CUDA_13, max_price=0.01)
    hosts_for_all(subject, Host(cuda="13.0"))
    with pytest.raises(NoCapacityError, match=r"above 0\.01 USD per hour"):
        subject.provider.offers(row())


@pytest.mark.parametrize("kind", SHOWN)
def test_what_the_user_requires_is_in_the_price_table_and_in_the_reason_for_no_offer(
    opened: Opened, kind: str, tmp_path: Path
) -> None:
    """From the options to the provider, with the disk that the run's base models need."""
    opened(kind)
    options = Options(provider=kind.split("-", maxsplit=1)[0], allow_simulated=True, min_cuda=CudaVersion(13, 0))
    models: dict[str, ResolvedModel] = {"some/model": {"reference": None, "size": 15 * 10**9}}
    broker = Engine().broker(options, [row()], run_id="contract", run_dir=tmp_path, tell=lambda _name, _what: None, models=models)
    broker.plan([row()])
    quoted = broker.quote()
    assert quoted.required == "CUDA 13.0 or newer, 55 GB of disk"
    (reason,) = quoted.unavailable
    assert reason.startswith("contract: ")
    assert "CUDA 13.0 or newer excludes 5 of 5" in reason


@pytest.fixture
def volume(opened: Opened, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Subject:
    monkeypatch.setenv("GLASSHOUSE_RUNPOD_VOLUME", "vol_1:/models")
    subject = opened("runpod-rest")
    subject.cloud.network_volumes["vol_1"] = tmp_path
    subject.cloud.volume_places["vol_1"] = "EU-RO-1"
    return subject


def test_a_pod_with_a_volume_is_asked_for_in_the_volumes_data_center(volume: Subject) -> None:
    hosts_for_all(volume, Host(), Host(data_center="EU-RO-1"))
    made = volume.create()
    assert volume.cloud.rented[made.instance_id].host.data_center == "EU-RO-1"
    volume.end()


def test_gpus_in_other_data_centers_than_the_volume_are_not_offered(volume: Subject) -> None:
    volume.cloud.hosts[A4000] = (Host(data_center="EU-RO-1"),)
    assert {offer.gpu_model for offer in volume.provider.offers(row())} == {A4000}
    with pytest.raises(NoCapacityError, match="volume in EU-RO-1 excludes 1 of 1"):
        volume.provider.offers(row("h100"))


def test_a_volume_that_the_account_does_not_have_is_a_configuration_error(volume: Subject) -> None:
    del volume.cloud.network_volumes["vol_1"]
    with pytest.raises(ConfigurationError, match="no network volume vol_1"):
        volume.provider.offers(row())
    assert "create" not in volume.cloud.asked


@pytest.mark.parametrize("place", [7, "", "a/b", "EU\n1", "x" * 99])
def test_a_data_center_that_is_none_is_refused(volume: Subject, place: Any) -> None:
    volume.cloud.volume_places["vol_1"] = place
    with pytest.raises(ProviderError, match="data center"):
        volume.provider.offers(row())
