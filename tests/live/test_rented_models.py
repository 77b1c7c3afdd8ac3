"""How the base model of a lora row reaches a rented guest, which has a disk of its own, and what is trained then.

The guests train with numpy (`numpy_guest/lora.py`), and one with torch, transformers and peft. The hub is the tests' own; host and
guest ask it with the real client.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from pytest_glasshouse.broker.pricing import DISK_GB
from pytest_glasshouse.workloads import stand_in
from pytest_glasshouse.workloads.model_files import digest_of, listed_content
from tests.limits import until
from tests.live.conftest import ROWS, Ran, Rental
from tests.loopback.causal_models import causal_lm, write
from tests.loopback.hub import Hub
from tests.loopback.hub_faults import Drip, Flipped, Refused, Tap
from tests.loopback.hub_repository import commit_id
from tests.numpy_guest.bytecode import give, kept

REPOSITORY = "Tests/Tiny-0.5B"
COMMIT = commit_id("pinned")
PINNED = f"{REPOSITORY}@{COMMIT}"
SHARDS = tuple(f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3))
#: Where guests have models.
MODELS = "/srv/models"


@pytest.fixture(scope="module")
def files() -> Mapping[str, bytes]:
    return causal_lm("qwen2", shards=3)


@pytest.fixture
def hub(rental: Rental, files: Mapping[str, bytes]) -> Iterator[Hub]:
    with Hub({REPOSITORY: {COMMIT: files}}) as hub:
        cache = str(rental.folder / "hub-cache")
        rental.environment = {**rental.environment, "HF_ENDPOINT": hub.url, "HF_HOME": cache}
        yield hub


def run(rental: Rental, model: str, *arguments: str, meanwhile: Callable[[], None] = lambda: None) -> Ran:
    """A run of one row on this model."""
    rental.text = ROWS.replace('workload="mlp"', f'workload="lora", model={model!r}')
    rental.rows = [("tiny", "h100", 0.2)]
    return rental.spawn("-m", "h100 and qwen", *arguments, meanwhile=meanwhile)


def passed(ran: Ran, files: Mapping[str, bytes]) -> dict[str, Any]:
    """The observation of the one row, which passed, and trained this very model."""
    assert ran.code == 0, ran.output
    [row] = ran.report["rows"]
    observation: dict[str, Any] = row["observation"]
    assert (row["standIn"], {finding["finding"] for finding in row["findings"]}) == (False, {"held"})
    assert observation["material"]["baseSha256"] == digest_of(listed_content(files))
    return observation


@pytest.mark.parametrize("rental", ["runpod-rest"], indirect=True)
def test_a_stand_in_is_made_by_the_guest_and_no_hub_is_asked(rental: Rental, hub: Hub) -> None:
    ran = run(rental, PINNED, "--glasshouse-stand-in", "tiny")

    assert ran.code == 0, ran.output
    [row] = ran.report["rows"]
    material = row["observation"]["material"]
    assert (row["standIn"], row["observation"]["baseModel"]["source"], row["publishable"]) == (True, "made", False)
    assert (material["facts"]["standInShape"], material["facts"]["standInSeed"]) == ("tiny", stand_in.SEED)
    assert material["baseSha256"] == digest_of(listed_content(stand_in.make()))
    assert hub.requests == []


def downloads(hub: Hub, files: Mapping[str, bytes]) -> dict[str, int]:
    """How often each file of weights went out whole."""
    whole = Counter(request.file for request in hub.requests if request.sent_bytes == len(files.get(request.file or "", b"")))
    return {name: whole[name] for name in SHARDS}


@pytest.mark.parametrize("rental", ["vastai", "runpod-rest-torch"], indirect=True)
def test_a_rented_guest_trains_the_model_that_the_hub_serves(
    rental: Rental, hub: Hub, files: Mapping[str, bytes], kept_bytecode: Path
) -> None:
    """A guest with torch finds the libraries compiled: it gets no model before that is there."""
    tap = Tap()

    def give_byte_code() -> None:
        until(lambda: tap.waited.is_set() or rental.over.is_set(), "a guest that downloads")
        for one in rental.server.cloud.billing() if not rental.numpy else ():
            if one.pod is not None:
                give(one.pod.root / "agent" / "bytecode", kept(kept_bytecode, "lora"))
        tap.open()

    hub.arm(Drip(tap=tap), on="large", file=SHARDS[0], method="GET", skip=2)
    observation = passed(run(rental, PINNED, meanwhile=give_byte_code), files)
    assert not hub.unmet()

    assert observation["material"]["facts"]["revision"] == COMMIT
    assert observation["baseModel"]["source"] == "hub"
    assert downloads(hub, files) == dict.fromkeys(SHARDS, 1)
    assert {one.order.disk_gb for one in rental.server.cloud.rented.values()} == {DISK_GB + 1}


@pytest.mark.parametrize("rental", ["runpod-rest"], indirect=True)
def test_a_directory_of_this_machine_is_pushed(rental: Rental, hub: Hub, files: Mapping[str, bytes]) -> None:
    write(files, rental.folder / "models" / "mine")

    observation = passed(run(rental, "models/mine", "--glasshouse-model-source", "pushed"), files)

    assert observation["baseModel"]["source"] == "pushed"
    assert hub.requests == []


@pytest.mark.parametrize("rental", ["runpod-rest"], indirect=True)
def test_a_model_that_is_on_a_volume_of_the_guest_is_not_downloaded(
    rental: Rental, hub: Hub, files: Mapping[str, bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    volume = tmp_path_factory.mktemp("volume")
    write(files, volume / REPOSITORY)
    rental.server.cloud.network_volumes["vol_1"] = volume
    rental.environment = {**rental.environment, "GLASSHOUSE_RUNPOD_VOLUME": f"vol_1:{MODELS}"}

    observation = passed(run(rental, PINNED, "--glasshouse-guest-models", MODELS), files)

    assert observation["baseModel"]["source"] == "there"
    assert downloads(hub, files) == dict.fromkeys(SHARDS, 0)


@pytest.mark.parametrize("rental", ["runpod-rest"], indirect=True)
def test_a_byte_that_is_always_another_never_trains(rental: Rental, hub: Hub, files: Mapping[str, bytes]) -> None:
    hub.arm(Flipped(at=len(files[SHARDS[1]]) - 1), on="large", file=SHARDS[1], times=None)

    ran = run(rental, PINNED)

    assert ran.code == 14, ran.output
    assert f"the hub sent, twice, another {SHARDS[1]} than its metadata lists" in " ".join(ran.output.split())
    assert ran.report["rows"] == []


@pytest.mark.parametrize("rental", ["runpod-rest"], indirect=True)
def test_a_hub_that_is_busy_and_sends_one_byte_wrong_is_asked_again(rental: Rental, hub: Hub, files: Mapping[str, bytes]) -> None:
    hub.arm(Refused(status=503), on="large", file=SHARDS[0], skip=2, times=1)
    hub.arm(Flipped(at=len(files[SHARDS[1]]) - 1), on="large", file=SHARDS[1], skip=2, times=1)

    passed(run(rental, PINNED), files)

    assert not hub.unmet()
    assert downloads(hub, files) == {SHARDS[0]: 1, SHARDS[1]: 2, SHARDS[2]: 1}
