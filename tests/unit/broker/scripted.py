"""A provider that rents, in memory: what it answers is written down before, and it keeps a billing clock.

`script[call]` is a list of acts, one used up per call: an exception to raise, or a callable to run. Nothing left: honest.
"""

from __future__ import annotations

import contextlib
import json
import socket
import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from pytest_glasshouse.broker.timing import Clock
from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.providers.base import Access, Account, Instance, Launch, Offer, Provider, SshAccess
from pytest_glasshouse.providers.lease import Lease
from pytest_glasshouse.rows.spec import RowSpec
from pytest_glasshouse.wire import frames

GPU = "NVIDIA H100 80GB HBM3"
ROW = RowSpec(name="row", workload="mlp", gpu="h100", order="raw-first", target_s=60.0)
OTHER = RowSpec(name="other", workload="mlp", gpu="h100", order="protected-first", target_s=60.0)


class FakeTime:
    """A clock that only waiting moves."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0
        self.clock = Clock(monotonic=lambda: self.now, wall=lambda: self.now, wait=self.wait)

    def wait(self, seconds: float) -> None:
        self.now += seconds


class Scripted:
    """See the module. `price` in USD per hour."""

    name = "runpod"
    rents = True
    dry_run = False
    this_machine = False
    archive_sha256 = "a" * 64
    base_url = "https://scripted.example"

    def __init__(self, time: FakeTime, *, offers: tuple[float, ...] = (2.0, 3.0), simulated: bool = False) -> None:
        self.time = time
        self.simulated = simulated
        self.poll_s = 5.0
        self.prices = offers
        self.alive: dict[str, Instance] = {}
        self.born: dict[str, float] = {}
        self.died: dict[str, float] = {}
        self.calls: list[str] = []
        self.hidden: set[str] = set()
        self.script: dict[str, list[Any]] = defaultdict(list)
        self.state: dict[str, Any] = {"state": "running", "access": SshAccess(host="pod.invalid", port=22022)}

    def billing(self) -> set[str]:
        """Instances whose clock still runs."""
        return set(self.born) - set(self.died)

    def make(self, name: str) -> Instance:
        """Add an instance, outside of any create request."""
        instance = Instance(
            instance_id=f"pod{len(self.born) + 1}", name=name, gpu_model=GPU, **{"raw_state": "RUNNING", **self.state}
        )
        self.alive[instance.instance_id] = instance
        self.born[instance.instance_id] = self.time.now
        return instance

    def vanish(self, instance_id: str) -> None:
        """Remove an instance, outside of any terminate request."""
        self.alive.pop(instance_id, None)
        self.died.setdefault(instance_id, self.time.now)

    def offers(self, row: RowSpec) -> tuple[Offer, ...]:
        self._act("offers")
        return tuple(
            Offer(provider=self.name, gpu_model=GPU, price_usd_per_hour=price, offer_id=str(price)) for price in self.prices
        )

    def create(self, offer: Offer, *, launch: Launch) -> Instance:
        self.calls.append(f"create {launch.name} {offer.offer_id}")
        self._act("create", launch.name)
        return self.make(launch.name)

    def get(self, instance_id: str) -> Instance | None:
        self._act("get", instance_id)
        return self.alive.get(instance_id)

    def list(self) -> tuple[Instance, ...]:
        self._act("list")
        return tuple(each for each in self.alive.values() if each.instance_id not in self.hidden)

    def terminate(self, instance_id: str) -> None:
        self.calls.append(f"terminate {instance_id}")
        self._act("terminate", instance_id)
        self.vanish(instance_id)

    def logs(self, instance_id: str) -> str:
        return "pulling\nlayer does not exist"

    def may_create(self) -> bool:
        return True

    def account(self) -> Account:
        return Account(balance_usd=12.5, server_time_s=self.time.now)

    def inject_fault(self, instance_id: str, action: str) -> None:
        raise ConfigurationError("plays nothing")

    def _act(self, call: str, *arguments: str) -> None:
        if self.script[call]:
            act = self.script[call].pop(0)
            if isinstance(act, BaseException):
                raise act
            if act is not None:
                act(*arguments)


class Agents:
    """A connection to a thread that answers hello: no pod, no torch."""

    def __init__(self, gpu_model: str = GPU) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="gha-")
        self._listeners: dict[str, socket.socket] = {}
        self.hello: dict[str, Any] = {"gpuModel": gpu_model, "gpuUuid": "GPU-1", "device": "cuda"}
        self.connected: list[Access] = []
        self.shutdowns: list[str] = []
        self.left: list[str] = []
        self.refuses: BaseException | None = None

    def launch(self, lease: Lease, provider: Provider) -> Launch:
        return Launch(name=lease.name, image="registry.example/guest@sha256:" + "0" * 64, env={"SECRET": "s3cret"})

    def connect_node(self, lease: Lease, access: Access, node: int, *, timeout_s: float) -> str:
        """Every node has the same agent."""
        return self.connect(lease, access, timeout_s=timeout_s)

    def connect(self, lease: Lease, access: Access, *, timeout_s: float) -> str:
        self.connected.append(access)
        if self.refuses is not None:
            raise self.refuses
        path = str(Path(self._directory.name) / f"{len(self._listeners)}.sock")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen(8)
        self._listeners[lease.name] = listener
        answer = {**self.hello, "agentNonce": lease.name, "allocation": lease.name}
        threading.Thread(target=_answer, args=(listener, answer), daemon=True).start()
        return path

    def hang_up(self, name: str) -> None:
        """The guest is gone."""
        with contextlib.suppress(OSError):
            self._listeners[name].shutdown(socket.SHUT_RDWR)
        self._listeners[name].close()

    def shut_down(self, lease: Lease) -> None:
        self.shutdowns.append(lease.name)

    def disconnect(self, lease: Lease) -> None:
        self.left.append(lease.name)

    def secrets(self) -> tuple[str, ...]:
        return ("pod.invalid",)

    def close(self) -> None:
        for name in self._listeners:
            self.hang_up(name)
        self._directory.cleanup()


class NoReaper:
    """Stands where the reaper would."""

    def __init__(self) -> None:
        self.dismissed: list[bool] = []

    def dismiss(self, *, wait: bool) -> None:
        self.dismissed.append(wait)


def _answer(listener: socket.socket, answer: dict[str, Any]) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection, contextlib.suppress(OSError):
            while frames.receive(connection) is not None:
                frames.send(connection, answer)


def appearing(provider: Scripted, *, twice: bool = False, error: BaseException) -> Callable[[str], None]:
    """A create call that makes something and loses the answer."""

    def act(name: str) -> None:
        for _ in range(2 if twice else 1):
            provider.make(name)
        raise error

    return act


@contextlib.contextmanager
def showing(provider: Scripted, **state: Any) -> Iterator[None]:
    """New instances look like this."""
    before, provider.state = provider.state, {**provider.state, **state}
    yield
    provider.state = before


def changed(provider: Scripted, instance_id: str, **fields: Any) -> None:
    """One instance looks like this from now on."""
    provider.alive[instance_id] = replace(provider.alive[instance_id], **fields)


def ledger_steps(run_dir: Path) -> list[str]:
    """The step of every line of a run's ledger."""
    return [json.loads(line)["step"] for line in (run_dir / "ledger.jsonl").read_text().splitlines()]
