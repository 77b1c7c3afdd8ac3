"""Each figure of NVML stands alone: one call that fails takes no other with it, and no error leaves."""

from __future__ import annotations

import pytest

from pytest_glasshouse.guest.nvml import NO_DRIVER, Gpu, Nvml, Reading
from tests.fake_nvml.driver import A4000, H100, SETTINGS, UNUSABLE, UUID, Driver, fresh_pynvml, running_leg

FIGURES = (
    "model", "uuid", "memory_bytes", "memory_in_use", "memory_by_process", "sm_mhz", "memory_mhz", "temperature_c", "power_mw", "energy_mj",
    "throttle_reasons",
)  # fmt: skip


def figures(gpu: Gpu) -> dict[str, Reading[object]]:
    return {name: getattr(gpu, name)() for name in FIGURES}


def missing(gpu: Gpu) -> set[str]:
    """The figures without a value; each of them has a reason, and no other."""
    found = figures(gpu)
    assert all((figure.value is None) == bool(figure.reason) for figure in found.values()), found
    return {name for name, figure in found.items() if figure.value is None}


#: What each setting takes away on the first GPU, and on the second.
TAKEN = {
    "no-memory": ({"memory_bytes", "memory_in_use"}, set()),
    "no-memory-no-list": ({"memory_bytes", "memory_in_use"}, set()),
    "list-missing": ({"memory_by_process"}, set()),
    "list-forbidden": ({"memory_by_process"}, set()),
    "list-unsupported": ({"memory_by_process"}, set()),
    "old-reasons": ({"energy_mj"}, set()),
    "no-names": ({"model", "uuid"}, set()),
    "lost": (set(), set(FIGURES)),
}  # type: dict[str, tuple[set[str], set[str]]]


@pytest.mark.parametrize("setting", [name for name in SETTINGS if name not in UNUSABLE])
def test_figure_that_cannot_be_read_has_a_reason_and_the_others_a_value(setting: str, driver: Driver) -> None:
    driver.set(**{**SETTINGS[setting], "init_ms": 0})
    nvml = Nvml(driver.pynvml)
    assert nvml.reason == ""
    taken = TAKEN.get(setting, (set(), set()))
    gpus = nvml.gpus()
    assert len(gpus) == SETTINGS[setting].get("count", 1)
    assert [missing(gpu) for gpu in gpus] == [*taken[: len(gpus)]]


def test_reason_says_what_was_asked_and_what_nvml_answered(driver: Driver) -> None:
    driver.set(processes="not-there", power="no-permission")
    found = figures(Nvml(driver.pynvml).gpus()[0])
    assert found["power_mw"].reason == "NVML gives no power: Insufficient Permissions"
    # pynvml raises an error of its own here, which is no NVMLError.
    assert "NVML gives no processes on the GPU: Unversioned function called" in found["memory_by_process"].reason


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("mismatch", "NVML does not start: RM has detected an NVML/RM version mismatch."),
        ("not-loaded", "NVML does not start: Driver Not Loaded"),
    ],
)
def test_nvml_that_does_not_start_says_why_and_shows_nothing(setting: str, reason: str, driver: Driver) -> None:
    driver.set(**SETTINGS[setting])
    nvml = Nvml(driver.pynvml)
    assert (nvml.reason, nvml.gpus(), nvml.driver().value) == (reason, (), None)
    nvml.close()


@pytest.mark.skipif(not Nvml().reason, reason="this machine has an NVIDIA driver, which pynvml finds")
def test_machine_without_the_library_has_no_driver() -> None:
    assert Nvml(fresh_pynvml()).reason == NO_DRIVER


def test_gpus_are_told_apart_by_name_uuid_and_memory(driver: Driver) -> None:
    driver.set(**SETTINGS["two"])
    first, second = Nvml(driver.pynvml).gpus()
    assert [gpu.model().value for gpu in (first, second)] == [A4000, H100]
    assert [gpu.uuid().value for gpu in (first, second)] == [UUID.format(0), UUID.format(1)]
    with running_leg() as pid:
        assert first.memory_by_process().value == {}
        assert second.memory_by_process().value == {pid: 1 << 30}


@pytest.mark.parametrize("answer", ["x" * 200, "GPU 1; drop", "\x1b[31mred", ""])
def test_uuid_of_another_form_is_none(answer: str, driver: Driver) -> None:
    """It goes into reports and command lines."""
    driver.set(uuid0=answer or " ")
    assert Nvml(driver.pynvml).gpus()[0].uuid().value is None


def test_name_is_one_printable_line(driver: Driver) -> None:
    driver.set(name0="\x1b[31mA100\x07" + "A" * 90)
    model = Nvml(driver.pynvml).gpus()[0].model().value
    assert model is not None
    assert model.isprintable()
    assert len(model) <= 128
