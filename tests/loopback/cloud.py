"""The account behind the APIs: what exists, what it costs, and how it ends. APIs only show it, each in its own form.

Everything that was ever created stays in `rented`, so that a test can ask of each of them whether it still bills.
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tests.loopback.faults import Fault, Operation, Script
from tests.loopback.hosts import Host
from tests.loopback.manual_clock import ManualClock
from tests.loopback.pod_disk import Volume
from tests.loopback.pod_rights import need_pods
from tests.loopback.pods import BOOT_VARIABLE, PORT_VARIABLE, Pod
from tests.loopback.ports import reserve_port

if TYPE_CHECKING:
    from tests.loopback.paging import Paging

#: States in plain words; each API has its own names for them.
State = Literal["provisioning", "running", "exited", "error", "unheard-of"]

#: USD per hour of the GPUs on offer: id as the driver names it, and price.
PRICES: dict[str, float] = {
    "NVIDIA H100 80GB HBM3": 2.69,
    "NVIDIA RTX PRO 6000 Blackwell Server Edition": 1.79,
    "NVIDIA RTX A4000": 0.25,
    "NVIDIA GeForce RTX 4090": 0.69,
    "NVIDIA GeForce RTX 3090": 0.46,
}
OTHER_GPU = "NVIDIA RTX A5000"


@dataclass(kw_only=True)
class Order:
    """What a create request asks for, whichever API it came by."""

    name: str
    image: str
    gpu: str
    command: Sequence[str]
    env: Mapping[str, str] = field(repr=False)
    ports: Sequence[str]
    disk_gb: int
    gpus: int = 1
    #: Network volumes by their ids, and where they are mounted.
    mounts: Mapping[str, str] = field(default_factory=dict)
    #: Which machines the order may be placed on.
    fits: Callable[[Host], bool] = lambda _host: True


@dataclass(kw_only=True)
class Rented:
    """One instance, from its creation on and for ever."""

    instance_id: str
    order: Order
    gpu: str
    price_usd_per_hour: float
    created_s: float
    pod_key: str = field(repr=False)
    host: Host = field(default_factory=Host)
    state: State = "provisioning"
    ended_s: float | None = None
    #: Until when the listing shows it though it has ended, or hides it though it runs.
    listed_until_s: float | None = None
    hidden: bool = False
    boot_id: str = ""
    port: int | None = None
    pod: Pod | None = None
    #: What the API shows in place of its host and its port; None: the true port.
    shown_host: Any = "127.0.0.1"
    shown_port: Any = None

    @property
    def public(self) -> Any:
        """The port the API shows."""
        return self.port if self.shown_port is None else self.shown_port

    @property
    def bills(self) -> bool:
        """Whether it is billed now."""
        return self.ended_s is None


class RefusedError(Exception):
    """The cloud refuses; `why` is one of the reasons that the APIs translate."""

    def __init__(self, why: Literal["no-capacity", "no-funds", "bad-request", "internal", "late", "null", "contract"]) -> None:
        super().__init__(why)
        self.why = why
        self.instance_id: str | None = None


class Cloud:
    """One provider's account. `pods` is what a pod runs: its start command, another command, or no process at all.

    `volumes` is what every pod sees of this machine beside its image. A pod has a disk of its own, and the test is skipped where
    this machine has none to give.
    `injected` gives the variables the provider itself sets in an instance. `clock` is what bills.
    """

    #: Every cloud of this process; the fixture that judges them empties it.
    opened: ClassVar[list[Cloud]] = []

    def __init__(
        self,
        *,
        injected: Callable[[Rented], Mapping[str, str]],
        new_id: Callable[[], str],
        restarts: bool,
        pods: Literal["start", "none"] | Sequence[str] = "start",
        volumes: Sequence[Volume] = (),
        boot_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        prices: Mapping[str, float] | None = None,
    ) -> None:
        if pods != "none":
            need_pods()
        self.faults = Script()
        self.rented: dict[str, Rented] = {}
        self.asked: list[Operation] = []
        self.account_key = f"account-{secrets.token_hex(16)}"
        self.balance_usd = 25.0
        self.prices = dict(PRICES if prices is None else prices)
        #: How the listing is paged; None where it is whole, or has the API's own pages.
        self.paging: Paging | None = None
        #: What a key may not do, and the text of the refusal: `create`, and a body's detail.
        self.denied: dict[Operation, str] = {}
        #: What an instance costs, in times what was offered.
        self.surcharge = 1.0
        #: Host and port that the API shows of whatever is created from now on; None where it shows the truth.
        self.shown_address: tuple[Any, Any] = ("127.0.0.1", None)
        self.pods = pods
        self.volumes = volumes
        #: The account's network volumes: folders of this machine by id.
        self.network_volumes: dict[str, Path] = {}
        #: Where those are that do not stand in `Host`'s own data center.
        self.volume_places: dict[str, str] = {}
        #: The machines that have each GPU; one, where nothing else is said.
        self.hosts: dict[str, Sequence[Host]] = {}
        self.boot_s = boot_s
        self.clock = clock
        self._manual: ManualClock | None = None
        self._injected, self._new_id, self._restarts = injected, new_id, restarts
        self._lock = threading.RLock()
        self._timers: list[threading.Timer] = []
        self._late: list[Callable[[], None]] = []
        self._root = Path(tempfile.mkdtemp(prefix="gp-"))
        self.closing = threading.Event()
        self._left_billing = ""
        Cloud.opened.append(self)

    # What the APIs do.

    def hosts_of(self, model: str) -> Sequence[Host]:
        """The machines that have this GPU."""
        return self.hosts.get(model, (Host(),))

    def place_of(self, volume: str) -> str | None:
        """The data center of a network volume; None for one that the account does not have."""
        return self.volume_places.get(volume, Host().data_center) if volume in self.network_volumes else None

    def create(self, order: Order, fault: Fault | None) -> Rented:
        """Make an instance. Raises `RefusedError`, after some faults with something made all the same."""
        kind = fault.kind if fault else None
        if kind in {"no-capacity", "no-funds", "bad-request"}:
            raise RefusedError(kind)
        if fault and kind == "late-create":
            self._land_later(fault.after_s, lambda: self._make(order, None))
            raise RefusedError("late")
        if not order.mounts.keys() <= self.network_volumes.keys():
            raise RefusedError("bad-request")
        if order.gpu not in self.prices and order.gpu:
            raise RefusedError("no-capacity")
        if self._host_for(order) is None:
            raise RefusedError("no-capacity")
        made = self._make(order, fault)
        if kind in {"null-pod", "new-contract-in-error"}:
            refusal = RefusedError("null" if kind == "null-pod" else "contract")
            refusal.instance_id = made.instance_id
            raise refusal
        return made

    def get(self, instance_id: str) -> Rented | None:
        """One that exists, as the provider shows it."""
        with self._lock:
            found = self.rented.get(instance_id)
            return found if found is not None and self._shown(found) else None

    def list(self) -> list[Rented]:
        """Every one that exists, as the provider shows it."""
        with self._lock:
            return [one for one in self.rented.values() if self._shown(one)]

    def terminate(self, instance_id: str, fault: Fault | None) -> bool:
        """End one; False where there is none. Raises `RefusedError`."""
        kind = fault.kind if fault else None
        with self._lock:
            found = self.rented.get(instance_id)
            if found is None or not found.bills or found.hidden:
                return False
            if kind == "refused":
                raise RefusedError("internal")
            if kind == "silent":
                return True
            if fault and kind == "comes-back":
                found.hidden = True
                self.later(fault.after_s, lambda: self._show_again(found))
                return True
            if fault and kind == "lag":
                found.listed_until_s = self.clock() + fault.after_s
            self._stop_billing(found)
            return True

    # What happens to instances.

    def vanish(self, instance_id: str) -> None:
        """The machine is gone, and the bill with it."""
        with self._lock:
            self._stop_billing(self.rented[instance_id])

    def kill(self, instance_id: str) -> None:
        """Every process in it dies and nothing starts again. It bills on."""
        with self._lock:
            found = self.rented[instance_id]
            found.state = "exited"
            self._end_pod(found)

    def restart(self, instance_id: str) -> None:
        """The machine reboots: an empty disk, another boot id, another port; the same instance."""
        with self._lock:
            found = self.rented[instance_id]
            if found.bills:
                self._end_pod(found)
                self._start_pod(found)

    def later(self, seconds: float, act: Callable[[], None]) -> None:
        """Do something later, unless the cloud closes before."""
        if self._manual is not None:
            self._manual.after(seconds, act)
            return
        timer = threading.Timer(seconds, lambda: None if self.closing.is_set() else act())
        timer.daemon = True
        self._timers.append(timer)
        timer.start()

    def run_on(self, clock: ManualClock) -> None:
        """Bill by this clock, and let what happens later happen by it."""
        self.clock, self._manual = clock.read, clock

    # What tests ask.

    def billing(self) -> tuple[Rented, ...]:
        """Everything that is billed now, shown or hidden."""
        with self._lock:
            return tuple(one for one in self.rented.values() if one.bills)

    def waiting(self) -> int:
        """How many creates are still to land, whatever was answered."""
        return len(self._late)

    def billed_s(self, instance_id: str) -> float:
        """Seconds one has been paid for."""
        one = self.rented[instance_id]
        return (self.clock() if one.ended_s is None else one.ended_s) - one.created_s

    def cost_usd(self) -> float:
        """What all of them have cost."""
        return sum(self.billed_s(one.instance_id) / 3600 * one.price_usd_per_hour for one in self.rented.values())

    def assert_nothing_bills(self) -> None:
        """What was ever created has ended, and what was still to appear appears now, so that it counts."""
        while self._late:
            self._late.pop()()
        if self._left_billing:
            return
        left = [f"{one.order.name} ({one.instance_id}, {one.state})" for one in self.billing()]
        assert left == [], f"still billing: {', '.join(left)}"

    def leave_billing(self, why: str) -> None:
        """What bills at the end of this test is meant to: `why` it is."""
        self._left_billing = why

    def close(self) -> None:
        """End every pod, whatever it is, and remove every disk."""
        self.closing.set()
        for timer in self._timers:
            timer.cancel()
        with self._lock:
            for one in self.rented.values():
                self._end_pod(one)
        shutil.rmtree(self._root, ignore_errors=True)

    # Behind them.

    def _host_for(self, order: Order) -> Host | None:
        """The first machine that the order fits on; None where it stands elsewhere than the volumes that are mounted."""
        host = next((each for each in self.hosts_of(order.gpu) if order.fits(each) and each.disk_gb >= order.disk_gb), None)
        places = {self.place_of(volume) for volume in order.mounts}
        return host if host is not None and places <= {host.data_center} else None

    def _make(self, order: Order, fault: Fault | None) -> Rented:
        kind = fault.kind if fault else None
        with self._lock:
            made = Rented(
                instance_id=self._new_id(),
                order=order,
                gpu=OTHER_GPU if kind == "wrong-gpu" else order.gpu,
                price_usd_per_hour=self.prices.get(order.gpu, 0.0) * order.gpus * self.surcharge,
                created_s=self.clock(),
                pod_key=f"pod-{secrets.token_hex(16)}",
                host=self._host_for(order) or Host(),
                shown_host=self.shown_address[0],
                shown_port=self.shown_address[1],
            )
            self.rented[made.instance_id] = made
            if kind == "error-state":
                made.state = "error"
            elif kind == "unknown-state":
                made.state = "unheard-of"
            elif kind == "no-start":
                made.state = "running"
            elif kind != "stuck":
                if self.boot_s:
                    self.later(self.boot_s, lambda: self._boot(made))
                else:
                    self._boot(made)
            if fault and kind == "vanish":
                self.later(fault.after_s, lambda: self.vanish(made.instance_id))
            if fault and kind == "restart":
                self.later(fault.after_s, lambda: self.restart(made.instance_id))
            return made

    def _boot(self, made: Rented) -> None:
        with self._lock:
            if made.bills and not self.closing.is_set():
                self._start_pod(made)

    def _start_pod(self, made: Rented) -> None:
        made.state = "running"
        made.boot_id = str(uuid.uuid4())
        made.port = reserve_port() if "22/tcp" in made.order.ports else None
        if self.pods == "none":
            return
        command = list(made.order.command) if self.pods == "start" else list(self.pods)
        env = {**made.order.env, **self._injected(made), BOOT_VARIABLE: made.boot_id}
        if made.port is not None:
            env[PORT_VARIABLE] = str(made.port)
        folder = self._root / f"{made.instance_id}-{secrets.token_hex(2)}"
        network = [
            Volume(host=self.network_volumes[name], inside=path, why="a volume of the account", writable=True)
            for name, path in made.order.mounts.items()
        ]
        made.pod = Pod(folder, command, env, restarts=self._restarts, volumes=[*self.volumes, *network])

    def _end_pod(self, made: Rented) -> None:
        if made.pod is not None:
            made.pod.end()
            made.pod = None
        made.port = None

    def _stop_billing(self, one: Rented) -> None:
        if one.bills:
            one.ended_s = self.clock()
            self._end_pod(one)

    def _show_again(self, one: Rented) -> None:
        with self._lock:
            one.hidden = False

    def _shown(self, one: Rented) -> bool:
        if one.pod is not None and one.pod.exited and one.state == "running":
            one.state = "exited"
        if one.bills:
            return not one.hidden
        return one.listed_until_s is not None and self.clock() < one.listed_until_s

    def _land_later(self, seconds: float, land: Callable[[], object]) -> None:
        """`land` runs once: after `seconds`, or when a caller checks whether anything bills."""
        once = threading.Lock()

        def run() -> None:
            if once.acquire(blocking=False):
                land()
                if run in self._late:
                    self._late.remove(run)

        self._late.append(run)
        self.later(seconds, run)
