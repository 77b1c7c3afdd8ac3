"""A stand-in's random weights are made on the guest, in a process of its own, and verified like everything else."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from pytest_glasshouse.agent import agent as agent_module
from pytest_glasshouse.agent import model_making
from pytest_glasshouse.guest.nvml import Reading
from pytest_glasshouse.legs.base_model import bring
from pytest_glasshouse.legs.leg_watch import Progress
from pytest_glasshouse.legs.model_sources import ModelSources
from pytest_glasshouse.workloads import stand_in
from pytest_glasshouse.workloads.model_files import digest_of, listed_content
from tests.limits import until
from tests.unit.agent.arriving_models import Guest, digests
from tests.unit.legs.model_row import ServedAgent, first_round

MADE = dict(stand_in.make())
MODEL = digest_of(listed_content(MADE))
SMALL = {name for name in MADE if not name.endswith(".safetensors")}


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    made = Guest(tmp_path / "guest")
    yield made
    made.end()


def ask(guest: Guest, shape: str = "tiny") -> list[str]:
    """Ask for the tiny one, and push what is wanted: the names of that."""
    assert guest.model("made", MADE, shape=shape) == {}
    return guest.push(MADE, model=MODEL)


def failed(guest: Guest) -> tuple[str, str]:
    state = guest.ended(MODEL)
    assert state["phase"] == "failed", state
    assert guest.below() == {}, "nothing is left on the guest's disk"
    return state["reason"], state["detail"]


def test_the_guest_makes_the_weights_and_gets_the_rest(guest: Guest) -> None:
    assert set(ask(guest)) == SMALL
    state = guest.ended(MODEL)
    assert (state["phase"], state["source"], state["done"]) == ("ready", "made", state["total"])
    assert guest.below() == digests({f"{MODEL[:16]}/{name}": content for name, content in MADE.items()})


def test_a_host_brings_it_and_records_that_it_was_made(guest: Guest) -> None:
    told: list[Progress] = []
    base = stand_in.base("org/model", None, in_guest=True)
    with ServedAgent(guest.agent) as served:
        current = first_round(served.address, base, told)
        arrival, ended = bring(current, ModelSources(only="hub"))
        current.channel.close()
    assert ended is None
    assert arrival is not None
    assert {**arrival, "ms": 0} == {"source": "made", "held": "files", "files": 4, "bytes": sum(map(len, MADE.values())), "ms": 0}


def test_a_guest_is_not_sent_weights_that_it_has_to_make(guest: Guest) -> None:
    """A guest that lies asks for them: the host has none."""
    base = stand_in.base("org/model", None, in_guest=True)
    files = listed_content(MADE)
    guest.model("made", MADE, shape="tiny")
    arrival = guest.arrival(MODEL)
    until(lambda: arrival.state()["wants"], "a piece to be wanted")
    arrival._wants = ("model.safetensors", 0)
    with ServedAgent(guest.agent) as served:
        current = first_round(served.address, base)
        found, ended = bring(current, ModelSources())
        current.channel.close()
    assert found is None
    assert ended is not None
    assert "expected a file of the model; saw model.safetensors at 0" in ended.reason
    assert {file.name for file in files} - SMALL == {"model.safetensors"}


def test_other_weights_than_the_host_lists_are_refused(guest: Guest) -> None:
    assert set(ask(guest, shape="0.5b")) == SMALL
    reason, detail = failed(guest)
    assert (reason, detail) == ("differs", "the guest made another model.safetensors than the host lists")


def test_a_shape_that_the_guest_does_not_know_is_refused(guest: Guest) -> None:
    ask(guest, shape="13b")
    assert failed(guest) == ("failed", "ConfigurationError")


@pytest.mark.parametrize("what", ["device", "disk"])
def test_a_guest_without_the_room_says_what_it_lacks(what: str, guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    total = sum(map(len, MADE.values()))
    if what == "device":
        guest.agent._models.device_memory = lambda: total - 1
    else:
        monkeypatch.setattr(os, "statvfs", lambda _path: SimpleNamespace(f_bavail=1, f_frsize=total - 1))
    assert guest.model("made", MADE, shape="tiny") == {}
    reason, detail = failed(guest)
    expected = {"device": ("no-memory", "the guest's device has 0 MiB of memory left; the model needs 0")}
    expected["disk"] = ("no-space", "the guest has 0 MiB of disk left; the model needs 0")
    assert (reason, detail) == expected[what]


def test_memory_of_a_gpu_counts_where_legs_train_on_one(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent asks NVML for the GPU that torch has; without one, this machine's memory is what there is."""
    monkeypatch.setattr(agent_module, "available_bytes", lambda: 5)
    assert guest.agent._device_memory() == 5
    monkeypatch.setattr(agent_module, "Gpu", lambda _nvml, _index: SimpleNamespace(memory_bytes=lambda: Reading(value=7)))
    monkeypatch.setattr(guest.agent, "_found", SimpleNamespace(result=lambda: SimpleNamespace(nvml_index=1)))
    assert guest.agent._device_memory() == 7


def test_a_process_that_is_killed_is_a_failure(guest: Guest) -> None:
    """The 0.5b shape, so that there is time."""
    base = stand_in.base("org/model", None, stand_in.SHAPES["0.5b"], in_guest=True)
    files = [{"name": one.name, "size": one.size, "sha256": one.sha256} for one in base.files]
    guest.ask("model", model=base.sha256, files=files, source="made", shape="0.5b", idle_s=60, within_s=600)
    assert set(guest.push(base.content, model=base.sha256, piece=1 << 20, most=len(base.content))) == set(base.content)
    arrival = guest.arrival(base.sha256)
    until(lambda: arrival._process, "the making to begin")
    assert arrival._process is not None
    os.kill(arrival._process._process.pid, signal.SIGKILL)
    state = guest.ended(base.sha256)
    assert (state["phase"], state["reason"]) == ("failed", "failed")
    assert "the generation ended with status -9 and without a result" in state["detail"]
    assert guest.below() == {}


def test_files_are_written_as_they_are_made(tmp_path: Path) -> None:
    [file] = stand_in.weight_files(stand_in.TINY)
    model_making.write(file, tmp_path)
    assert (tmp_path / file.name).read_bytes() == MADE[file.name]
    order: model_making.MakingOrder = {"shape": "tiny", "directory": str(tmp_path), "files": []}
    assert list(model_making._jobs(order)) == []
