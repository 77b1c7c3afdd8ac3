"""Rows with each of the stand-in driver's settings, on `local` and on `mock`: all invariants hold, or one line names the cause.

The real pynvml asks the stand-in, in the host and in the guest, which find it where LD_LIBRARY_PATH leads. The legs' torch has the
GPUs that a test gives it (`cuda_guest.py`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.fake_nvml.driver import A4000, H100, SETTINGS, UUID, Driver
from tests.fake_nvml.host import Answer, StandInHost

INVARIANTS = 15
#: The finding that does not hold with a setting; every other invariant does, and with every other setting all do.
NOT_HELD = {
    "drift": "unseen: 2.0 MiB more of the GPU's memory are in use than before the leg",
    "lingers": "broken: GPU memory in use: 1073741824",
    "no-memory-no-list": "unseen: the GPU's memory was not observed: NVML gives no memory in use: Not Supported",
    "mismatch": "unseen: the GPU's memory was not observed: NVML does not start: RM has detected an NVML/RM version mismatch",
    "not-loaded": "unseen: the GPU's memory was not observed: NVML does not start: Driver Not Loaded",
    "none": "unseen: the GPU's memory was not observed: NVML shows no GPU that is torch's",
}
#: A row takes seconds. `test_nvml.py` and the like ask the same driver about every setting in the suite; here are those whose rows differ.
SOAK = bool(os.environ.get("SOAK"))
ON_LOCAL = [name for name in SETTINGS if name != "two"] if SOAK else ["lost", "drift", "no-memory-no-list"]
ON_MOCK = ON_LOCAL if SOAK else ["no-list"]
IN_TURNS = ["no-list", "old-reasons", "list-missing"] if SOAK else ["list-missing"]
VISIBLE = [("1", 1), ("0", 0), ("1,0", 1), (None, 0)] if SOAK else [("1", 1)]
HIDDEN = ["torch build", "visibility"] if SOAK else ["torch build"]


@pytest.fixture(scope="module")
def host(nvml_library: Path, kept_bytecode: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandInHost]:
    host = StandInHost(Driver(nvml_library, tmp_path_factory.mktemp("driver")), bytecode=kept_bytecode.parent)
    yield host
    host.close()


def gpus_of(setting: str) -> list[str]:
    """torch's GPUs, as many as the driver has; one where NVML shows none."""
    return [H100] * max(1, int(str(SETTINGS[setting].get("count", 1))))


def check(setting: str, answer: Answer) -> None:
    assert (answer.refused, answer.ended, answer.device) == ("", "", "cuda")
    expected = NOT_HELD.get(setting)
    assert answer.not_held.keys() == ({"runtime zeroized"} if expected else set())
    assert answer.not_held.get("runtime zeroized", "").startswith(expected or "")
    assert answer.held == INVARIANTS - (expected is not None)


@pytest.mark.parametrize("setting", ON_LOCAL)
def test_row_on_this_machines_gpu_holds_or_names_the_cause(setting: str, host: StandInHost) -> None:
    answer = host.run("local", settings=SETTINGS[setting], gpus=gpus_of(setting))
    check(setting, answer)
    assert (answer.gpu_model, answer.gpu_uuid, answer.dry_run) == (H100, UUID.format(0), False)


@pytest.mark.parametrize("setting", ON_MOCK)
def test_dry_run_uses_the_gpu_too(setting: str, host: StandInHost) -> None:
    answer = host.run("mock", settings=SETTINGS[setting], gpus=gpus_of(setting))
    check(setting, answer)
    assert (answer.gpu_model, answer.dry_run) == (H100, True)


@pytest.mark.parametrize(("visible", "index"), VISIBLE)
def test_report_names_the_gpu_that_the_legs_trained_on(visible: str | None, index: int, host: StandInHost) -> None:
    """Numbers are those of nvidia-smi, although CUDA itself would number the faster GPU first."""
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    settings = {**SETTINGS["two"], "legs_on": index}
    answer = host.run("local", settings=settings, gpus=[A4000, H100], environ=environ)
    assert (answer.not_held, answer.refused) == ({}, "")
    assert (answer.gpu_model, answer.gpu_uuid) == ((A4000, H100)[index], UUID.format(index))
    assert answer.trained_on == [answer.gpu_model]
    assert answer.gpu["of"] == "process", "the memory that was seen is that of the same GPU"


def test_leg_that_trained_on_another_gpu_than_the_report_names_is_found(host: StandInHost) -> None:
    other = [A4000, UUID.format(0).removeprefix("GPU-")]
    answer = host.run(
        "local", settings=SETTINGS["two"], gpus=[A4000, H100], environ={"CUDA_VISIBLE_DEVICES": "1"}, trained_on=other
    )
    assert answer.not_held == {
        "same allocation": "broken: the protected leg trained on another device than the one the report names"
    }


