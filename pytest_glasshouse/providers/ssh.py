"""Machines that the user can reach with `ssh NAME`. Nothing is rented: an allocation is one GPU of one host, held by a lock.

The lock is held by a process on the host, the keeper (`channel/host_keeper.py`), which is the allocation: it has a directory, a
deadline, and everything that runs for it below itself. Each request is a connection of its own; what a host answers is a
stranger's word (`ssh_answers`).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from pytest_glasshouse.channel.archive import guest_archive
from pytest_glasshouse.channel.host_route import HostRoute, HostShell, NotReachedError
from pytest_glasshouse.errors import (
    AmbiguousCreateError,
    ConfigurationError,
    GlasshouseError,
    NoCapacityError,
    NotSetUpError,
    ProviderError,
    TerminateError,
)
from pytest_glasshouse.providers import ssh_answers as answers
from pytest_glasshouse.providers.base import Account, Instance, Launch, Offer, PlaceCheck, checked_id
from pytest_glasshouse.providers.listing import Listing
from pytest_glasshouse.wire.canonical import sha256_hex

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_glasshouse.channel.tunnel import Route
    from pytest_glasshouse.providers.place_settings import PlaceSettings
    from pytest_glasshouse.rows.spec import RowSpec

#: The lock of a host without a GPU, and the model that it is offered as.
_CPU, _CPU_MODEL = "cpu", "CPU"
_AT_ONCE = 16
_END_S = 90.0

T = TypeVar("T")
#: Why hosts did not answer. (`list` is a method below.)
Problems: TypeAlias = list[str]


def open_ssh(settings: PlaceSettings) -> SshProvider:
    """See `places.Place`. Connects to no host."""
    return SshProvider(settings)


class SshProvider:
    """GPUs of hosts that the user can reach. Raises `ConfigurationError` for a host that is named wrongly, or where none is."""

    name = "ssh"
    base_url = ""
    rents = False
    dry_run = False
    this_machine = False
    poll_s = 1.0

    def __init__(self, settings: PlaceSettings) -> None:
        machines = settings.machines
        if not machines.hosts:
            raise NotSetUpError(
                "provider ssh: expected the name of a host, as `ssh NAME` takes it, in --glasshouse-host, GLASSHOUSE_HOST or the "
                "ini glasshouse_host; saw none"
            )
        self._allow_simulated = settings.allow_simulated
        self._gpu = machines.gpu
        shells = [HostShell(name, number=place, python=machines.remote_python) for place, name in enumerate(machines.hosts, 1)]
        #: By the first part of an instance's id, which says where it is without saying what the host is called.
        self._hosts = {sha256_hex(shell.name.encode())[:12]: shell for shell in shells}
        self._probed: dict[str, answers.ProbedHost] = {}
        self._of_instance: dict[str, str] = {}
        self.archive_sha256 = sha256_hex(guest_archive())

    @property
    def simulated(self) -> bool:
        """Whether a host without a GPU stands in, which takes `--glasshouse-allow-simulated`. Asks the hosts, once."""
        return self._allow_simulated and any(not host.gpus for host in self._inventory().values())

    def offers(self, row: RowSpec) -> tuple[Offer, ...]:
        """The GPUs of the hosts that the row can run on: those that nobody holds first, else in the order of the hosts."""
        if row.gpus > 1:
            raise ConfigurationError(
                f"row {row.name}: field gpus: expected 1 on provider ssh, which locks one GPU of a host; saw {row.gpus}. "
                "Nothing was started; run it on a place that gives several at once, such as slurm"
            )
        offers: list[tuple[bool, Offer]] = []
        problems: list[str] = []
        for key, host in self._probe_all(problems).items():
            label = self._hosts[key].label
            if wrong := host.unusable():
                problems.append(f"{label} {wrong}")
                continue
            if not host.gpus:
                if not self._allow_simulated:
                    problems.append(f"{label} has no NVIDIA GPU that nvidia-smi shows")
                else:
                    offers.append((_CPU in host.held, Offer(provider=self.name, gpu_model=_CPU_MODEL, machine=f"{key}/{_CPU}")))
                continue
            chosen = [gpu for gpu in host.gpus if gpu.is_called(self._gpu)]
            fitting = [gpu for gpu in chosen if row.gpu_model in (None, gpu.model)]
            if not fitting:
                problems.append(f"{label} has {', '.join(gpu.model for gpu in chosen) or f'no GPU {self._gpu}'}")
            offers += [
                (gpu.uuid in host.held, Offer(provider=self.name, gpu_model=gpu.model, machine=f"{key}/{gpu.uuid}"))
                for gpu in fitting
            ]
        if not offers:
            raise ConfigurationError(
                f"row {row.name}: expected {row.gpu_model or 'an NVIDIA GPU'} on a host of --glasshouse-host, saw none: "
                f"{'; '.join(problems)}"
            )
        return tuple(offer for _, offer in sorted(offers, key=lambda each: each[0]))

    def create(self, offer: Offer, *, launch: Launch) -> Instance:
        """Take the GPU's lock for a new keeper. Raises `NoCapacityError` with who holds it, where the launch does not wait."""
        key, _, gpu = offer.machine.partition("/")
        shell = self._hosts[key]
        limits = {"deadline": int(launch.deadline), "contact_by": int(launch.contact_by), "lease_s": int(launch.lease_s)}
        lease = {
            "name": launch.name, "gpu": gpu, "visible": "" if gpu == _CPU else gpu, "model": offer.gpu_model,
            "queue_s": int(launch.queue_s), "limits": limits,
        }  # fmt: skip
        try:
            answer = shell.ask({"op": "create", "lease": lease})
        except NotReachedError as error:
            raise ProviderError(f"{error}. Nothing was created") from None
        except ProviderError as error:
            raise AmbiguousCreateError(
                f"{error}: whether {launch.name} was created there is not known", allocation_id=launch.name
            ) from None
        if "held" in answer:
            raise NoCapacityError(
                f"{shell.label}: its GPU is {answers.held_by(answer['held'], shell.label)}. Nothing was created; "
                "--glasshouse-queue-timeout SECONDS waits for it"
            )
        made = self._checked(shell, lambda: answers.created(answer, key))
        self._of_instance[made.name] = key
        return made

    def get(self, instance_id: str) -> Instance | None:
        """What is on the host now: the keeper, or what it left."""
        found = self._asked("get", instance_id)
        if found is None:
            return None
        (key, shell), answer = found
        return self._checked(shell, lambda: answers.allocation(answer, key))

    def list(self) -> Listing:
        """Every allocation of this user on the hosts. One that does not answer leaves a doubt; raises where none does."""
        problems: list[str] = []
        found: list[Instance] = []
        shown = self._each(lambda key, shell: answers.allocations(shell.ask({"op": "list"}), key), problems)
        for instances in shown.values():
            found += instances
            self._of_instance |= {instance.name: instance.instance_id.partition("-")[0] for instance in instances}
        if not shown:
            raise ProviderError(f"ssh: no host answered: {'; '.join(problems)}")
        return Listing(found, doubt="; ".join(problems))

    def terminate(self, instance_id: str) -> None:
        """End the keeper and all below it, and remove its directory; done when nothing of it is left."""
        try:
            found = self._asked("end", instance_id)
        except ProviderError as error:
            raise TerminateError(f"{error}. What runs there ends itself at its deadline") from None
        if found is not None and found[1] != {"ended": True}:
            raise TerminateError(f"{found[0][1].label}: expected that nothing of {instance_id} is left, saw more")

    def logs(self, instance_id: str) -> str:
        """What keeper and agent printed last."""
        try:
            found = self._asked("log", instance_id)
        except GlasshouseError:
            return ""
        return answers.log(found[1]) if found is not None else ""

    def account(self) -> Account:
        """Whether every host answers and can be used. Raises `ProviderError` or `ConfigurationError`."""
        problems: list[str] = []
        for key, host in self._probe_all(problems).items():
            if wrong := host.unusable():
                raise ConfigurationError(f"{self._hosts[key].label} {wrong}")
        if problems:
            raise ProviderError("; ".join(problems))
        return Account()

    def may_create(self) -> bool:
        """There is no key of an account."""
        return True

    def secrets(self) -> tuple[str, ...]:
        """Addresses of hosts; a bare alias is none."""
        return tuple(shell.name for shell in self._hosts.values() if shell.name not in shell.label)

    def inject_fault(self, instance_id: str, action: str) -> None:
        """Raises `ConfigurationError`: only the mock provider plays faults."""
        raise ConfigurationError(f"provider ssh plays no faults; {action} on {instance_id} was asked for")

    def route(self, name: str) -> Route:
        """By the user's own `ssh`, to the host where that allocation is."""
        return HostRoute(self._hosts[self._of_instance[name]])

    def checks(self) -> Iterator[PlaceCheck]:
        """One line a host."""
        problems: Problems = []
        found = self._each(lambda _key, shell: answers.host(shell.ask({"op": "probe"})), problems)
        for key, shell in self._hosts.items():
            if key in found:
                yield answers.check(found[key], shell.label, allow_simulated=self._allow_simulated)
            else:
                why = next((line for line in problems if line.startswith(f"{shell.label} ")), f"{shell.label} does not answer")
                yield PlaceCheck(mark="FAIL", what=shell.label, detail=why, fix="run `ssh` to it by hand, and see what it asks")

    # -- inside

    def _inventory(self) -> dict[str, answers.ProbedHost]:
        """As the hosts were when they were asked first: what they have does not change."""
        if not self._probed:
            self._probed = self._probe_all([])
        return self._probed

    def _probe_all(self, problems: Problems) -> dict[str, answers.ProbedHost]:
        found = self._each(lambda _key, shell: answers.host(shell.ask({"op": "probe"})), problems)
        if not found:
            raise ProviderError(f"ssh: no host answered: {'; '.join(problems)}")
        return found

    def _each(self, ask: Callable[[str, HostShell], T], problems: Problems) -> dict[str, T]:
        """What each host answers, all of them asked at the same time; why the others do not is added to `problems`."""
        with ThreadPoolExecutor(min(len(self._hosts), _AT_ONCE)) as pool:
            waiting = {key: pool.submit(self._checked, shell, partial(ask, key, shell)) for key, shell in self._hosts.items()}
        found: dict[str, T] = {}
        for key, each in waiting.items():
            try:
                found[key] = each.result()
            except ProviderError as error:
                problems.append(str(error))
        return found

    def _asked(self, op: str, instance_id: str) -> tuple[tuple[str, HostShell], dict[str, Any]] | None:
        """The answer about one instance and whose it is; None for an id of no host of this user's."""
        key, _, rest = checked_id(self.name, instance_id).partition("-")
        shell = self._hosts.get(key)
        if shell is None or not rest:
            return None
        return (key, shell), shell.ask({"op": op, "id": rest}, timeout_s=_END_S)

    def _checked(self, shell: HostShell, read: Callable[[], T]) -> T:
        try:
            return read()
        except answers.WRONG as error:
            raise ProviderError(f"{shell.label} sent an answer that cannot be read: {error}") from None
