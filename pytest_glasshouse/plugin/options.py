"""What the user asked for, read once into `Options` from command line, environment and ini, in this order of precedence.

A value that cannot be is a `ConfigurationError` of one line that names where it came from. This module refuses to know
what the values do; rooms below get plain values, never `Options`.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.plugin.settings import OTHER_VARIABLES, SETTINGS, Setting

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pytest

    from pytest_glasshouse.legs.attestation import OutsideServer
    from pytest_glasshouse.owner.policy import Policy
    from pytest_glasshouse.rows.overrides import Overrides
    from pytest_glasshouse.rows.spec import Order, Preset

Source = Literal["option", "environment", "ini", "default"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the user asked for, checked. None means: nothing was asked for."""

    order: Order | None = None
    provider: str = "mock"
    provider_from: Source = "default"
    budget_usd: float | None = None
    max_price_usd: float | None = None
    rounds: int | None = None
    preset: Preset | None = None
    fixed_order: bool = False
    leg_seconds: float | None = None
    leg_steps: int | None = None
    margin_pct: float | None = None
    half_width_pct: float | None = None
    seed: int | None = None
    max_overhead_pct: float | None = None
    publishable: bool = False
    allocation: str = "shared"
    boot_timeout_s: float | None = None
    leg_timeout_s: float | None = None
    allow_simulated: bool = False
    sweeper: str | None = None
    strict_memory: bool = False
    report: Path | None = None
    html: bool = False
    resume: str | None = None
    faults: tuple[str, ...] = ()
    image: str | None = None
    model: str | None = None
    server: str | None = None
    server_key: str | None = None
    server_ca: Path | None = None
    owner_key: Path | None = None
    policy: Path | None = None

    @property
    def outside_server(self) -> OutsideServer | None:
        """The attestation server to use, where it is not this process."""
        if self.server is None or self.server_key is None or self.owner_key is None:
            return None
        from pytest_glasshouse.legs.attestation import OutsideServer

        return OutsideServer(url=self.server, key=self.server_key, owner_key=self.owner_key, authority=self.server_ca)

    @property
    def demands(self) -> Policy | None:
        """What the policy file asks of every allocation. Raises `ConfigurationError` for a file that is no such policy."""
        if self.policy is None:
            return None
        from pytest_glasshouse.legs.allocation_policy import read_demands

        return read_demands(self.policy)

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
            dry_run=self.provider == "mock",
            own_provider=self.provider == "row",
        )


def declare(parser: pytest.Parser) -> None:
    """Register every canonical option and ini name. The short names come later, where nobody else owns them."""
    group = parser.getgroup("glasshouse", "glasshouse: benchmark rows on protected GPUs")
    for setting in SETTINGS:
        group.addoption(setting.flag, help=setting.help, **setting.argparse())
        parser.addini(setting.dest, setting.help.replace("%%", "%"), type=setting.ini_type, default=None)


def declare_short(parser: pytest.Parser) -> list[str]:
    """Register the short names that are free; the others are returned. To be called after the conftest files were loaded."""
    from argparse import ArgumentError

    group, taken = parser.getgroup("glasshouse"), []
    for setting in SETTINGS:
        if setting.short is None:
            continue
        try:
            group.addoption(setting.short, help=f"short for {setting.flag}", **setting.argparse())
        except (ValueError, ArgumentError):
            taken.append(setting.short)
    return taken


def no_places(config: pytest.Config, args: Sequence[str]) -> None:
    """Before conftest files are loaded: a folder that has the name of an option's value is not where tests are.

    pytest does not know these options when it looks for its ini file, nor the short ones when it looks for conftest files.
    Raises `pytest.UsageError` where the ini file it found is one of such a folder.
    """
    known = {
        flag: setting for setting in SETTINGS if setting.ini_type != "bool" for flag in (setting.flag, setting.short) if flag
    }
    places, found, here = config.known_args_namespace.file_or_dir, config.inipath, config.invocation_params.dir
    for flag, value in itertools.pairwise(args):
        if flag not in known or not _is_value(known[flag], value):
            continue
        if flag == known[flag].short and value in places:
            places.remove(value)
        folder = Path(os.path.normpath(here / value))
        if found is not None and found.is_relative_to(folder) and not here.is_relative_to(folder):
            raise _usage_error()(
                f"{flag} {value}: pytest takes the folder of that name for a place of tests; write {flag}={value}"
            )


def _is_value(setting: Setting, text: str) -> bool:
    try:
        setting.parse(text)
    except ValueError:
        return False
    return True


def read(config: pytest.Config, environ: Mapping[str, str]) -> Options:
    """Read and check every setting. Raises `ConfigurationError`."""
    values: dict[str, Any] = {}
    sources: dict[str, Source] = {}
    for setting in SETTINGS:
        source, where, text = _written(setting, config, environ)
        sources[setting.name] = source
        if text is None:
            continue
        try:
            values[setting.name] = [setting.parse(part) for part in text] if isinstance(text, list) else setting.parse(text)
        except ValueError as error:
            raise ConfigurationError(f"{where}: {error}") from None
    options = _assemble(values, sources, config)
    _check_together(options)
    return options


