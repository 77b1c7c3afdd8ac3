"""What the terminal shows: the header, one live line while rows run, and the last lines. The summary: `summary.py`.

This module turns plain values into lines. It refuses to know where they come from.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.providers.places import PLACES
from pytest_glasshouse.run.live_line import Live
from pytest_glasshouse.wire.output import RedLine
from pytest_glasshouse.wire.printable import counted, visible

if TYPE_CHECKING:
    import pytest

    from pytest_glasshouse.analysis.fields import Record
    from pytest_glasshouse.run.options import Options


def header(options: Options, *, run_id: str, rows: int, notes: Sequence[str], short_names_taken: Sequence[str]) -> list[str]:
    """The lines above the rows: what will run, where, and whether anything is rented."""
    faults = f", faults: {' '.join(options.faults)}" if options.faults else ""
    where = "where each row was published" if options.provider == "row" else PLACES[options.provider].where
    lines = [
        (f"glasshouse: provider {options.provider} ({where}), order {options.order or 'row'}, run {run_id}{faults}"),
        f"glasshouse: {counted(rows, 'row')}{_changes(options)}",
        f"glasshouse: attestation server {'in this process' if options.server is None else options.server + ' (outside)'}",
    ]
    lines += [f"glasshouse: {note}" for note in notes]
    lines += [
        f"glasshouse: {flag} is defined by another plugin; use --glasshouse-{flag.lstrip('-')}" for flag in short_names_taken
    ]
    return [visible(line) for line in lines]


def write_line(reporter: pytest.TerminalReporter, line: str, **markup: bool) -> None:
    """Write one line: every line of the plugin reaches pytest's terminal here."""
    reporter.write_line(visible(line), **({"red": True} if isinstance(line, RedLine) else markup))


def made_visible(shown: Any) -> Any:
    """A failure as pytest is going to print it, with every text made visible: errors hold text that guests wrote."""
    if isinstance(shown, str):
        return "\n".join(visible(line) for line in shown.split("\n"))
    if isinstance(shown, list | tuple):
        return type(shown)(made_visible(each) for each in shown)
    if type(shown).__module__.startswith("_pytest."):
        for name, value in vars(shown).items():
            setattr(shown, name, made_visible(value))
    return shown


def write_command(reporter: pytest.TerminalReporter, command: str) -> None:
    """Write a workflow command for the CI runner (`render.github_annotations`)."""
    reporter.write_line(command)


def _changes(options: Options) -> str:
    changes = []
    if options.leg_seconds is not None:
        changes.append(f"{options.leg_seconds:g} s per leg")
    elif options.leg_steps is not None:
        changes.append(f"{options.leg_steps} steps per leg")
    elif options.provider == "mock":
        changes.append("every leg shortened to 2 s")
    if options.rounds is not None:
        changes.append(counted(options.rounds, "round"))
    if options.max_overhead_pct is not None:
        changes.append(f"at most {options.max_overhead_pct:g} % overhead")
    return f", {', '.join(changes)}" if changes else ""


def open_live(config: pytest.Config) -> Live:
    """The live line of this process. To be called while pytest does not capture; `-q` shows none."""
    if config.pluginmanager.get_plugin("terminalreporter") is None or sys.stdout is None:
        return Live(-1, terminal=False)  # there is no output
    try:
        sys.stdout.flush()
        fd = os.dup(1) if config.get_verbosity() >= 0 else -1
    except (OSError, ValueError):
        fd = -1
    writer = config.get_terminal_writer()
    dumb = os.environ.get("TERM") == "dumb" or bool(os.environ.get("CI"))
    return Live(
        fd,
        terminal=fd >= 0 and os.isatty(fd) and not dumb,
        width_of_current_line=lambda: writer.width_of_current_line,
        columns=writer.fullwidth,
        encoding=getattr(sys.stdout, "encoding", None) or "ascii",
    )


def not_a_gate(rows: int) -> str:
    """The last line of a dry run."""
    return f"0 of {rows} rows measured on the GPU they name; not a gate"


def dry_runs(records: Sequence[Record]) -> str:
    """The last line of a run on a GPU of one's own, of which some rows name another; empty where none does."""
    dry = sum(bool(each["record"]["dryRun"]) for each in records)
    return f"{dry} of {len(records)} rows name another GPU than this machine's: dry runs, not a gate" if dry else ""
