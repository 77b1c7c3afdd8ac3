"""Samples covariates while legs train: clocks, temperature, power and throttling of the GPU, and processor load.

Once a second in a process of its own, so that its cost is in no leg's time. What cannot be read is null, with one reason
per field. The host judges the values.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.agent.cpu_time import process_tree, processes
from pytest_glasshouse.guest.clock import now_ns
from pytest_glasshouse.guest.launcher import die_with_parent
from pytest_glasshouse.wire.canonical import canonical, parse_object
from pytest_glasshouse.wire.guest_messages import COVARIATES, DETAIL, MOST_SAMPLES
from pytest_glasshouse.wire.printable import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_glasshouse.wire.canonical import Json

PERIOD_S = 1.0
#: What one sample holds, in this order.
FIELDS = COVARIATES
_GPU = FIELDS[1:8]
_HOST = FIELDS[8:]
#: Columns of the first line of /proc/stat, after its name.
_IDLE, _IOWAIT, _STEAL = 3, 4, 7


class Sampler:
    """Takes samples. `agent` is the process whose descendants the legs are; `nvml` is pynvml or a fake."""

    def __init__(
        self,
        *,
        agent: int,
        nvml: Any = None,
        proc: Path = Path("/proc"),
        clock_ns: Callable[[], int] = now_ns,
    ) -> None:
        self._agent = agent
        self._proc = proc
        self._clock_ns = clock_ns
        self._ticks: list[int] = []
        #: By field, the reason why it is null.
        self.reasons: dict[str, str] = {}
        self._nvml, self._device = self._open(nvml)

    def _open(self, nvml: Any) -> tuple[Any, Any]:
        if nvml is None:
            import pynvml

            nvml = pynvml
        try:
            nvml.nvmlInit()
            return nvml, nvml.nvmlDeviceGetHandleByIndex(0)
        except nvml.NVMLError:
            self.reasons.update(dict.fromkeys(_GPU, "no NVIDIA driver on this machine"))
            return nvml, None

    def sample(self) -> list[int | None]:
        """One sample, in the order of `FIELDS`."""
        return [self._clock_ns(), *self._gpu(), *self._host()]

    def _gpu(self) -> list[int | None]:
        nvml, device = self._nvml, self._device
        if device is None:
            return [None] * len(_GPU)
        reasons = getattr(nvml, "nvmlDeviceGetCurrentClocksEventReasons", None) or nvml.nvmlDeviceGetCurrentClocksThrottleReasons
        readers: dict[str, Callable[[], Any]] = {
            "sm_mhz": lambda: nvml.nvmlDeviceGetClockInfo(device, nvml.NVML_CLOCK_SM),
            "memory_mhz": lambda: nvml.nvmlDeviceGetClockInfo(device, nvml.NVML_CLOCK_MEM),
            "temperature_c": lambda: nvml.nvmlDeviceGetTemperature(device, nvml.NVML_TEMPERATURE_GPU),
            "power_mw": lambda: nvml.nvmlDeviceGetPowerUsage(device),
            "energy_mj": lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(device),
            "throttle_reasons": lambda: reasons(device),
        }
        return [*(self._value(name, read) for name, read in readers.items()), self._others()]

    def _others(self) -> int | None:
        """Processes on the GPU that are not the agent's; null where the driver lists processes that cannot be seen here."""
        try:
            pids = {int(each.pid) for each in self._nvml.nvmlDeviceGetComputeRunningProcesses(self._device)}
        except self._nvml.NVMLError as error:
            self.reasons["other_processes"] = _unavailable(error)
            return None
        running = processes(self._proc)
        if pids and pids.isdisjoint(running):
            self.reasons["other_processes"] = "the driver names processes of another process namespace"
            return None
        return len(pids - process_tree(self._agent, running))

    def _value(self, name: str, read: Callable[[], Any]) -> int | None:
        try:
            return int(read())
        except self._nvml.NVMLError as error:
            self.reasons[name] = _unavailable(error)
            return None

    def _host(self) -> list[int | None]:
        try:
            load = round(float((self._proc / "loadavg").read_text(encoding="ascii").split()[0]) * 1000)
            line = (self._proc / "stat").read_text(encoding="ascii").partition("\n")[0]
            ticks = [int(field) for field in line.split()[1:]]
        except (OSError, ValueError, IndexError):
            self.reasons.update(dict.fromkeys(_HOST, "/proc cannot be read"))
            return [None] * len(_HOST)
        before, self._ticks = self._ticks, ticks
        passed = [now - then for now, then in zip(ticks, before, strict=False)]
        total = sum(passed[: _STEAL + 1])
        if not total:
            # The first sample has no predecessor to be compared with.
            return [load, None, None]
        busy = total - passed[_IDLE] - passed[_IOWAIT] - passed[_STEAL]
        return [load, round(1000 * busy / total), round(1000 * passed[_STEAL] / total)]


def _unavailable(error: object) -> str:
    return printable(f"NVML returned an error: {error}", limit=DETAIL)


def serve_samples() -> int:
    """The sampling process: one line on standard output every second, until the pipe breaks or the agent's thread ends."""
    die_with_parent()
    sampler = Sampler(agent=os.getppid())
    while True:
        line: dict[str, Json] = {"sample": [*sampler.sample()], "reasons": {**sampler.reasons}}
        try:
            os.write(1, canonical(line) + b"\n")
        except OSError:
            return 0
        time.sleep(PERIOD_S)


class SamplerProcess(threading.Thread):
    """The agent's side: starts the sampling process on the first `begin`, and holds its samples."""

    def __init__(self, *, archive_fd: int, site_packages: Sequence[str]) -> None:
        super().__init__(name="covariates", daemon=True)
        self._archive_fd = archive_fd
        self._site_packages = site_packages
        self._lock = threading.Lock()
        self._samples: list[list[Json]] = []
        self._reasons: dict[str, Json] = {}
        self._process: subprocess.Popen[bytes] | None = None

    def begin(self) -> None:
        """Start sampling, once."""
        with self._lock:
            if not self.is_alive():
                self.start()

    def run(self) -> None:
        """The thread's body: the process dies with it."""
        command = [sys.executable, "-I", "-S", "-B", "-X", "utf8", f"/proc/self/fd/{self._archive_fd}", "covariates"]
        for directory in self._site_packages:
            command += ["--site-packages", directory]
        self._process = subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, pass_fds=(self._archive_fd,)
        )
        if self._process.stdout is None:
            return
        for line in self._process.stdout:
            received = parse_object(line)
            sample, reasons = received["sample"], received["reasons"]
            if isinstance(sample, list) and isinstance(reasons, dict):
                with self._lock:
                    self._samples.append(sample)
                    del self._samples[:-MOST_SAMPLES]
                    self._reasons = reasons

    def since(self, t_ns: int) -> dict[str, Json]:
        """Samples from `t_ns` on, with the names of their columns and the reasons for nulls."""
        with self._lock:
            samples: list[Json] = [[*sample] for sample in self._samples if isinstance(sample[0], int) and sample[0] >= t_ns]
            return {"fields": [*FIELDS], "samples": samples, "reasons": {**self._reasons}}

    def end(self) -> None:
        """Stop sampling."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
