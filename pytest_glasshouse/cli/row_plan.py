"""`glasshouse plan`: what the rows that ship would take, and an interval of a given width, before anything is rented."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from pytest_glasshouse.cli.derivation import derivation_of
from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.run.exit_codes import EXIT_NOTHING, EXIT_OK, EXIT_USAGE
from pytest_glasshouse.wire.output import write_lines
from pytest_glasshouse.wire.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_glasshouse.analysis.fields import MeasuredRow
    from pytest_glasshouse.cli.parser import Commands
    from pytest_glasshouse.rows.spec import RowSpec

_PLAN = """\
Print the GPU minutes of rows that ship with this package: of starts, loads, warm-ups, wash-outs and timed segments. Starts
and loads are assumed. With --half-width also how many rounds and minutes a 95 % interval of plus or minus W points takes, by
the spread of rounds in the reports of --history: of the row, else of its workload, else an assumed one. Rents nothing.
"""
#: The standard deviation of a round's log ratio where no report shows one, in percent.
ASSUMED_SPREAD_PCT = 0.5


def declare(commands: Commands) -> None:
    """Add the command."""
    plan = commands.add_parser(
        "plan", help="what rows would take, before anything is rented", description=_PLAN, allow_abbrev=False
    )
    plan.add_argument("rows", nargs="+", metavar="ROW", help="names or patterns of rows, such as 'h100-*'")
    plan.add_argument("--half-width", type=float, metavar="W", help="points of a 95 %% interval to each side")
    plan.add_argument("--history", type=Path, metavar="DIR", help="reports whose spreads are taken")
    plan.add_argument("--order", choices=("raw-first", "protected-first", "interleaved"), help="as --glasshouse-order")
    plan.add_argument("--preset", choices=("quick", "standard", "publish"), help="as --glasshouse-preset")
    plan.add_argument("--leg-seconds", type=float, metavar="SECONDS", help="as --glasshouse-leg-seconds")
    plan.set_defaults(run=_plan, report_error_code=EXIT_USAGE)


def _plan(options: argparse.Namespace) -> int:
    from pytest_glasshouse.rows.row_time import aligned, time_lines

    for name in ("half_width", "leg_seconds"):
        value = getattr(options, name)
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ConfigurationError(f"--{name.replace('_', '-')}: expected a number above 0, saw {value:g}")
    rows = _rows(options)
    if not rows:
        patterns = ", ".join(printable(each) for each in options.rows)
        write_lines([f"no row that ships matches {patterns}; names: `pytest --pyargs pytest_glasshouse.benchmarks --co -q`"])
        return EXIT_NOTHING
    write_lines(time_lines(rows))
    if options.half_width is not None:
        write_lines(["", *aligned([*_width_table(rows, options)])])
    return EXIT_OK


def _rows(options: argparse.Namespace) -> list[RowSpec]:
    from fnmatch import fnmatchcase

    from pytest_glasshouse.rows import INTERLEAVED_ROWS, LORA_ROWS, MLP_ROWS, NULL_ROWS, SEALED_ROWS
    from pytest_glasshouse.rows.overrides import Overrides

    overrides = Overrides(order=options.order, preset=options.preset, target_s=options.leg_seconds)
    shipped = (*MLP_ROWS, *LORA_ROWS, *INTERLEAVED_ROWS, *NULL_ROWS, *SEALED_ROWS)
    return [overrides.apply(row) for row in shipped if any(fnmatchcase(row.name, pattern) for pattern in options.rows)]


def _width_table(rows: Sequence[RowSpec], options: argparse.Namespace) -> Iterator[tuple[str, ...]]:
    from pytest_glasshouse.overhead.extension import rounds_of_spread
    from pytest_glasshouse.rows.row_time import row_time

    measured = _measured(options)
    yield (f"for +-{options.half_width:g} points", "spread of rounds", "rounds", "GPU minutes")
    for row in rows:
        if row.sealed:
            continue
        spread_pct, source = _spread(row, measured)
        rounds = rounds_of_spread(spread_pct, half_width_pct=options.half_width)
        minutes = row_time(row, rounds=rounds).total_s / 60
        yield (printable(row.name), f"{spread_pct:.2f} %, {source}", str(rounds), f"{minutes:.0f}")


def _measured(options: argparse.Namespace) -> list[MeasuredRow]:
    if options.history is None:
        return []
    from pytest_glasshouse.check.history import history

    if not options.history.is_dir():
        raise ConfigurationError(f"{options.history}: expected a directory with reports, saw none")
    found = history(options.history, derivation=derivation_of(options))
    return [each.row for each in found.entries if "roundFigures" in each.row]


def _spread(row: RowSpec, measured: Sequence[MeasuredRow]) -> tuple[float, str]:
    """The median spread of a row's rounds over reports, in percent, and where it is from."""
    of_row = [spread for each in measured if each["name"] == row.name and (spread := _spread_of(each))]
    of_workload = [spread for each in measured if each["workload"] == row.workload and (spread := _spread_of(each))]
    for found, source in ((of_row, "of this row"), (of_workload, f"of {row.workload} rows")):
        if found:
            return median(found), f"{source} in {len(found)} report(s)"
    return ASSUMED_SPREAD_PCT, "assumed"


def _spread_of(row: MeasuredRow) -> float | None:
    """The standard deviation of a report's rounds; None for one round, or where nothing varied."""
    from pytest_glasshouse.analysis.row_limits import log_ratios
    from pytest_glasshouse.analysis.sampling import sampling_of
    from pytest_glasshouse.overhead.interval import MIN_FOR_INTERVAL, mean_of_rounds

    ratios = log_ratios(row)
    return mean_of_rounds(ratios, sampling_of(row)).spread * 100 if len(ratios) >= MIN_FOR_INTERVAL else None
