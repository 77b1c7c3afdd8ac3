"""The device that legs train on: torch decides, NVML names it, and what is at fault is said."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import pytest

from pytest_glasshouse.guest import machine
from pytest_glasshouse.guest.machine import Device, describe, find_device
from pytest_glasshouse.guest.nvml import NO_DRIVER, Nvml
from pytest_glasshouse.guest.torch_probe import ProbeFailedError, TorchAnswer, ask_torch, device_variables
from pytest_glasshouse.wire.guest_messages import GREETING
from tests.fake_nvml.cuda_guest import cuda_archive
from tests.fake_nvml.driver import A4000, H100, SETTINGS, UUID, Driver
from tests.numpy_guest.archive import numpy_archive_with
from tests.unit.channel.lying_agent import HELLO

BARE = [UUID.format(index).removeprefix("GPU-") for index in (0, 1)]
WORKS: TorchAnswer = {
    "torch": "2.13.0+cu130", "built_for": "13.0", "visible": 1, "name": H100, "uuid": BARE[0], "memory_bytes": 85 << 30,
    "driver_found": True, "error": "", "missing": [],
}  # fmt: skip
FAILS: dict[str, Any] = {"name": "", "uuid": "", "memory_bytes": 0}


def found(driver: Driver, environ: Mapping[str, str] | None = None, **torch: Any) -> Device:
    answer: Any = {**WORKS, **torch}
    return find_device(Nvml(driver.pynvml), lambda: answer, environ or {})


def test_gpu_is_the_one_that_torch_trains_on_whatever_its_place(driver: Driver) -> None:
    driver.set(**SETTINGS["two"])
    second = found(driver, uuid=BARE[1], name="torch's own name")
    assert (second.name, second.model, second.uuid, second.nvml_index, second.gpu_count) == ("cuda", H100, UUID.format(1), 1, 2)
    first = found(driver, uuid=BARE[0].upper())
    assert (first.model, first.uuid, first.nvml_index) == (A4000, UUID.format(0), 0)


def test_gpu_that_nvml_does_not_know_has_torchs_name_and_no_figures(driver: Driver) -> None:
    """Never another GPU's name: half of a divided GPU, or one that NVML has lost."""
    driver.set(**SETTINGS["two"])
    stranger = found(driver, uuid="11111111-2222-4333-8444-555555555555", name="MIG 1g.10gb")
    assert (stranger.model, stranger.nvml_index) == ("MIG 1g.10gb", None)
    assert stranger.uuid == "GPU-11111111-2222-4333-8444-555555555555"
    without = found(driver, uuid="", name=H100)
    assert (without.model, without.uuid, without.nvml_index) == (H100, None, None), "two GPUs, and torch tells no UUID"


def test_only_gpu_is_torchs_where_either_of_them_tells_no_uuid(driver: Driver) -> None:
    assert found(driver, uuid="").uuid == UUID.format(0)
    driver.set(uuid="no-permission", naming="not-supported", driver="not-there")
    only = found(driver)
    assert (only.model, only.uuid, only.driver, only.nvml_index) == (H100, UUID.format(0), None, 0)


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_setting_gives_a_description_that_may_be_sent(setting: str, driver: Driver) -> None:
    driver.set(**{**SETTINGS[setting], "init_ms": 0})
    for torch in (WORKS, {**WORKS, **FAILS, "error": "CUDA unknown error"}, {**WORKS, **FAILS, "built_for": ""}):
        device = found(driver, **torch)
        GREETING.check({**HELLO, **describe(device)}, "hello")
        assert (device.name == "cuda") == bool(torch["name"])
        assert bool(device.no_gpu) == (device.name == "cpu")


#: What torch answers and with which variables, and what is said of it.
CAUSES: list[tuple[dict[str, Any], dict[str, str], str]] = [
    ({"torch": "", "error": "libcudart.so.12: cannot open"}, {}, "torch cannot be imported (libcudart.so.12: cannot open)"),
    ({"built_for": ""}, {}, "torch 2.13.0+cu130 is built without CUDA; install a build for CUDA"),
    ({"visible": 0}, {"CUDA_VISIBLE_DEVICES": "-1"}, "CUDA_VISIBLE_DEVICES='-1' leaves torch none of the 1 GPUs that NVML shows"),
    ({"visible": 0}, {"CUDA_VISIBLE_DEVICES": ""}, "CUDA_VISIBLE_DEVICES='' leaves torch none of the 1 GPUs that NVML shows"),
    ({"driver_found": False, "visible": 0}, {}, "the loader finds no libcuda.so.1; name its folder in LD_LIBRARY_PATH"),
    (
        {"error": "driver too old (found version 12020)"},
        {},
        "for CUDA 13.0 cannot use the GPU: driver too old (found version 12020)",
    ),
    (
        {"error": "no kernel image is available"},
        {"CUDA_VISIBLE_DEVICES": "0"},
        "cannot use the GPU: no kernel image is available",
    ),
]