def misspelt(environ: Mapping[str, str]) -> tuple[str, ...]:
    """A note for each variable that is nobody's and looks like one of ours. Its value is not shown: it may be a secret."""
    from difflib import get_close_matches

    known = [setting.variable for setting in SETTINGS] + list(OTHER_VARIABLES)
    strange = [name for name in sorted(environ) if name.startswith("GLAS") and name not in known]
    close = [(name, get_close_matches(name, known, n=1, cutoff=0.88)) for name in strange]
    return tuple(f"{name} in the environment is read by nobody. Did you mean {found[0]}?" for name, found in close if found)


def _written(setting: Setting, config: pytest.Config, environ: Mapping[str, str]) -> tuple[Source, str, str | list[str] | None]:
    given = config.getoption(setting.dest, None)
    if given is not None:
        return "option", setting.flag, given
    text = environ.get(setting.variable, "")
    if text:
        return "environment", setting.variable, text.replace(",", " ").split() if setting.ini_type == "args" else text
    try:
        value = config.getini(setting.dest)
    except (TypeError, ValueError, _usage_error()) as error:
        raise ConfigurationError(f"ini {setting.dest}: {error}") from None
    if value is None or value in ("", []):
        return "default", "", None
    return "ini", f"ini {setting.dest}", value if isinstance(value, list) else str(value)


def _usage_error() -> type[Exception]:
    import pytest

    return pytest.UsageError


def _assemble(values: dict[str, Any], sources: dict[str, Source], config: pytest.Config) -> Options:
    provider = values.get("provider", "mock")
    order = values.get("order", "row")
    report = values.get("report")
    if report is not None:
        base = config.rootpath if sources["report"] == "ini" else config.invocation_params.dir
        report = base / report
    return Options(
        order=None if order == "row" else cast("Order", order),
        provider=provider,
        provider_from=sources["provider"],
        budget_usd=values.get("budget"),
        max_price_usd=values.get("max_price"),
        rounds=values.get("rounds"),
        preset=values.get("preset"),
        fixed_order=values.get("fixed_order", False),
        leg_seconds=values.get("leg_seconds"),
        leg_steps=values.get("leg_steps"),
        margin_pct=values.get("margin"),
        half_width_pct=values.get("half_width"),
        seed=values.get("seed"),
        max_overhead_pct=values.get("max_overhead"),
        publishable=values.get("publishable", False),
        allocation=values.get("allocation", "shared"),
        boot_timeout_s=values.get("boot_timeout"),
        leg_timeout_s=values.get("leg_timeout"),
        allow_simulated=values.get("allow_simulated", False),
        sweeper=values.get("sweeper"),
        strict_memory=values.get("strict_memory", False),
        report=report,
        html=values.get("html", False),
        resume=values.get("resume"),
        faults=tuple(dict.fromkeys(values.get("mock_fault", ()))),
        image=values.get("image"),
        model=values.get("model"),
        server=values.get("server"),
        server_key=values.get("server_key"),
        server_ca=values.get("server_ca"),
        owner_key=values.get("owner_key"),
        policy=values.get("policy"),
    )


def _check_together(options: Options) -> None:
    if options.leg_seconds is not None and options.leg_steps is not None:
        raise ConfigurationError("--glasshouse-leg-seconds and --glasshouse-leg-steps: a leg ends by one of them; give one")
    if options.publishable and options.provider_from == "default":
        raise ConfigurationError(
            "--glasshouse-publishable: nothing on the mock provider is publishable; choose a provider with --glasshouse-provider"
        )
    if options.faults and options.provider not in ("mock", "row"):
        raise ConfigurationError(f"--glasshouse-mock-fault: only the mock provider plays faults, not {options.provider}")
    _check_server(options)
    if options.report is not None:
        _check_writable(options.report)


def _check_server(options: Options) -> None:
    """A server of one's own needs all three, or a row would be attested by a stranger."""
    if options.server is None:
        given = [name for name in ("server_key", "server_ca") if getattr(options, name) is not None]
        if given:
            raise ConfigurationError(f"GLASSHOUSE_{given[0].upper()}: there is no GLASSHOUSE_SERVER that it could belong to")
        return
    missing = [f"GLASSHOUSE_{name.upper()}" for name in ("server_key", "owner_key") if getattr(options, name) is None]
    if missing:
        told = f"GLASSHOUSE_SERVER: expected {' and '.join(missing)} beside it, saw none; see `glasshouse serve --help`"
        raise ConfigurationError(told)
    from pytest_glasshouse.legs.attestation import checked_url

    checked_url(options.server)
    if options.server_ca is not None and not options.server_ca.is_file():
        raise ConfigurationError(f"GLASSHOUSE_SERVER_CA: {options.server_ca} is not a file")


def _check_writable(report: Path) -> None:
    """Promise a later write: the path is no directory, and its nearest existing ancestor is a directory we may write to.

    A pipe or a device is written through. `report.writer.check_writable` tries it all before the first row.
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