@pytest.mark.parametrize("setting", IN_TURNS)
def test_legs_that_take_turns_hold_and_say_why_a_covariate_is_missing(setting: str, host: StandInHost) -> None:
    answer = host.run("local", settings=SETTINGS[setting], gpus=[H100], order="interleaved", target_s=0.5)
    assert (answer.not_held, answer.held) == ({}, INVARIANTS + 1)
    missing = {"old-reasons": {"energy_mj"}, "list-missing": {"other_processes"}}.get(setting, set())
    assert answer.reasons.keys() == missing


def test_row_of_another_gpu_is_a_dry_run_on_this_machines(host: StandInHost) -> None:
    answer = host.run("local", settings={}, gpus=[H100], gpu="a4000")
    assert (answer.refused, answer.not_held, answer.gpu_model, answer.dry_run) == ("", {}, H100, True)


def test_ranks_of_a_leg_train_on_a_gpu_each(host: StandInHost) -> None:
    """Each sees its own only: the memory that this driver shows on the first one's is none of the other's."""
    settings = {"count": 2, "name0": H100, "name1": H100, "legs_on": 0}
    answer = host.run("local", settings=settings, gpus=[H100, H100], ranks=2)
    assert (answer.refused, answer.ended) == ("", "")
    assert answer.not_held == {
        "runtime zeroized": "unseen: rank 1: the GPU's memory was not observed: none was in use while the leg trained"
    }


def test_row_of_more_gpus_than_the_machine_has_is_refused(host: StandInHost) -> None:
    for provider in ("local", "mock"):
        refused = host.run(provider, settings={}, gpus=[H100], ranks=2).refused
        assert "field gpus: expected at most the 1 of this machine; saw 2. Nothing was started" in refused


#: What keeps torch from the GPU that the driver shows, and what is said of it.
AT_FAULT: Mapping[str, tuple[dict[str, Any], str]] = {
    "torch build": ({"built_for": None}, "torch 0+cu130 is built without CUDA; install a build for CUDA"),
    "visibility": (
        {"environ": {"CUDA_VISIBLE_DEVICES": "7"}},
        "CUDA_VISIBLE_DEVICES='7' leaves torch none of the 1 GPUs that NVML shows",
    ),
    "no GPU visible": ({"environ": {"CUDA_VISIBLE_DEVICES": ""}}, "CUDA_VISIBLE_DEVICES='' leaves torch none of the 1 GPUs"),
    "driver": (
        {"error": "The NVIDIA driver on your system is too old (found version 12020)"},
        "torch 0+cu130 for CUDA 13.0 cannot use the GPU: The NVIDIA driver on your system is too old",
    ),
}


@pytest.mark.parametrize("fault", AT_FAULT)
def test_what_keeps_torch_from_the_gpu_is_named_in_one_line(fault: str, host: StandInHost) -> None:
    wanted, said = AT_FAULT[fault]
    refused = host.run("local", settings={}, gpus=[H100], **wanted).refused
    assert refused.startswith(f"provider local: expected an NVIDIA GPU that torch can train on; {said}")
    assert "\n" not in refused


@pytest.mark.parametrize("fault", HIDDEN)
def test_dry_run_falls_back_to_the_cpu_and_says_so(fault: str, host: StandInHost) -> None:
    wanted, said = AT_FAULT[fault]
    answer = host.run("mock", settings={}, gpus=[H100], **wanted, trained_on=["cpu", ""])
    assert (answer.refused, answer.ended, answer.not_held, answer.held) == ("", "", {}, INVARIANTS)
    assert (answer.device, answer.gpu_uuid, answer.gpu_model[:5]) == ("cpu", None, "CPU (")
    assert len(answer.why_cpu) == 1
    assert answer.why_cpu[0].startswith(said)
    assert answer.gpu["reason"] == answer.why_cpu[0]


@pytest.mark.parametrize("setting", ["mismatch", "not-loaded"])
def test_driver_that_does_not_start_is_named_where_torch_cannot_train_either(setting: str, host: StandInHost) -> None:
    refused = host.run("local", settings=SETTINGS[setting], gpus=[H100], error="CUDA unknown error").refused
    assert "NVML does not start: " in refused
    assert "the driver is not loaded or was updated (restart), or this container was given no GPU (CUDA unknown error)" in refused


@pytest.mark.torch
def test_doctor_says_what_rows_will_train_on_and_what_nvml_does_not_tell(host: StandInHost) -> None:
    """It asks this machine's own torch, which is built without CUDA or finds no GPU behind the stand-in driver."""
    lines = host.doctor("local", settings={})
    (gpu,) = (line for line in lines if " GPU: " in line)
    assert gpu.startswith("FAIL  GPU: ")
    assert "torch" in gpu or "libcuda" in gpu
    assert any(line.startswith("ok    training: a guest imports torch, transformers, peft") for line in lines)
    (gpu,) = (line for line in host.doctor("mock", settings={}) if " GPU: " in line)
    assert gpu.startswith("warn  GPU: rows train on the CPU: ")