@pytest.mark.parametrize(("torch", "environ", "said"), CAUSES)
def test_what_keeps_torch_from_the_gpu_is_said(torch: dict[str, Any], environ: dict[str, str], said: str, driver: Driver) -> None:
    device = found(driver, environ, **{**FAILS, **torch})
    assert (device.name, device.uuid, device.nvml_index) == ("cpu", None, None)
    assert said in device.no_gpu
    assert device.no_gpu == device.why_cpu == describe(device)["deviceReason"]


def test_container_without_a_gpu_is_told_from_a_driver_that_is_not_loaded(driver: Driver) -> None:
    driver.set(count=0)
    assert "this container was given none" in found(driver, **FAILS, error="No CUDA GPUs are available", visible=0).no_gpu
    driver.set(init="not-loaded")
    assert "NVML does not start: Driver Not Loaded; the driver is not loaded" in found(driver, **FAILS, visible=0).no_gpu


class TalkativeLibrary:
    """In pynvml's place."""

    def nvmlInit(self) -> None:  # noqa: N802
        raise RuntimeError("y" * 400)


def test_words_of_torch_are_bounded_before_they_are_sent(driver: Driver) -> None:
    """Whatever a library says, the greeting stays one that the host takes."""
    talkative: Any = {**WORKS, **FAILS, "error": "x" * 300}
    device = find_device(Nvml(TalkativeLibrary()), lambda: talkative, {})
    assert len(device.why_cpu) > 400
    GREETING.check({**HELLO, **describe(device)}, "hello")
    driver.set(count=2)
    odd = found(driver, uuid="\N{SNOWMAN} no uuid; rm")
    assert (odd.uuid, odd.nvml_index) == (None, None)
    GREETING.check({**HELLO, **describe(odd)}, "hello")


def test_process_that_gives_no_answer_leaves_the_cpu_and_a_reason(driver: Driver) -> None:
    def ask() -> TorchAnswer:
        raise ProbeFailedError("a process that asks torch for its GPU ended with status -4")

    device = find_device(Nvml(driver.pynvml), ask, {})
    assert (device.name, device.why_cpu) == ("cpu", "a process that asks torch for its GPU ended with status -4")


@pytest.mark.skipif(Nvml().reason != NO_DRIVER or machine._CONTROL_NODE.exists(), reason="this machine has an NVIDIA driver")
def test_without_a_driver_nobody_is_asked_and_nothing_explained() -> None:
    """Importing torch takes seconds, and a laptop has no GPU to explain."""
    device = find_device(Nvml(), lambda: pytest.fail("torch was asked"), {})
    assert (device.name, device.no_gpu, device.why_cpu) == ("cpu", NO_DRIVER, "")
    assert "deviceReason" not in describe(device)


def ask(archive: bytes, **environ: str) -> TorchAnswer:
    descriptor = os.memfd_create("archive")
    with os.fdopen(descriptor, "wb") as file:
        file.write(archive)
        file.flush()
        return ask_torch(archive_fd=descriptor, site_packages=[], environ=environ)


def test_asked_process_sees_the_gpus_in_the_order_of_the_bus_and_those_left_visible() -> None:
    """CUDA numbers the fastest first, unless it is told otherwise."""
    archive = cuda_archive([A4000, H100])
    assert [ask(archive, **variables)["name"] for variables in ({}, {"CUDA_VISIBLE_DEVICES": "1"})] == [A4000, H100]
    assert ask(archive, CUDA_VISIBLE_DEVICES="1", CUDA_DEVICE_ORDER="FASTEST_FIRST")["uuid"] == BARE[1]
    answer = ask(archive, CUDA_VISIBLE_DEVICES="9")
    assert (answer["name"], answer["visible"], answer["error"]) == ("", 0, "No CUDA GPUs are available")
    assert any("cryptography" in each for each in answer["missing"]), "without folders there is no package to import"


def test_what_torch_raises_is_masked() -> None:
    answer = ask(cuda_archive(error="/opt/torch/Loss.cu:250: invalid device ordinal"))
    assert answer["error"] == "<path>:250: invalid device ordinal"


def test_process_that_ends_without_an_answer_is_told_by_its_last_line() -> None:
    with pytest.raises(ProbeFailedError, match="ended with status 1: no such role"):
        ask(numpy_archive_with({"__main__.py": b"import sys\nsys.exit('no such role')"}))


def test_only_variables_that_choose_and_find_the_gpu_are_passed_on() -> None:
    given = {
        "CUDA_VISIBLE_DEVICES": "1",
        "CUDA_DEVICE_ORDER": "FASTEST_FIRST",
        "LD_LIBRARY_PATH": "/d",
        "LD_PRELOAD": "x",
        "A": "b",
    }
    assert device_variables(given) == {"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID", "LD_LIBRARY_PATH": "/d"}
