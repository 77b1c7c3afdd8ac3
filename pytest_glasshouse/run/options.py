"""What the user asked for, as one value: every option of the plugin, checked together."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.providers.place_settings import OwnMachines

if TYPE_CHECKING:
    from pytest_glasshouse.legs.attestation import OutsideServer
    from pytest_glasshouse.legs.model_sources import ModelSources
    from pytest_glasshouse.observation.document import SamplingPlan
    from pytest_glasshouse.owner.policy import Policy
    from pytest_glasshouse.providers.requirements import CudaVersion, Requirements
    from pytest_glasshouse.rows.overrides import Overrides
    from pytest_glasshouse.rows.spec import ModelSource, Order, Preset, RowSpec


Source = Literal["option", "environment", "ini", "default"]


#: What `--glasshouse-order` and a report's methodology call each row's own order.
OWN_ORDER = "row"


def order_named(name: str) -> Order | None:
    """The order that every row is to run in; None for each row's own."""
    return None if name == OWN_ORDER else cast("Order", name)


def order_name(order: Order | None) -> str:
    """The name of an order as options and reports have it; `order_named` is the inverse."""
    return order or OWN_ORDER


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the user asked for, checked. None: nothing was asked for."""

    order: Order | None = None
    provider: str = "mock"
    provider_from: Source = "default"
    budget_usd: float | None = None
    max_price_usd: float | None = None
    max_gpu_hours: float | None = None
    rounds: int | None = None
    preset: Preset | None = None
    fixed_order: bool = False
    leg_seconds: float | None = None
    leg_steps: int | None = None
    margin_pct: float | None = None
    half_width_pct: float | None = None
    seed: int | None = None
    max_overhead_pct: float | None = None
    sequential: bool = False
    publishable: bool = False
    allocation: str = "shared"
    boot_timeout_s: float | None = None
    leg_timeout_s: float | None = None
    allow_simulated: bool = False
    sweeper: str | None = None
    strict_memory: bool = False
    report: Path | None = None
    report_dir: Path | None = None
    html: bool = False
    resume: str | None = None
    faults: tuple[str, ...] = ()
    image: str | None = None
    min_cuda: CudaVersion | None = None
    min_gpu_memory_gb: float | None = None
    min_memory_gb: float | None = None
    min_disk_gb: int | None = None
    machines: OwnMachines = field(default_factory=OwnMachines)
    model: str | None = None
    stand_in: str | None = None
    model_source: ModelSource | None = None
    guest_models: str | None = None
    push_limit_gb: float | None = None
    server: str | None = None
    server_key: str | None = None
    server_ca: Path | None = None
    owner_key: Path | None = None
    policy: Path | None = None

    def reports(self, root: Path) -> Path:
        """The directory of reports that no option names a path of: `reports` below pytest's root directory, unless told."""
        return self.report_dir or root / "reports"

    @property
    def outside_server(self) -> OutsideServer | None:
        """The attestation server to use, where it is not this process."""
        if self.server is None or self.server_key is None or self.owner_key is None:
            return None
        from pytest_glasshouse.legs.attestation import OutsideServer

        return OutsideServer(url=self.server, key=self.server_key, owner_key=self.owner_key, authority=self.server_ca)

    @property
    def owner_policy(self) -> Policy | None:
        """The owner's policy, enforced on every allocation. Raises `ConfigurationError` for a file that is no policy."""
        if self.policy is None:
            return None
        from pytest_glasshouse.legs.allocation_policy import read_policy_file

        return read_policy_file(self.policy)

    @property
    def requirements(self) -> Requirements:
        """What a rented machine must have; the CUDA version is the image's where the tag names one and nothing was asked for."""
        from pytest_glasshouse.providers.requirements import Requirements, cuda_of_image

        return Requirements(
            cuda=self.min_cuda or cuda_of_image(self.image),
            gpu_memory_gb=self.min_gpu_memory_gb,
            memory_gb=self.min_memory_gb,
            disk_gb=self.min_disk_gb,
        )

    def provider_of(self, row: RowSpec) -> str:
        """The provider that `row` runs on."""
        return row.provider if self.provider == "row" else self.provider

    def model_sources_of(self, row: RowSpec) -> ModelSources:
        """From where the guest of `row` may get its base model."""
        from pytest_glasshouse.legs.model_sources import PUSH_LIMIT_BYTES, ModelSources

        limit = PUSH_LIMIT_BYTES if self.push_limit_gb is None else round(self.push_limit_gb * 1e9)
        return ModelSources(directory=self.guest_models, only=self.model_source or row.model_source, push_limit_bytes=limit)

    @property
    def looks(self) -> SamplingPlan | None:
        """The looks after which a row may end, as its plan names them; None where it may not."""
        if not self.sequential or self.max_overhead_pct is None:
            return None
        from pytest_glasshouse.analysis.looks import plan_of_looks

        return plan_of_looks(self.max_overhead_pct)

    @property
    def overrides(self) -> Overrides:
        """What these options change in every row."""
        from pytest_glasshouse.rows.overrides import Overrides

        return Overrides(
            order=self.order,
            target_s=self.leg_seconds,
            steps=self.leg_steps,
            rounds=self.rounds,
            margin_pct=self.margin_pct,
            model=self.model,
            preset=self.preset,
            sequential=self.sequential,
            dry_run=self.provider == "mock",
            own_provider=self.provider == "row",
        )


