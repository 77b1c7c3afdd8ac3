"""A base model that fits is held in sealed memory files: the bytes that a leg loads are those that were verified."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_glasshouse.agent.memory_left import available_bytes
from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.guest.base_files import SealedBase, opened
from pytest_glasshouse.wire.host_messages import BasePlan
from tests.unit.agent.arriving_models import FILES, FIRST, MODEL, TOTAL, Guest

ENOUGH = 2 * TOTAL + (1 << 30)


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    made = Guest(tmp_path / "guest")
    made.agent._models.memory_left = lambda: ENOUGH
    yield made
    made.end()


def pushed(guest: Guest) -> BasePlan:
    guest.model("pushed")
    guest.push()
    assert guest.ended()["held"] == "memory"
    return guest.agent._models.plan(MODEL)


def test_a_model_that_fits_is_in_memory_and_no_longer_on_disk(
    guest: Guest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = pushed(guest)
    assert guest.below() == {}
    monkeypatch.chdir(tmp_path)
    with opened(plan, MODEL) as (directory, base):
        assert directory is not None
        assert base is not None
        assert {path.name: path.read_bytes() for path in directory.iterdir()} == FILES
        base.check()
    assert not directory.exists(), "the workspace of a leg is empty when it ends"


def test_nobody_can_write_what_was_verified(guest: Guest) -> None:
    descriptor = pushed(guest)["descriptors"][FIRST]
    with pytest.raises(PermissionError):
        os.pwrite(descriptor, b"evil", 0)
    with pytest.raises(PermissionError):
        os.ftruncate(descriptor, 0)


def test_a_directory_of_the_guest_is_copied_and_stays(guest: Guest, tmp_path: Path) -> None:
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    guest.model("there", directory=str(tmp_path))
    assert guest.ended()["held"] == "memory"
    assert {name: (tmp_path / name).read_bytes() for name in FILES} == FILES


def test_a_wrong_byte_is_pushed_once_more_and_then_not_held(guest: Guest) -> None:
    wrong = {**FILES, FIRST: b"x" + FILES[FIRST][1:]}
    guest.model("pushed")
    assert guest.push(wrong).count(FIRST) == 2
    state = guest.ended()
    assert (state["reason"], state["held"]) == ("differs", None)
    assert guest.arrival()._held == {}


def test_a_model_that_does_not_fit_stays_files(guest: Guest) -> None:
    guest.agent._models.memory_left = lambda: TOTAL
    guest.model("pushed")
    guest.push()
    assert guest.ended()["held"] == "files"
    assert "descriptors" not in guest.agent._models.plan(MODEL)


def test_a_leg_refuses_memory_that_is_not_sealed_and_another_model(guest: Guest) -> None:
    plan = pushed(guest)
    with pytest.raises(IntegrityError, match="not the one the manifest pins"), opened(plan, "0" * 64):
        raise AssertionError
    unsealed = os.memfd_create("weights", os.MFD_ALLOW_SEALING)
    try:
        with pytest.raises(IntegrityError, match="not in a sealed memory file"):
            SealedBase({**plan["descriptors"], FIRST: unsealed})
    finally:
        os.close(unsealed)
    with pytest.raises(IntegrityError, match="names of a base model's files"):
        SealedBase({"../config.json": plan["descriptors"]["config.json"]})


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 5 << 20),
        ({"memory.max": "max\n", "memory.current": "1\n"}, 5 << 20),
        ({"memory.max": "4194304\n", "memory.current": "1048576\n"}, 3 << 20),
        ({"memory/memory.limit_in_bytes": "2097152\n", "memory/memory.usage_in_bytes": "1048576\n"}, 1 << 20),
        ({"memory.max": "1\n", "memory.current": "2\n"}, 0),
    ],
)
def test_memory_left_is_the_machines_or_the_containers(files: dict[str, str], expected: int, tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9999 kB\nMemAvailable:    5120 kB\n")
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert available_bytes(proc=tmp_path, cgroup=tmp_path) == expected


def test_memory_left_is_none_where_the_machine_does_not_say(tmp_path: Path) -> None:
    assert available_bytes(proc=tmp_path, cgroup=tmp_path) == 0
