"""`glasshouse watch`: what a run does now, shown in another terminal, from its directory. It changes nothing there."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from pytest_glasshouse.errors import ConfigurationError, IntegrityError
from pytest_glasshouse.run.exit_codes import EXIT_OK, EXIT_USAGE
from pytest_glasshouse.wire.output import write_line
from pytest_glasshouse.wire.printable import visible

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_glasshouse.cli.parser import Commands

_PLAN_LIMIT = 16 << 20
_WATCH = """\
Follow a run of this machine: RUN is its id or its directory. With a terminal, one live line; without, one line for each
change. It ends when the run does.
"""


def declare(commands: Commands) -> None:
    """Add the command."""
    watch = commands.add_parser("watch", help="follow a run from another terminal", description=_WATCH, allow_abbrev=False)
    watch.add_argument("run_name", metavar="RUN", help="run id, or its directory reports/<run-id>.run")
    watch.add_argument("--once", action="store_true", help="show what it does now, and end")
    watch.set_defaults(run=_watch, report_error_code=EXIT_USAGE)


def _watch(options: argparse.Namespace) -> int:
    directory = _directory(options.run_name)
    follow(directory, sys.stdout, terminal=sys.stdout.isatty(), once=options.once, sleep=time.sleep)
    return EXIT_OK


def _directory(named: str) -> Path:
    for path in (Path(named), Path("reports") / f"{named}.run"):
        if path.is_dir():
            return path
    raise ConfigurationError(f"{named}: expected a run in progress, saw neither that directory nor reports/{named}.run")


def follow(directory: Path, out: TextIO, *, terminal: bool, once: bool, sleep: Callable[[float], None]) -> None:
    """Write what is new once a second until the run directory is gone."""
    last = ""
    while directory.is_dir():
        line = _line(directory)
        if line != last:
            write_line(line, out=out, over=terminal)
            last = line
        if once:
            break
        sleep(1.0)
    if terminal:
        write_line("", out=out)
    if not once:
        write_line("the run has ended", out=out)


def _line(directory: Path) -> str:
    from pytest_glasshouse.run.progress_file import read_progress

    ended, rows = _count(directory)
    # What ran last stays in the file until something else runs; after the last row nothing does.
    lines = {} if rows and ended == rows else read_progress(directory)
    running = "  |  ".join(visible(line, limit=400) for _, line in sorted(lines.items()))
    return f"{ended} of {rows} rows ended" + (f"  |  {running}" if running else "")


def _count(directory: Path) -> tuple[int, int]:
    """Rows that ended and all of them. A row that was tried again has a line for each time: it counts once."""
    from pytest_glasshouse.report.row_journal import ROWS
    from pytest_glasshouse.report.run_directory import FILE_LIMIT
    from pytest_glasshouse.run.attempt_history import PLAN
    from pytest_glasshouse.wire.bounded_file import read_json, read_regular
    from pytest_glasshouse.wire.canonical import parse_tolerant

    try:
        plan: Any = read_json(directory / PLAN, limit=_PLAN_LIMIT)
        rows = len(plan["rows"])
    except (OSError, IntegrityError, KeyError, TypeError):
        return 0, 0
    ended: set[str] = set()
    try:
        lines = read_regular(directory / ROWS, limit=FILE_LIMIT).splitlines()
    except (OSError, IntegrityError):
        lines = []
    for line in lines:
        # The last line may still be being written, and what a guest sent may be no strict JSON.
        with contextlib.suppress(IntegrityError, KeyError, TypeError):
            journalled: Any = parse_tolerant(line, limit=FILE_LIMIT)
            ended.add(str(journalled["record"]["rowId"]))
    return len(ended), rows