def check_together(options: Options) -> None:
    """Raise `ConfigurationError` for options that exclude each other, or of which one needs another."""
    if options.leg_seconds is not None and options.leg_steps is not None:
        raise ConfigurationError("--glasshouse-leg-seconds and --glasshouse-leg-steps: a leg ends by one of them; give one")
    if options.publishable and options.provider_from == "default":
        raise ConfigurationError(
            "--glasshouse-publishable: nothing on the mock provider is publishable; choose a provider with --glasshouse-provider"
        )
    if options.faults and options.provider not in ("mock", "row"):
        raise ConfigurationError(f"--glasshouse-mock-fault: only the mock provider plays faults, not {options.provider}")
    if options.stand_in is not None and (options.model or options.model_source):
        other = "model" if options.model else "model-source"
        raise ConfigurationError(
            f"--glasshouse-stand-in and --glasshouse-{other}: a stand-in is of no model and comes from no source; give one"
        )
    _check_sequential(options)
    _check_server(options)
    if options.report is not None:
        _check_writable(options.report)


def _check_sequential(options: Options) -> None:
    """Looks need a limit to look at, and are the only rule by which such a row ends."""
    if not options.sequential:
        return
    if options.max_overhead_pct is None:
        raise ConfigurationError("--glasshouse-sequential: there is no limit to look at; give --glasshouse-max-overhead too")
    others = {
        "rounds": options.rounds is not None,
        "half-width": options.half_width_pct is not None,
        "fixed-order": options.fixed_order,
    }
    if given := [name for name, is_given in others.items() if is_given]:
        raise ConfigurationError(
            f"--glasshouse-sequential and --glasshouse-{given[0]}: the looks decide how many rounds a row has, of both orders; "
            "give one"
        )


def _check_server(options: Options) -> None:
    """An outside server needs its key and the owner's: without them a row would be attested by an unknown server."""
    if options.server is None:
        given = [name for name in ("server_key", "server_ca") if getattr(options, name) is not None]
        if given:
            raise ConfigurationError(
                f"GLASSHOUSE_{given[0].upper()}: there is no GLASSHOUSE_SERVER that it could belong to; set that, or unset this"
            )
        return
    missing = [f"GLASSHOUSE_{name.upper()}" for name in ("server_key", "owner_key") if getattr(options, name) is None]
    if missing:
        raise ConfigurationError(
            f"GLASSHOUSE_SERVER: expected {' and '.join(missing)} beside it, saw none; see `glasshouse serve --help`"
        )
    from pytest_glasshouse.legs.attestation import checked_url

    checked_url(options.server)
    if options.server_ca is not None and not options.server_ca.is_file():
        raise ConfigurationError(f"GLASSHOUSE_SERVER_CA: {options.server_ca} is not a file")


def _check_writable(report: Path) -> None:
    """Refuse a path that is a directory, or whose nearest existing ancestor is no directory that may be written.

    A pipe or a device is written through. `report.paths.check_writable` tries the write itself before the first row.
    """
    from pytest_glasshouse.wire.whole_file import is_passed_through

    try:
        if report.is_dir():
            raise ConfigurationError(f"--glasshouse-report: {report} is a directory; name a file in it")
        if is_passed_through(report):
            return
        ancestor = next(folder for folder in report.parents if folder.exists())
    except OSError as error:
        raise ConfigurationError(f"--glasshouse-report: {report} cannot be written ({error.strerror})") from None
    except ValueError:
        raise ConfigurationError(f"--glasshouse-report: {str(report)!r} is no path") from None
    if not ancestor.is_dir():
        raise ConfigurationError(f"--glasshouse-report: {report} cannot be written: {ancestor} is not a directory")
    if not report.exists() and not os.access(ancestor, os.W_OK | os.X_OK):
        raise ConfigurationError(f"--glasshouse-report: {report} cannot be written: no permission in {ancestor}")
