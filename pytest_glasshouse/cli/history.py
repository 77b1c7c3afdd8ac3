"""`glasshouse history`: each row's figures over the reports of a directory."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_glasshouse.cli.derivation import derivation_of, is_own
from pytest_glasshouse.cli.reports import declare_directory, existing
from pytest_glasshouse.run.exit_codes import EXIT_NOTHING, EXIT_OK, EXIT_USAGE
from pytest_glasshouse.wire.output import write_lines
from pytest_glasshouse.wire.text_table import width_of

if TYPE_CHECKING:
    from pytest_glasshouse.cli.parser import Commands

_HISTORY = """\
List every row's overhead over the reports below a directory (default: reports), oldest first, and before that every row that
failed in one of them. Faulty reports are named and left out; other JSON files are counted, and virtual environments are not
searched.
"""


def declare(commands: Commands) -> None:
    """Add the command."""
    history = commands.add_parser(
        "history", help="each row's figures over the reports of a directory", description=_HISTORY, allow_abbrev=False
    )
    declare_directory(history)
    history.add_argument("--row", metavar="PATTERN", default="*", help="rows whose name matches (default: all)")
    history.set_defaults(run=_history, report_error_code=EXIT_USAGE)


def _history(options: argparse.Namespace) -> int:
    from pytest_glasshouse.check.history import history, lines

    directory: Path = existing(options.directory)
    found = history(directory, pattern=options.row, derivation=derivation_of(options), keep_verdicts=is_own(options))
    write_lines(lines(found, width=width_of(sys.stdout)))
    return EXIT_OK if found.entries else EXIT_NOTHING
