"""What carries rows out: the broker, the legs on its grants, and the judgement of what was observed.

The rooms below are imported here, inside functions, so that a project without rows pays nothing for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

from pytest_glasshouse.errors import ConfigurationError, RefusedError

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_glasshouse.broker.broker import Broker
    from pytest_glasshouse.broker.broker_socket import BrokerClient, BrokerServer
    from pytest_glasshouse.channel.allowance import Allowance
    from pytest_glasshouse.invariants.finding import Finding
    from pytest_glasshouse.legs.attestation import HostAttestation
    from pytest_glasshouse.legs.row_settings import RowSettings
    from pytest_glasshouse.observation.document import Observation
    from pytest_glasshouse.observation.results import RoundResult
    from pytest_glasshouse.providers.base import Grant
    from pytest_glasshouse.report.fields import Report
    from pytest_glasshouse.rows.spec import RowSpec
    from pytest_glasshouse.run.options import Options
    from pytest_glasshouse.run.plan import ResolvedModel
    from pytest_glasshouse.wire.canonical import Json
    from pytest_glasshouse.wire.run_plan import TallyRecord

#: A progress event: plain JSON, as it comes from a leg, a boot or another process.
Event: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class RowObjects:
    """The three objects a row runs on."""

    allocation: Any
    protected_runtime: Any
    raw_runner: Any


@dataclass(frozen=True, kw_only=True)
class ServerAccount:
    """What an attestation server says of a run: keys that no leg has completed, and what it counted."""

    outstanding: Sequence[dict[str, Json]]
    tally: TallyRecord | None


class Engine:
    """What carries out a run's rows in this process. A test of the plugin puts a subclass of its own into the config's stash."""

    #: Whether the observations of its rows have the form of `observation.document`.
    typed_observations = True

    def __init__(self) -> None:
        self._host_attestation: HostAttestation | None = None
        self._client: BrokerClient | None = None
        self._allowance: Allowance | None = None

    def check(self, options: Options) -> None:
        """Raise `ConfigurationError` for a provider that cannot work here. Starts nothing."""
        from pytest_glasshouse.providers.registry import open_provider

        if options.provider != "row":
            open_provider(
                options.provider,
                options.faults,
                allow_simulated=options.allow_simulated,
                requirements=options.requirements,
                machines=options.machines,
            )

    def check_material(
        self, rows: Sequence[tuple[RowSpec, str | None]], options: Options, *, seed: int, rehearsed: bool
    ) -> dict[str, ResolvedModel]:
        """Make what lora rows train on, once each, and drop it, so that an error comes before anything is rented.

        `rows` come with the directory of their model, if it is one, or with the commit that is known of it. With `rehearsed` the
        libraries also build the model, which takes seconds. Returns what each row's model was resolved to, by its name in the
        row. Raises `ConfigurationError`, and `InfrastructureError` for a hub that cannot be reached.
        """
        from pytest_glasshouse.legs.row_material import material_of
        from pytest_glasshouse.providers.registry import REMOTE
        from pytest_glasshouse.workloads.lora_rehearsal import rehearse

        made: set[tuple[object, ...]] = set()
        resolved: dict[str, ResolvedModel] = {}
        for row, directory in rows:
            model, provider = directory or row.model, options.provider_of(row)
            key = (model, row.data, row.rank, row.targets, row.alpha, row.model_source, row.base, provider)
            if row.workload != "lora" or key in made:
                continue
            made.add(key)
            try:
                material = material_of(
                    row, model=model, seed=seed, online=provider != "mock", owner_key=options.owner_key, stand_in=options.stand_in
                )
                base = material.base
                if base is not None and row.model is not None:
                    of_hub = base.revision is not None and not base.stand_in
                    reference = f"{base.model_id}@{base.revision}" if of_hub else None
                    resolved[row.model] = {"reference": reference, "size": base.size}
                if base is not None and not row.sealed:
                    options.model_sources_of(row).of(base, same_disk=provider not in REMOTE)
                if rehearsed:
                    rehearse(material)
            except ConfigurationError as error:
                raise ConfigurationError(f"row {row.name}: {error}. Nothing was started") from None
        return resolved

    def broker(
        self,
        options: Options,
        rows: Sequence[RowSpec],
        *,
        run_id: str,
        run_dir: Path,
        tell: Callable[[str, str], None],
        models: Mapping[str, ResolvedModel] = MappingProxyType({}),
    ) -> Broker:
        """A broker for these rows that has checked provider, faults and what this machine lacks, and rented nothing."""
        from pytest_glasshouse.providers.registry import REMOTE

        here = [row for row in rows if options.provider_of(row) not in REMOTE]
        _require_training(here)
        from pytest_glasshouse.workloads.registry import check

        for row in rows:
            check(row.workload, data=row.data)
        if (outside := options.outside_server) is not None:
            from pytest_glasshouse.legs.attestation import check_outside

            check_outside(outside)
        _ = options.owner_policy  # a policy file that cannot be used is refused now
        from pytest_glasshouse.broker.broker import Broker, BrokerOptions

        return Broker(
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
                max_gpu_hours=options.max_gpu_hours,
                allow_simulated=options.allow_simulated,
                image=options.image,
                requirements=options.requirements,
                machines=options.machines,
                model_bytes={name: found["size"] for name, found in models.items()},
            ),
            emit=tell,
        )

    def serve(self, broker: Broker, on_event: Callable[[Event], None]) -> BrokerServer:
        """Let workers reach the broker."""
        from pytest_glasshouse.broker.broker_socket import BrokerServer

        return BrokerServer(broker, on_event=on_event)

    def connect(self, address: str, *, worker: str) -> BrokerClient:
        """Reach the broker from a worker."""
        from pytest_glasshouse.broker.broker_socket import BrokerClient

        self._client = BrokerClient(address, worker=worker)
        return self._client

    def row_objects(
        self, grant: Grant, broker: Broker | BrokerClient, settings: RowSettings, on_progress: Callable[[Event], None]
    ) -> RowObjects:
        """What runs a row on a granted allocation."""
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
                broker,
                settings,
                lambda progress: on_progress(progress.to_json()),
                self._allowance,
            ),
            protected_runtime=ProtectedRuntime(self._host_attestation, policy=settings.policy),
            raw_runner=RawRunner(),
        )

    def results(self, observation: Observation) -> Sequence[RoundResult]:
        """What each round measured."""
        from pytest_glasshouse.observation.results import results

        return results(observation)

    def judge(self, observation: Observation) -> Sequence[Finding]:
        """Every invariant, judged."""
        from pytest_glasshouse.invariants import judge

        return judge(observation)

    def binding(self, document: Report) -> Iterator[tuple[str, str]]:
        """The paths of a report that differ from what was signed, and how."""
        from pytest_glasshouse.check.binding import binding_faults

        return binding_faults(document)

    def outstanding(self) -> Sequence[dict[str, Json]]:
        """Key releases of this process that no leg has completed."""
        return [] if self._host_attestation is None else self._host_attestation.outstanding()

    def tally(self, run_id: str) -> TallyRecord | None:
        """What this process's own attestation server counted of a run; None where it has none, or nothing was planned there."""
        host_attestation = self._host_attestation
        if host_attestation is None or host_attestation.place != "embedded" or run_id not in host_attestation.planned:
            return None
        return host_attestation.tally(run_id)

    def server_account(self, options: Options, run_id: str) -> ServerAccount | None:
        """What the outside server says of a whole run, whichever process asked it for what; None where there is none.

        Raises a `GlasshouseError` where it does not answer.
        """
        if (outside := options.outside_server) is None:
            return None
        from pytest_glasshouse.legs.attestation import HostAttestation

        host_attestation = self._host_attestation or HostAttestation(outside)
        try:
            outstanding = host_attestation.outstanding_of(run_id)
            try:
                return ServerAccount(outstanding=outstanding, tally=host_attestation.tally(run_id))
            except RefusedError:  # nothing was planned there
                return ServerAccount(outstanding=outstanding, tally=None)
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


def _rounds_in_all(observation: Observation) -> tuple[int, int | None]:
    """How many rounds a row is to have by what it measured so far, and the pairs of those to come."""
    from pytest_glasshouse.analysis.planned_rounds import rounds_in_all
    from pytest_glasshouse.analysis.row_cut import cut_of
    from pytest_glasshouse.observation.results import results

    measured = results(observation)
    divided = cut_of(observation, measured)
    in_all = rounds_in_all(observation, measured, planned=observation["plan"]["rounds"])
    return in_all, None if divided is None else divided.pairs


def _require_training(rows: Sequence[RowSpec]) -> None:
    """Refuse where this machine, the guest of a mock or local allocation, lacks what its rows train with."""
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
