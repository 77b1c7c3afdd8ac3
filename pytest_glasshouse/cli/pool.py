"""`glasshouse pool REPORT...`: the interval over several allocations, the only figure that may carry a GPU's name.

Reads reports and checks each first; the arithmetic is `overhead.pool`'s and the grouping `check.pooling`'s.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_glasshouse.cli.derivation import derivation_of
from pytest_glasshouse.errors import ReportError
from pytest_glasshouse.run.exit_codes import EXIT_NO, EXIT_NOTHING, EXIT_OK, EXIT_USAGE
from pytest_glasshouse.wire.output import write_lines
from pytest_glasshouse.wire.printable import counted

if TYPE_CHECKING:
    from pytest_glasshouse.cli.parser import Commands

_POOL = """\
Pool the rounds of several REPORTs (reports or bundles) over their allocations: random effects (Paule-Mandel) with the
interval of Hartung, Knapp, Sidik and Jonkman; Student's t over allocations where one of them has a single round. Given
twice: all completed rounds, those of excluded rows too, which is the headline; and the rounds of rows whose null qualified.

It takes three allocations. With fewer there is no figure, and no GPU is named. The same GPU rented twice is one.

exit codes: 0 at least one pool; 1 a report has faults; 4 a report cannot be used; 5 nothing with three allocations
"""


def declare(commands: Commands) -> None:
    """Add the command."""
    pool = commands.add_parser(
        "pool",
        help="one interval over several allocations",
        description=_POOL,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    pool.add_argument("report", nargs="+", type=Path, metavar="REPORT", help="a report or a .glasshouse.zip bundle")
    pool.add_argument("--margin", type=_points, metavar="POINTS", help="equivalence margin (default: the narrowest of the rows)")
    pool.set_defaults(run=_pool, report_error_code=EXIT_USAGE)


def _pool(options: argparse.Namespace) -> int:
    from pytest_glasshouse.check.check import check_bytes, load_document
    from pytest_glasshouse.check.pooling import groups, lines
    from pytest_glasshouse.report.bundle import read_report

    documents = []
    for path in options.report:
        data = read_report(path)
        try:
            checked = check_bytes(data, derivation=derivation_of(options))
        except ReportError as error:
            raise ReportError(f"{path}: {error}") from error
        if not checked.sound:
            write_lines(
                [f"{path}: FAULTY: {counted(len(checked.faults), 'fault')}, first {checked.faults[0]}; nothing was pooled"]
            )
            return EXIT_NO
        documents.append(load_document(data))
    margins = [row["marginPct"] for document in documents for row in document["rows"]]
    margin_pct = options.margin if options.margin is not None else min(margins, default=1.0)
    found = groups(documents)
    for group in found:
        write_lines(lines(group, margin_pct=margin_pct))
    if not any(group.pooled(margin_pct=margin_pct)[0] for group in found):
        write_lines(["nothing to pool: expected three allocations of one workload, GPU and order, saw fewer"])
        return EXIT_NOTHING
    return EXIT_OK


def _points(text: str) -> float:
    try:
        value = float(text) if text.isascii() else 0.0
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number, saw {text!r}") from None
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected points above 0, saw {text[:40]}")
    return value
