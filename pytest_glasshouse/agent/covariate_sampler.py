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
from typing import TYPE_CHECKING

from pytest_glasshouse.agent.cpu_time import process_tree, processes
from pytest_glasshouse.guest.clock import now_ns
from pytest_glasshouse.guest.launcher import die_with_parent
from pytest_glasshouse.guest.nvml import NO_DRIVER, Gpu, Nvml, Reading
from pytest_glasshouse.wire.canonical import canonical, parse_object
from pytest_glasshouse.wire.guest_messages import COVARIATES, MOST_SAMPLES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_glasshouse.guest.machine import Device
    from pytest_glasshouse.wire.canonical import Json

PERIOD_S = 1.0
#: What one sample holds, in this order.
FIELDS = COVARIATES
_GPU = FIELDS[1:8]
_HOST = FIELDS[8:]
#: Columns of the first line of /proc/stat, after its name.
_IDLE, _IOWAIT, _STEAL = 3, 4, 7


class Sampler:
    """Takes samples. `agent` is the process whose descendants the legs are, `gpu` the one they train on.

    Without a GPU its fields are null for the reason `no_gpu`.
    """

    def __init__(
        self,
        *,
        agent: int,
        gpu: Gpu | None = None,
        no_gpu: str = NO_DRIVER,
        proc: Path = Path("/proc"),
        clock_ns: Callable[[], int] = now_ns,
    ) -> None:
        self._agent = agent
        self._gpu = gpu
        self._proc = proc
        self._clock_ns = clock_ns
        self._ticks: list[int] = []
        #: By field, the reason why it is null.
        self.reasons: dict[str, str] = {} if gpu is not None else dict.fromkeys(_GPU, no_gpu)

    def sample(self) -> list[int | None]:
        """One sample, in the order of `FIELDS`."""
        return [self._clock_ns(), *self._of_gpu(), *self._host()]

    def _of_gpu(self) -> list[int | None]:
        gpu = self._gpu
        if gpu is None:
            return [None] * len(_GPU)
        figures = {
            "sm_mhz": gpu.sm_mhz(),
            "memory_mhz": gpu.memory_mhz(),
            "temperature_c": gpu.temperature_c(),
            "power_mw": gpu.power_mw(),
            "energy_mj": gpu.energy_mj(),
            "throttle_reasons": gpu.throttle_reasons(),
            "other_processes": self._others(gpu),
        }
        self.reasons.update({name: figure.reason for name, figure in figures.items() if figure.reason})
        return [figures[name].value for name in _GPU]

    def _others(self, gpu: Gpu) -> Reading[int]:
        """Processes on the GPU that are not the agent's; null where the driver lists processes that cannot be seen here."""
        listed = gpu.memory_by_process()
        if listed.value is None:
            return Reading(reason=listed.reason)
        pids, running = {*listed.value}, processes(self._proc)
        if pids and pids.isdisjoint(running):
            return Reading(reason="the driver names processes of another process namespace")
        return Reading(value=len(pids - process_tree(self._agent, running)))

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


def serve_samples(*, gpu_index: int | None, no_gpu: str) -> int:
    """The sampling process: one line on standard output every second, until the pipe breaks or the agent's thread ends."""
    die_with_parent()
    gpu = None if gpu_index is None else Gpu(Nvml(), gpu_index)
    sampler = Sampler(agent=os.getppid(), gpu=gpu, no_gpu=no_gpu)
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
        self._device: Device | None = None
        self._archive_fd = archive_fd
        self._site_packages = site_packages
        self._lock = threading.Lock()
        self._samples: list[list[Json]] = []
        self._reasons: dict[str, Json] = {}
        self._process: subprocess.Popen[bytes] | None = None

    def begin(self, device: Device) -> None:
        """Start sampling what `device` and its machine do, once."""
        with self._lock:
            if self._device is None:
                self._device = device
                self.start()

    def run(self) -> None:
        """The thread's body: the process dies with it."""
        command = [sys.executable, "-I", "-S", "-B", "-X", "utf8", f"/proc/self/fd/{self._archive_fd}", "covariates"]
        for directory in self._site_packages:
            command += ["--site-packages", directory]
        device = self._device
        if device is not None and device.nvml_index is not None:
            command += ["--gpu", str(device.nvml_index)]
        elif device is not None:
            command += ["--no-gpu", device.no_gpu or "NVML shows no GPU that is torch's"]
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
