"""What the user asked for, read once into `Options` from command line, environment and ini, in this order of precedence.

A wrong value is a `ConfigurationError` of one line that names where it was written. This module refuses to know what the
values do.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.plugin.settings import OTHER_VARIABLES, SETTINGS, Setting

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pytest

    from pytest_glasshouse.run.options import Options, Source


def declare(parser: pytest.Parser) -> None:
    """Register every canonical option and ini name. The short names come later, where they are free."""
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


def drop_option_values_from_paths(config: pytest.Config, args: Sequence[str]) -> None:
    """Before conftest files are loaded: take values of this plugin's options out of the paths that pytest collects from.

    pytest does not know these options when it looks for its ini file, nor the short ones when it looks for conftest files, so a
    folder with the name of a value counts as a path. Raises `pytest.UsageError` where the ini file it found is in such a folder.
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
                f"{flag} {value}: pytest takes the folder of that name for a path of tests; write {flag}={value}"
            )


def _is_value(setting: Setting, text: str) -> bool:
    try:
        setting.parse(text)
    except ValueError:
        return False
    return True


def any_given(config: pytest.Config, environ: Mapping[str, str]) -> bool:
    """Whether anything may be written anywhere: without it nothing is read until there is a row."""
    if any(name.startswith("GLASSHOUSE_") for name in environ) or _in_ini(config):
        return True
    return any(config.getoption(setting.dest, None) is not None for setting in SETTINGS)


def _in_ini(config: pytest.Config) -> bool:
    """Whether the ini file, or `-o`, gives a setting a value. One that pytest cannot read counts: it is refused later."""
    if config.inipath is None and not config.getoption("override_ini", None):
        return False
    try:
        return any(config.getini(setting.dest) not in (None, "", []) for setting in SETTINGS)
    except (TypeError, ValueError, _usage_error()):
        return True


def read(config: pytest.Config, environ: Mapping[str, str]) -> Options:
    """Read and check every setting. Raises `ConfigurationError`."""
    from pytest_glasshouse.run.options import check_together

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
    check_together(options)
    return options


def misspelt(environ: Mapping[str, str]) -> tuple[str, ...]:
    """A note for each unknown variable whose name is close to that of an option. Its value is not shown: it may be a secret."""
    from difflib import get_close_matches

    known = [setting.variable for setting in SETTINGS] + list(OTHER_VARIABLES)
    unknown = [name for name in sorted(environ) if name.startswith("GLAS") and name not in known]
    close = [(name, get_close_matches(name, known, n=1, cutoff=0.88)) for name in unknown]
    return tuple(f"{name} in the environment is not read. Did you mean {found[0]}?" for name, found in close if found)


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
    from pytest_glasshouse.providers.place_settings import SLURM, OwnMachines, SlurmSite
    from pytest_glasshouse.run.options import OWN_ORDER, Options, order_named

    provider = values.get("provider", "mock")
    named = {
        name: (config.rootpath if sources[name] == "ini" else config.invocation_params.dir) / values[name]
        for name in ("report", "report_dir")
        if values.get(name) is not None
    }
    return Options(
        order=order_named(values.get("order", OWN_ORDER)),
        provider=provider,
        provider_from=sources["provider"],
        budget_usd=values.get("budget"),
        max_price_usd=values.get("max_price"),
        max_gpu_hours=values.get("max_gpu_hours"),
        rounds=values.get("rounds"),
        preset=values.get("preset"),
        fixed_order=values.get("fixed_order", False),
        leg_seconds=values.get("leg_seconds"),
        leg_steps=values.get("leg_steps"),
        margin_pct=values.get("margin"),
        half_width_pct=values.get("half_width"),
        seed=values.get("seed"),
        max_overhead_pct=values.get("max_overhead"),
        sequential=values.get("sequential", False),
        publishable=values.get("publishable", False),
        allocation=values.get("allocation", "shared"),
        boot_timeout_s=values.get("boot_timeout"),
        leg_timeout_s=values.get("leg_timeout"),
        allow_simulated=values.get("allow_simulated", False),
        sweeper=values.get("sweeper"),
        strict_memory=values.get("strict_memory", False),
        report=named.get("report"),
        report_dir=named.get("report_dir"),
        html=values.get("html", False),
        resume=values.get("resume"),
        faults=tuple(dict.fromkeys(values.get("mock_fault", ()))),
        image=values.get("image"),
        min_cuda=values.get("min_cuda"),
        min_gpu_memory_gb=values.get("min_gpu_memory"),
        min_memory_gb=values.get("min_memory"),
        min_disk_gb=values.get("min_disk"),
        machines=OwnMachines(
            hosts=tuple(dict.fromkeys(values.get("host", ()))),
            remote_python=values.get("remote_python", ""),
            gpu=values.get("gpu", ""),
            queue_timeout_s=values.get("queue_timeout"),
            slurm=SlurmSite(**{name: values.get(f"slurm_{name}", "") for name in SLURM}),
        ),
        model=values.get("model"),
        stand_in=values.get("stand_in"),
        model_source=values.get("model_source"),
        guest_models=values.get("guest_models"),
        push_limit_gb=values.get("push_limit"),
        server=values.get("server"),
        server_key=values.get("server_key"),
        server_ca=values.get("server_ca"),
        owner_key=values.get("owner_key"),
        policy=values.get("policy"),
    )
