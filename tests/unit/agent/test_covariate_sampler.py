"""What cannot be read is null and has a reason; the rest is the machine's own value."""

from __future__ import annotations

import os
from pathlib import Path

from pytest_glasshouse.agent.covariate_sampler import FIELDS, Sampler
from pytest_glasshouse.guest.nvml import Gpu, Nvml
from tests.fake_nvml.driver import SETTINGS, Driver, running_leg


def _proc(folder: Path, *stats: str) -> Path:
    (folder / "loadavg").write_text("1.25 0.9 0.5 1/99 4242\n")
    (folder / "stat").write_text(f"cpu  {stats[0]}\ncpu0 0 0 0 0 0 0 0 0 0 0\n")
    return folder


def _process(folder: Path, pid: int, parent: int) -> None:
    (folder / str(pid)).mkdir()
    fields = ["S", str(parent), str(pid), str(pid), *["0"] * 40]
    (folder / str(pid) / "stat").write_text(f"{pid} (leg (1)) {' '.join(fields)}\n")


def _gpu(driver: Driver) -> Gpu:
    return Nvml(driver.pynvml).gpus()[0]


def _by_field(sampler: Sampler) -> dict[str, int | None]:
    return dict(zip(FIELDS, sampler.sample(), strict=True))


def test_every_value_the_driver_shows_is_recorded_by_field(tmp_path: Path, driver: Driver) -> None:
    _proc(tmp_path, "100 0 100 800 0 0 0 0 0 0")
    with running_leg() as own, running_leg() as other:
        for pid, parent in ((10, 1), (11, 10), (own, 11), (other, 1)):
            _process(tmp_path, pid, parent)
        sampler = Sampler(agent=10, gpu=_gpu(driver), proc=tmp_path, clock_ns=lambda: 7)
        first = _by_field(sampler)
        assert (first["busy_milli"], first["steal_milli"]) == (None, None)
        _proc(tmp_path, "140 0 110 840 0 0 0 10 0 0")
        assert _by_field(sampler) == {
            "t_ns": 7, "sm_mhz": 1980, "memory_mhz": 2619, "temperature_c": 51, "power_mw": 350_000, "energy_mj": 10**6,
            "throttle_reasons": 4, "other_processes": 1, "load_milli": 1250, "busy_milli": 500, "steal_milli": 100,
        }  # fmt: skip
        assert sampler.reasons == {}


def test_hidden_values_are_null_with_a_reason_and_the_rest_is_by_field(tmp_path: Path, driver: Driver) -> None:
    driver.set(power="not-supported", event_reasons="not-there", throttle_reasons="no-permission", processes="not-there")
    sampler = Sampler(agent=10, gpu=_gpu(driver), proc=tmp_path)
    sample = _by_field(sampler)
    null = {field for field, value in sample.items() if value is None}
    assert null == {"power_mw", "throttle_reasons", "other_processes", "load_milli", "busy_milli", "steal_milli"}
    assert sampler.reasons.keys() == null
    assert sampler.reasons["power_mw"] == "NVML gives no power: Not Supported"
    assert sample["sm_mhz"] == 1980


def test_older_name_of_throttling_is_used_where_the_newer_is_missing(tmp_path: Path, driver: Driver) -> None:
    driver.set(**SETTINGS["old-reasons"])
    assert _by_field(Sampler(agent=10, gpu=_gpu(driver), proc=tmp_path))["throttle_reasons"] == 4


def test_processes_of_another_namespace_are_not_counted_as_others(tmp_path: Path, driver: Driver) -> None:
    """In a container the driver names the host's process ids: the agent's own legs would count as other processes."""
    driver.set(listed="host")
    _process(tmp_path, 10, 1)
    sampler = Sampler(agent=10, gpu=_gpu(driver), proc=tmp_path)
    with running_leg():
        assert _by_field(sampler)["other_processes"] is None
    assert "another process namespace" in sampler.reasons["other_processes"]


def test_machine_without_a_gpu_gives_a_reason_for_every_gpu_field() -> None:
    sampler = Sampler(agent=os.getpid(), no_gpu="torch is built without CUDA")
    sample = _by_field(sampler)
    assert {field for field, value in sample.items() if value is None} >= set(FIELDS[1:8])
    assert sampler.reasons == dict.fromkeys(FIELDS[1:8], "torch is built without CUDA")
    assert sample["load_milli"] is not None
