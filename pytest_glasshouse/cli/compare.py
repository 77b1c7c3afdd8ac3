"""`glasshouse compare`: two reports, row by row."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_glasshouse.cli.derivation import derivation_of
from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.run.exit_codes import EXIT_NO, EXIT_NOTHING, EXIT_OK, EXIT_USAGE
from pytest_glasshouse.wire.output import write_lines

if TYPE_CHECKING:
    from pytest_glasshouse.cli.parser import Commands
    from pytest_glasshouse.report.fields import Report

_COMPARE = """\
Compare the rows that reports A and B both measured: the overhead in each and the difference, B minus A, in percentage points
of the raw rate, with its 95 % interval (Welch's t over the rounds of both). One round on either side has no interval.

Rows on unlike machines (another GPU or provider, a dry run against a real one) are refused unless --allow-unlike.

exit codes: 0 compared; 1 a report has faults; 4 unusable, or machines unlike; 5 no row in common
"""


def declare(commands: Commands) -> None:
    """Add the command."""
    compare = commands.add_parser(
        "compare", help="two reports, row by row", description=_COMPARE,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    compare.add_argument("before", type=Path, metavar="A")
    compare.add_argument("after", type=Path, metavar="B")
    compare.add_argument("--allow-unlike", action="store_true", help="compare rows that ran on unlike machines, and show that")
    compare.set_defaults(run=_compare, report_error_code=EXIT_USAGE)


def _compare(options: argparse.Namespace) -> int:
    from pytest_glasshouse.check.compare import compare, lines

    before, after = (_sound(path, options) for path in (options.before, options.after))
    if before is None or after is None:
        return EXIT_NO
    compared = compare(before, after)
    unlike = [each for each in compared.pairs if each.unlike]
    if unlike and not options.allow_unlike:
        pairs = "; ".join(f"{each.name}: {each.unlike}" for each in unlike)
        raise ConfigurationError(
            f"unlike machines: {pairs}. Their difference is not one of protection; compare reports of like machines, or give "
            "--allow-unlike"
        )
    write_lines(lines(compared, names=(options.before.name, options.after.name)))
    return EXIT_OK if compared.pairs or compared.sealed else EXIT_NOTHING


def _sound(path: Path, options: argparse.Namespace) -> Report | None:
    """The report's document, or None after its faults were shown."""
    from pytest_glasshouse.check.check import check_bytes, read_document

    data, document = read_document(path, derivation=derivation_of(options))
    faults = check_bytes(data, derivation=derivation_of(options)).faults
    write_lines(f"{path}: {fault}" for fault in faults)
    return None if faults else document
