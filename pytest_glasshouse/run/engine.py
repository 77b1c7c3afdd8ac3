"""What carries rows out, as the face sees it: a broker, the legs on its grants, and the judgement of what was seen.

The face imports the rooms below through here, inside functions, so that a project without rows pays nothing for them.
A test of the plugin may put an engine of its own into the config's stash.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, cast

from pytest_glasshouse.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_glasshouse.broker.broker import Broker
    from pytest_glasshouse.broker.broker_socket import BrokerClient
    from pytest_glasshouse.channel.allowance import Allowance
    from pytest_glasshouse.legs.attestation import HostAttestation
    from pytest_glasshouse.legs.row_settings import RowSettings
    from pytest_glasshouse.rows.spec import RowSpec
    from pytest_glasshouse.run.options import Options

Event = Mapping[str, Any]

#: Providers whose guests are processes of this machine.
HERE = ("mock", "local")


class CleanupLike(Protocol):
    """Whether everything that was created is gone."""

    @property
    def status(self) -> str: ...
    @property
    def allocations(self) -> tuple[dict[str, Any], ...]: ...
    @property
    def detail(self) -> str: ...


class Grants(Protocol):
    """Where a process gets an allocation for a row: the broker itself, or a client of it."""

    def acquire(self, row: RowSpec, *, worker: str) -> Any: ...
    def release(self, grant: Any, *, worker: str) -> None: ...


class BrokerLike(Grants, Protocol):
    """The only one that rents and ends."""

    def plan(self, rows: Sequence[RowSpec]) -> Any: ...
    @property
    def rents(self) -> bool: ...
    @property
    def simulated(self) -> tuple[str, ...]: ...
    @property
    def over_budget(self) -> str: ...
    def quote(self, *, on_retry: Callable[[str], None]) -> Any: ...
    def spent_usd(self) -> float | None: ...
    def end_all(self) -> CleanupLike: ...
    def signal_end(self) -> None: ...
    def secrets(self) -> tuple[str, ...]: ...
    def listing(self, provider: str = "") -> Sequence[Any]: ...


class ClientLike(Grants, Protocol):
    """A worker's way to the broker."""

    def event(self, event: dict[str, Any]) -> None: ...


