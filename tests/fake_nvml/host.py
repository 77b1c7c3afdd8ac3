"""A process whose loader finds the stand-in driver: it carries out a row, or asks what a user would, for each line that it reads.

LD_LIBRARY_PATH counts from the start of a process, so tests cannot do this in their own. `StandInHost` is the other end.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fake_nvml.driver import Driver

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came of a row: the findings that did not hold, or the one line that ended it before it began."""

    refused: str = ""
    ended: str = ""
    held: int = 0
    not_held: Mapping[str, str]
    gpu_model: str = ""
    gpu_uuid: str | None = None
    device: str = ""
    dry_run: bool = False
    why_cpu: Sequence[str] = ()
    reasons: Mapping[str, str]
    gpu: Mapping[str, Any]
    trained_on: Sequence[str] = ()


class StandInHost:
    """Such a process, over one driver."""

    def __init__(self, driver: Driver, *, bytecode: Path) -> None:
        self.driver = driver
        environment = {"PATH": os.environ["PATH"], "LD_LIBRARY_PATH": f"/nowhere:{driver.folder}", "PYTHONPATH": str(ROOT)}
        environment |= {name: os.environ[name] for name in ("PYTHONPYCACHEPREFIX", "TMPDIR") if name in os.environ}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fake_nvml.host", str(bytecode)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, cwd=ROOT, text=True,
        )  # fmt: skip

    def run(self, provider: str, *, settings: Mapping[str, object], **wanted: Any) -> Answer:
        """Carry out a row on `provider` with the driver's `settings`; `wanted` are the arguments of `_row`."""
        self.driver.set(**settings)
        return Answer(**self._ask({"provider": provider, **wanted}))

    def doctor(self, provider: str, *, settings: Mapping[str, object]) -> list[str]:
        """The lines of `glasshouse doctor`."""
        self.driver.set(**settings)
        return list(self._ask({"doctor": provider})["lines"])

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        assert answer, f"the host process ended with {self._process.wait()}"
        found: dict[str, Any] = json.loads(answer)
        return found

    def close(self) -> None:
        """End it."""
        self._process.communicate()


def _row(
    provider: str, *, gpus: Sequence[str], environ: Mapping[str, str] | None = None, order: str = "raw-first", gpu: str = "anygpu",
    target_s: float = 0.1, uuids: Sequence[str] = (), trained_on: Sequence[str] = (), built_for: str | None = "13.0", error: str = "",
    ranks: int = 1,
) -> dict[str, Any]:  # fmt: skip
    """One row. `gpus` are the names of those that torch has; with `trained_on` the legs say that they used these."""
    from pytest_glasshouse.broker.broker import Broker, BrokerOptions
    from pytest_glasshouse.errors import ConfigurationError, GlasshouseError
    from pytest_glasshouse.invariants import judge
    from pytest_glasshouse.legs.attestation import HostAttestation
    from pytest_glasshouse.legs.row_runner import Allocation, ProtectedRuntime, RawRunner, RowSettings
    from pytest_glasshouse.providers.guest_python import device_here
    from pytest_glasshouse.providers.local import LocalProvider
    from pytest_glasshouse.providers.mock import MockProvider
    from pytest_glasshouse.wire import tokens
    from tests.fake_nvml.cuda_guest import cuda_archive
    from tests.limits import HANG_S
    from tests.numpy_guest.bytecode import use_kept
    from tests.rounds.conftest import PATIENT, run_id, short_row

    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    os.environ.update(environ or {})
    device_here.cache_clear()
    archive = cuda_archive(gpus, uuids=uuids, built_for=built_for, error=error, trained_on=trained_on, loads_driver=True)
    nothing: dict[str, Any] = {"not_held": {}, "reasons": {}, "gpu": {}}
    try:
        opened = {"local": LocalProvider, "mock": MockProvider}[provider](archive=archive)
    except ConfigurationError as error_:
        return {**nothing, "refused": str(error_)}
    use_kept(opened, "numpy")
    row = short_row(order=order, gpu=gpu, target_s=target_s, gpus=ranks)
    with tempfile.TemporaryDirectory() as folder:
        options = BrokerOptions(provider=provider, run_id=run_id(), run_dir=Path(folder), timing=PATIENT, boot_timeout_s=HANG_S)
        broker, host_attestation = Broker(options, providers={provider: opened}), HostAttestation()
        try:
            try:
                grant = broker.acquire(row)
            except GlasshouseError as error_:
                return {**nothing, "refused": str(error_)}
            allocation = Allocation(grant, broker, RowSettings(declared=row, run_id="test", seed=7), lambda _: None)
            outcome = row.run(allocation, ProtectedRuntime(host_attestation), RawRunner())
            broker.release(grant)
        finally:
            host_attestation.close()
            broker.end_all()
    findings = judge(outcome.observation)
    (observed,) = outcome.observation["rounds"]
    notes: Any = observed
    return {
        "ended": "" if outcome.ended is None else outcome.ended.reason,
        "held": sum(each.finding == "held" for each in findings),
        "not_held": {each.invariant: f"{each.finding}: {each.reason}" for each in findings if each.finding != "held"},
        "gpu_model": grant.gpu_model,
        "gpu_uuid": grant.gpu_uuid,
        "device": grant.device,
        "dry_run": outcome.allocation is not None and outcome.allocation.dry_run,
        "why_cpu": broker.cpu_reasons,
        "reasons": (notes.get("covariates") or {}).get("reasons", {}),
        "gpu": tokens.peek(notes["protected"]["exit"])["gpu"] if (notes["protected"] or {}).get("exit") else {},
        "trained_on": [str(notes["raw"]["callback"]["facts"]["device"])] if (notes["raw"] or {}).get("callback") else [],
    }


def _doctor(provider: str) -> dict[str, Any]:
    from pytest_glasshouse.cli.main import main

    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        main(["doctor", "--provider", provider])
    return {"lines": said.getvalue().splitlines()}


def main() -> None:
    """Answer each line of standard input with one of standard output."""
    from tests.numpy_guest.bytecode import keep_below

    keep_below(Path(sys.argv[1]))
    for line in sys.stdin:
        request = json.loads(line)
        answer = _doctor(request["doctor"]) if "doctor" in request else _row(request.pop("provider"), **request)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
