"""Asks before anything is rented: renting takes a budget, or a person at a terminal who accepts the price table.

A key in the environment is neither.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.providers.places import PLACES
from pytest_glasshouse.wire.output import write_lines
from pytest_glasshouse.wire.text_table import width_of

if TYPE_CHECKING:
    import pytest

    from pytest_glasshouse.broker.broker import Broker
    from pytest_glasshouse.run.options import Options


#: What every line of the question begins with.
_SAID = "glasshouse: "


def ask_to_rent(broker: Broker, options: Options, config: pytest.Config, environ: Mapping[str, str]) -> None:
    """Show the price table and return, or raise: `ConfigurationError` without agreement, `BudgetError` above the budget.

    Where nothing is rented, it only says which places are not what they stand for.
    A provider that gives no prices is an `InfrastructureError`; waiting for it is shown.
    """
    with _uncaptured(config):
        for name in broker.simulated:
            why = "has a base URL that is not its own" if PLACES[name].rents else "uses hosts without the GPU of the rows"
            _say(f"SIMULATED: provider {name} {why}; its rows are dry runs, not publishable")
        if not broker.rents:
            return
        at_terminal = all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout))
        if options.budget_usd is None and not at_terminal:
            raise ConfigurationError(
                f"provider {options.provider} rents: expected --glasshouse-budget USD, saw none, and there is no terminal to ask "
                "at; give a budget. Nothing was rented"
            )
        if environ.get("CI") and not options.sweeper and not broker.simulated:
            raise ConfigurationError(
                "CI is set: expected --glasshouse-sweeper NAME (or GLASSHOUSE_SWEEPER, or glasshouse_sweeper in the ini file), "
                "the name of the scheduled job that runs `glasshouse reap --expired`, saw none. A CI machine may kill this run "
                "and its reaper; nothing was rented"
            )
        from pytest_glasshouse.broker.pricing import table

        whole = width_of(sys.stdout)
        width = None if whole is None else whole - len(_SAID)
        for line in table(broker.quote(on_retry=_say), budget_usd=options.budget_usd, width=width):
            _say(line)
        if options.budget_usd is None and input("glasshouse: rent this? [yes/no] ").strip().lower() not in ("y", "yes"):
            raise ConfigurationError("not rented: expected yes, saw another answer; nothing was started")


def _say(line: str) -> None:
    write_lines([f"{_SAID}{line}"])


@contextmanager
def _uncaptured(config: pytest.Config) -> Iterator[None]:
    """The real standard streams, for as long as it takes to ask."""
    capture = config.pluginmanager.get_plugin("capturemanager")
    if capture is None:
        yield
        return
    capturing = capture.is_globally_capturing()
    capture.suspend_global_capture(in_=True)
    try:
        yield
    finally:
        capture.resume_global_capture()
        if not capturing:
            capture.suspend_global_capture()
