"""`glasshouse watch`: what a run does now, shown in another terminal, from its directory. It changes nothing there."""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from pytest_glasshouse.cli.reports import reports_directory
from pytest_glasshouse.errors import ConfigurationError, IntegrityError
from pytest_glasshouse.run.exit_codes import EXIT_OK, EXIT_USAGE
from pytest_glasshouse.wire.output import RedLine, write_block, write_line
from pytest_glasshouse.wire.printable import counted, printable, visible
from pytest_glasshouse.wire.text_table import clipped, width_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_glasshouse.cli.parser import Commands

_PLAN_LIMIT = 16 << 20
_LINE = 400
_WATCH = """\
Follow a run of this machine: RUN is its id or its directory; without it, the run that began last. A terminal shows what failed,
how many rows ended, and one line for each worker, and is drawn again as they change; elsewhere there is a line for each change.
It ends when the run does.
"""


def declare(commands: Commands) -> None:
    """Add the command."""
    watch = commands.add_parser("watch", help="follow a run from another terminal", description=_WATCH, allow_abbrev=False)
    watch.add_argument(
        "run_name", nargs="?", metavar="RUN", help="run id, or its directory reports/<run-id>.run (default: the last that began)"
    )
    watch.add_argument("--once", action="store_true", help="show what it does now, and end")
    watch.set_defaults(run=_watch, report_error_code=EXIT_USAGE)


def _watch(options: argparse.Namespace) -> int:
    directory = _newest() if options.run_name is None else _directory(options.run_name)
    follow(directory, sys.stdout, terminal=sys.stdout.isatty(), once=options.once, sleep=time.sleep)
    return EXIT_OK


def _directory(named: str) -> Path:
    for path in (Path(named), reports_directory() / f"{named}.run"):
        if path.is_dir():
            return path
    raise ConfigurationError(
        f"{named}: expected a run in progress, saw neither that directory nor {reports_directory()}/{named}.run"
    )


def _newest() -> Path:
    """The run directory that was begun last: its name begins with the time."""
    running = sorted(each for each in reports_directory().glob("*.run") if each.is_dir())
    if not running:
        raise ConfigurationError(f"expected a run in progress, saw none in {reports_directory()}/; name its RUN, or start one")
    return running[-1]


def follow(directory: Path, out: TextIO, *, terminal: bool, once: bool, sleep: Callable[[float], None]) -> None:
    """Write what is new once a second until the run directory is gone."""
    last: list[str] = []
    while directory.is_dir():
        lines = running_lines(directory)
        if terminal and (lines != last or once):
            # As many as fit: a line that wraps, or a block that scrolls, could not be drawn over.
            width, height = width_of(out), shutil.get_terminal_size().lines
            shown = [type(line)(clipped(visible(line, limit=_LINE), width)) for line in lines][: max(height - 1, 1)]
            write_block(shown, out=out, over=min(len(last), max(height - 1, 1)))
        elif not terminal:
            for line in lines if once else _news(lines, last):
                write_line(line, out=out)
        last = lines
        if once:
            return
        sleep(1.0)
    write_line("the run has ended", out=out)


def _news(lines: list[str], last: list[str]) -> list[str]:
    """The lines that were not there before; how many rows ended stands before what runs now."""
    return [line for line in lines if line not in last]


def running_lines(directory: Path) -> list[str]:
    """What failed so far, how many rows ended, what the run has cost, and what each worker does."""
    from pytest_glasshouse.run.progress_file import read_progress

    ended, failed, rows = _count(directory)
    # What ran last stays in the file until something else runs; after the last row nothing does.
    progress = read_progress(directory)
    running = {} if rows and ended == rows else progress.workers
    head = f"{ended} of {counted(rows, 'row')} ended{f', {len(failed)} failed' if failed else ''}"
    head += f"; {printable(progress.cost)}" if progress.cost else ""
    return [
        *(RedLine(f"failed: {printable(line, limit=_LINE)}") for line in failed),
        head,
        *(f"  {line}" for _, line in sorted(running.items())),
    ]


def _count(directory: Path) -> tuple[int, list[str], int]:
    """Rows that ended, how those that failed did, and all rows. A row that was tried again counts once, as it ended last."""
    from pytest_glasshouse.report.failures import failures
    from pytest_glasshouse.report.row_journal import ROWS
    from pytest_glasshouse.report.run_directory import FILE_LIMIT
    from pytest_glasshouse.run.attempt_history import PLAN
    from pytest_glasshouse.wire.bounded_file import read_json, read_regular
    from pytest_glasshouse.wire.canonical import parse_tolerant

    try:
        plan: Any = read_json(directory / PLAN, limit=_PLAN_LIMIT)
        rows = len(plan["rows"])
    except (OSError, IntegrityError, KeyError, TypeError):
        return 0, [], 0
    ended: dict[str, Any] = {}
    try:
        lines = read_regular(directory / ROWS, limit=FILE_LIMIT).splitlines()
    except (OSError, IntegrityError):
        lines = []
    for line in lines:
        # The last line may still be being written, and what a guest sent may be no strict JSON.
        with contextlib.suppress(IntegrityError, KeyError, TypeError):
            journalled: Any = parse_tolerant(line, limit=FILE_LIMIT)
            ended[str(journalled["record"]["rowId"])] = journalled["record"]
    failed: list[str] = []
    for record in ended.values():
        with contextlib.suppress(KeyError, TypeError, ValueError, ArithmeticError, AttributeError):
            failed += [each.line for each in failures([record])]
    return len(ended), failed, rows