class ServerLike(Protocol):
    """The broker's door for workers."""

    @property
    def address(self) -> str: ...
    def close(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class RowObjects:
    """The three objects a row runs on."""

    allocation: Any
    protected_runtime: Any
    raw_runner: Any


class Engine(Protocol):
    """Everything below the face that a run needs."""

    def check(self, options: Options) -> None: ...
    def broker(
        self, options: Options, rows: Sequence[RowSpec], *, run_id: str, run_dir: Path, tell: Callable[[str, str], None]
    ) -> BrokerLike: ...
    def serve(self, broker: BrokerLike, on_event: Callable[[Event], None]) -> ServerLike: ...
    def connect(self, address: str, *, worker: str) -> ClientLike: ...
    def stage(self, grant: Any, grants: Grants, settings: RowSettings, on_progress: Callable[[Event], None]) -> RowObjects: ...
    def results(self, observation: dict[str, Any]) -> Sequence[Any]: ...
    def judge(self, observation: dict[str, Any]) -> Sequence[Any]: ...
    def binding(self, document: Mapping[str, Any]) -> Iterator[tuple[str, str]]: ...
    def outstanding(self) -> Sequence[dict[str, Any]]: ...
    def outstanding_of(self, options: Options, run_id: str) -> Sequence[dict[str, Any]] | None: ...
    def close(self) -> None: ...


class RowEngine:
    """The engine of a real run."""

    def __init__(self) -> None:
        self._host_attestation: HostAttestation | None = None
        self._client: BrokerClient | None = None
        self._allowance: Allowance | None = None

    def check(self, options: Options) -> None:
        """Raise `ConfigurationError` for a provider that cannot work here. Starts nothing."""
        from pytest_glasshouse.providers.registry import open_provider

        if options.provider != "row":
            open_provider(options.provider, options.faults, allow_simulated=options.allow_simulated)

    def check_material(self, rows: Sequence[tuple[RowSpec, str | None]], *, seed: int, rehearsed: bool) -> None:
        """Make what lora rows train on, once each, and drop it: what cannot be made is said before anything is rented.

        `rows` come with the directory of their model, if it is one. `rehearsed`: and have the libraries build the model,
        which takes seconds. Raises `ConfigurationError`.
        """
        from pytest_glasshouse.workloads.lora_rehearsal import rehearse
        from pytest_glasshouse.workloads.registry import prepare

        made: set[tuple[object, ...]] = set()
        for row, directory in rows:
            model = directory or row.model
            wish = (model, row.data, row.rank, row.targets)
            if row.workload != "lora" or wish in made:
                continue
            made.add(wish)
            try:
                material = prepare("lora", seed=seed, model=model, data=row.data, rank=row.rank, targets=row.targets)
                if rehearsed:
                    rehearse(material)
            except ConfigurationError as error:
                raise ConfigurationError(f"row {row.name}: {error}. Nothing was started") from None

    def broker(
        self, options: Options, rows: Sequence[RowSpec], *, run_id: str, run_dir: Path, tell: Callable[[str, str], None]
    ) -> BrokerLike:
        """A broker for these rows that has checked provider, faults and what this machine lacks, and rented nothing."""
        _require_training([row for row in rows if (row.provider if options.provider == "row" else options.provider) in HERE])
        from pytest_glasshouse.workloads.registry import check

        for row in rows:
            check(row.workload, data=row.data)
        if (outside := options.outside_server) is not None:
            from pytest_glasshouse.legs.attestation import check_outside

            check_outside(outside)
        _ = options.demands  # a policy file that cannot be used is told now
        from pytest_glasshouse.broker.broker import Broker, BrokerOptions

        broker = Broker(
            BrokerOptions(
                provider=options.provider,
                run_id=run_id,
                run_dir=run_dir,
                allocation="row" if options.allocation == "row" else "shared",
                boot_timeout_s=options.boot_timeout_s,
                leg_timeout_s=options.leg_timeout_s,
                faults=options.faults,
                budget_usd=options.budget_usd,
                max_price=options.max_price_usd,
                allow_simulated=options.allow_simulated,
                image=options.image,
            ),
            emit=tell,
        )
        return cast("BrokerLike", broker)

    def serve(self, broker: BrokerLike, on_event: Callable[[Event], None]) -> ServerLike:
        """Let workers reach the broker."""
        from pytest_glasshouse.broker.broker_socket import BrokerServer

        return BrokerServer(cast("Broker", broker), on_event=on_event)

    def connect(self, address: str, *, worker: str) -> ClientLike:
        """Reach the broker from a worker."""
        from pytest_glasshouse.broker.broker_socket import BrokerClient

        self._client = BrokerClient(address, worker=worker)
        return self._client

    def stage(self, grant: Any, grants: Grants, settings: RowSettings, on_progress: Callable[[Event], None]) -> RowObjects:
        """The objects that run a row on a granted allocation."""
        from pytest_glasshouse.invariants.revisions import newest
        from pytest_glasshouse.legs.attestation import HostAttestation
        from pytest_glasshouse.legs.row_runner import Allocation, Allowance, ProtectedRuntime, RawRunner
        from pytest_glasshouse.overhead.extension import MOST_ROUNDS

        if self._host_attestation is None:
            self._host_attestation = HostAttestation(settings.server)
        if self._allowance is None:
            self._allowance = Allowance()
        settings = replace(settings, revision=newest(), max_rounds=MOST_ROUNDS, rounds_in_all=_rounds_in_all)
        return RowObjects(
            allocation=Allocation(
                grant,
                cast("Any", grants),
                settings,
                lambda progress: on_progress(progress.to_json()),
                self._allowance,
            ),
            protected_runtime=ProtectedRuntime(self._host_attestation, policy=settings.policy),
            raw_runner=RawRunner(),
        )

    def results(self, observation: dict[str, Any]) -> Sequence[Any]:
        """What each round measured."""
        from pytest_glasshouse.observation.results import results

        return results(observation)

    def judge(self, observation: dict[str, Any]) -> Sequence[Any]:
        """Every invariant, judged."""
        from pytest_glasshouse.invariants import judge

        return judge(observation)

    def binding(self, document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """What in a report is not as it was signed for, by path."""
        from pytest_glasshouse.check.binding import binding_faults

        return binding_faults(document)

    def outstanding(self) -> Sequence[dict[str, Any]]:
        """Key releases of this process that no leg has completed."""
        return [] if self._host_attestation is None else self._host_attestation.outstanding()

    def outstanding_of(self, options: Options, run_id: str) -> Sequence[dict[str, Any]] | None:
        """Key releases of a whole run that no leg has completed, by the word of the server outside; None where there is none.

        Raises a `GlasshouseError` when it cannot be asked.
        """
        if (outside := options.outside_server) is None:
            return None
        from pytest_glasshouse.legs.attestation import HostAttestation

        host_attestation = self._host_attestation or HostAttestation(outside)
        try:
            return host_attestation.outstanding_of(run_id)
        finally:
            if host_attestation is not self._host_attestation:
                host_attestation.close()

    def close(self) -> None:
        """Stop what runs in this process and forget its keys."""
        if self._client is not None:
            self._client.close()
            self._client = None
        if self._host_attestation is not None:
            self._host_attestation.close()
            self._host_attestation = None


def _rounds_in_all(observation: dict[str, Any]) -> int:
    """How many rounds a row is to have, decided once from its first ones: those it has where there is nothing to decide."""
    from pytest_glasshouse.analysis.extension import extension
    from pytest_glasshouse.observation.results import results

    decided = extension(observation, results(observation))
    return len(observation["rounds"]) if decided is None else decided.rounds


def _require_training(rows: Sequence[RowSpec]) -> None:
    """The guest of a mock or local allocation is this machine: it must have what its rows train with."""
    from importlib.util import find_spec

    if not rows:
        return
    wanted = {"torch"} | ({"transformers", "peft"} if any(row.workload == "lora" for row in rows) else set())
    missing = sorted(name for name in wanted if find_spec(name) is None)
    if missing:
        raise ConfigurationError(
            f"rows that run on this machine need {' and '.join(missing)}: pip install 'pytest-glasshouse[train]'. "
            "Nothing was started"
        )
