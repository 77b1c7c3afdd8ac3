"""The one place where NVML is called: every reading stands alone, as a value or as the reason why there is none.

A call may not be supported, not be permitted, be missing in the driver's library, or fail because a GPU is lost; pynvml then
raises an `NVMLError`, and `NVMLLibraryMismatchError`, which is none. No error leaves this module. What to do without one is
not known here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pytest_glasshouse.wire.foreign_text import foreign_text

if TYPE_CHECKING:
    from collections.abc import Callable

ValueT = TypeVar("ValueT")

NO_DRIVER = "no NVIDIA driver on this machine"
#: pynvml's error where there is no libnvidia-ml.so.1.
_NOT_FOUND = "NVMLError_LibraryNotFound"
_REASON = 300
_MODEL = 96
_UUID = re.compile(r"[A-Za-z0-9/-]{8,64}")
_VERSION = re.compile(r"[0-9][0-9A-Za-z.+~_-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class Reading(Generic[ValueT]):
    """A value, or None and one line with the reason."""

    value: ValueT | None = None
    reason: str = ""


class Nvml:
    """NVML, initialised once and kept open. `library` is pynvml, or another module like it."""

    def __init__(self, library: Any = None) -> None:
        if library is None:
            import pynvml

            library = pynvml
        self._library = library
        #: Why NVML answers nothing at all; empty where it does.
        self.reason = ""
        try:
            library.nvmlInit()
        except Exception as error:  # noqa: BLE001  (as in `reading`)
            text = foreign_text(error, limit=_REASON)
            self.reason = NO_DRIVER if type(error).__name__ == _NOT_FOUND else f"NVML does not start: {text}"

    def close(self) -> None:
        """Give up what initialising took. The object must not be used after it."""
        if not self.reason:
            self.reading("nvmlShutdown", lambda nvml: nvml.nvmlShutdown() or True)

    def driver(self) -> Reading[str]:
        """The driver's version."""
        return self.reading("the driver's version", lambda nvml: _matching(_VERSION, nvml.nvmlSystemGetDriverVersion()))

    def gpus(self) -> tuple[Gpu, ...]:
        """Every GPU that NVML counts, those too that it cannot open."""
        if self.reason:
            return ()
        count = self.reading("the number of GPUs", lambda nvml: int(nvml.nvmlDeviceGetCount()))
        return tuple(Gpu(self, index) for index in range(count.value or 0))

    def reading(self, what: str, read: Callable[[Any], ValueT]) -> Reading[ValueT]:
        """`read(pynvml)`, or the reason why that failed."""
        if self.reason:
            return Reading(reason=self.reason)
        try:
            return Reading(value=read(self._library))
        except Exception as error:  # noqa: BLE001  (pynvml's own, those of ctypes, and an answer of another form)
            return Reading(reason=foreign_text(f"NVML gives no {what}: {error}", limit=_REASON))


class Gpu:
    """One GPU, by its index in NVML: the order of the PCI bus, which nvidia-smi shows."""

    def __init__(self, nvml: Nvml, index: int) -> None:
        self.index = index
        self._nvml = nvml
        self._handle = nvml.reading(f"handle of GPU {index}", lambda library: library.nvmlDeviceGetHandleByIndex(index))

    def reading(self, what: str, read: Callable[[Any, Any], ValueT]) -> Reading[ValueT]:
        """`read(pynvml, handle)`, or the reason why that failed."""
        if self._handle.reason:
            return Reading(reason=self._handle.reason)
        return self._nvml.reading(what, lambda library: read(library, self._handle.value))

    def model(self) -> Reading[str]:
        """Its name, such as `NVIDIA H100 80GB HBM3`."""
        return self.reading(
            "name of the GPU", lambda nvml, handle: foreign_text(_text(nvml.nvmlDeviceGetName(handle)), limit=_MODEL)
        )

    def uuid(self) -> Reading[str]:
        """Its UUID, `GPU-` and 32 hexadecimal digits with hyphens."""
        return self.reading("UUID of the GPU", lambda nvml, handle: _matching(_UUID, nvml.nvmlDeviceGetUUID(handle)))

    def memory_bytes(self) -> Reading[int]:
        """How much memory it has."""
        return self.reading("memory of the GPU", lambda nvml, handle: int(nvml.nvmlDeviceGetMemoryInfo(handle).total))

    def memory_in_use(self) -> Reading[int]:
        """Bytes of its memory that are in use, by whomever."""
        return self.reading("memory in use", lambda nvml, handle: int(nvml.nvmlDeviceGetMemoryInfo(handle).used))

    def memory_by_process(self) -> Reading[dict[int, int]]:
        """Bytes that each process on it has; 0 where the driver names a process and not its memory.

        In a container the driver often names none, or those of the host's process ids.
        """
        return self.reading(
            "processes on the GPU",
            lambda nvml, handle: {
                int(each.pid): int(each.usedGpuMemory or 0) for each in nvml.nvmlDeviceGetComputeRunningProcesses(handle)
            },
        )

    def sm_mhz(self) -> Reading[int]:
        """Clock of its multiprocessors."""
        return self.reading("clock", lambda nvml, handle: int(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)))

    def memory_mhz(self) -> Reading[int]:
        """Clock of its memory."""
        return self.reading("memory clock", lambda nvml, handle: int(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM)))

    def temperature_c(self) -> Reading[int]:
        """Temperature of its die."""
        return self.reading(
            "temperature", lambda nvml, handle: int(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))
        )

    def power_mw(self) -> Reading[int]:
        """What it draws now."""
        return self.reading("power", lambda nvml, handle: int(nvml.nvmlDeviceGetPowerUsage(handle)))

    def energy_mj(self) -> Reading[int]:
        """What it drew since the driver was loaded."""
        return self.reading("energy", lambda nvml, handle: int(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)))

    def throttle_reasons(self) -> Reading[int]:
        """Why its clocks are lower than they could be, a bit each. Drivers before 535 know the older of the two names only."""
        newer = self.reading("throttling", lambda nvml, handle: int(nvml.nvmlDeviceGetCurrentClocksEventReasons(handle)))
        if newer.value is not None:
            return newer
        older = self.reading("throttling", lambda nvml, handle: int(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)))
        return newer if older.value is None else older

    def attestation(self, nonce32: bytes) -> Reading[tuple[bytes, bytes]]:
        """Its SPDM measurements made for `nonce32`, and its certificate chain; only in confidential-computing mode."""
        return self.reading("attestation", lambda nvml, handle: _attestation(nvml, handle, nonce32))


def _attestation(nvml: Any, handle: Any, nonce32: bytes) -> tuple[bytes, bytes]:
    report = nvml.nvmlDeviceGetConfComputeGpuAttestationReport(handle, nonce32)
    chain = nvml.nvmlDeviceGetConfComputeGpuCertificate(handle)
    evidence = bytes(report.attestationReport[: report.attestationReportSize])
    return evidence, bytes(chain.attestationCertChain[: chain.attestationCertChainSize])


def _matching(pattern: re.Pattern[str], value: str | bytes) -> str:
    text = _text(value)
    if pattern.fullmatch(text) is None:
        raise ValueError(f"expected {pattern.pattern}, saw {text!r}")
    return text


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
