"""What the terminal shows: the header, one live line while rows run, and the summary.

This module turns plain values into lines. It refuses to know where they come from.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.providers.places import PLACES
from pytest_glasshouse.run.live_line import Live
from pytest_glasshouse.wire.printable import printable, visible

if TYPE_CHECKING:
    import pytest

    from pytest_glasshouse.analysis.fields import FindingRecord, MeasuredRow, NullRow, Record, RowRecord, SealedRow
    from pytest_glasshouse.run.options import Options
    from pytest_glasshouse.tamper.result import TamperRecord


_NO_FIGURE = "-"
#: A reason names every finding that did not hold.
_REASON = 4000


def header(options: Options, *, run_id: str, rows: int, notes: Sequence[str], short_names_taken: Sequence[str]) -> list[str]:
    """The lines above the rows: what will run, where, and whether anything is rented."""
    faults = f", faults: {' '.join(options.faults)}" if options.faults else ""
    where = "where each row was published" if options.provider == "row" else PLACES[options.provider].where
    lines = [
        (f"glasshouse: provider {options.provider} ({where}), order {options.order or 'row'}, run {run_id}{faults}"),
        f"glasshouse: {_count(rows, 'row')}{_changes(options)}",
        f"glasshouse: attestation server {'in this process' if options.server is None else options.server + ' (outside)'}",
    ]
    lines += [f"glasshouse: {note}" for note in notes]
    lines += [
        f"glasshouse: {flag} is defined by another plugin; use --glasshouse-{flag.lstrip('-')}" for flag in short_names_taken
    ]
    return [visible(line) for line in lines]


def write_line(reporter: pytest.TerminalReporter, line: str, **markup: bool) -> None:
    """Write one line: every line of the plugin reaches pytest's terminal here."""
    reporter.write_line(visible(line), **markup)


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
        changes.append(_count(options.rounds, "round"))
    if options.max_overhead_pct is not None:
        changes.append(f"at most {options.max_overhead_pct:g} % overhead")
    return f", {', '.join(changes)}" if changes else ""


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


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


def summary(records: Sequence[Record], tamper: Sequence[TamperRecord]) -> Iterator[str]:
    """The table of measured rows, then every other row with its reason and decision, then the tamper suite."""
    from pytest_glasshouse.report.attempts import attempts_line, row_title

    measured = [each["record"] for each in records if each["list"] == "rows"]
    sealed = [each["record"] for each in records if each["list"] == "sealedRows"]
    nulls = [each["record"] for each in records if each["list"] == "nullRows"]
    excluded = [each["record"] for each in records if each["list"] == "excludedResults"]
    from pytest_glasshouse.analysis.wording import worst_round_text

    if measured:
        yield from table([("row", "order", "protected", "raw", "overhead", "95 % interval", "verdict", "findings")] + [
            (row_title(row), *_measured(row)) for row in measured
        ])  # fmt: skip
        yield from (f"  {printable(row_title(row))}: {text}" for row in measured if (text := worst_round_text(row)))
    if sealed:
        yield ""
        yield from table([("base sealed, no raw leg", "rounds", "protected rate", "findings")] + [
            (row_title(row), str(row["rounds"]), _rate(row), findings(row["findings"])) for row in sealed
        ])  # fmt: skip
    if nulls:
        yield ""
        yield from table([("raw against raw", "rounds", "difference", "90 % interval", "inside its margin", "findings")] + [
            (row_title(row), *_null(row)) for row in nulls
        ])  # fmt: skip
    yield from shared_gpus([*measured, *sealed, *nulls])
    if excluded:
        yield ""
        yield "not measured:"
        for row in excluded:
            yield f"  {printable(row_title(row))} ({row['order']}): {row['outcome']}"
            yield f"      reason    {printable(row['reason'], limit=_REASON)}"
            yield f"      decision  {printable(row['decision'], limit=_REASON)}"
    every: list[RowRecord] = [*measured, *sealed, *nulls, *excluded]
    if several := [row for row in every if attempts_line(row)]:
        yield ""
        yield "several attempts, not publishable:"
        yield from (f"  {printable(row_title(row))}: {printable(attempts_line(row), limit=_REASON)}" for row in several)
    if tamper:
        refused = [case for case in tamper if case["expectedReason"] is not None]
        control = [case for case in tamper if case["expectedReason"] is None]
        yield ""
        yield (
            f"tamper: {sum(case['passed'] for case in refused)} of {len(refused)} refused as expected, "
            f"{sum(case['passed'] for case in control)} of {len(control)} controls released"
        )


def shared_gpus(rows: Sequence[MeasuredRow | SealedRow | NullRow]) -> Iterator[str]:
    """A line for each row whose GPU was used by others when its allocation was made."""
    from pytest_glasshouse.report.attempts import row_title

    for row in rows:
        seen = row["observation"].get("allocation")
        if seen is not None and (others := seen.get("otherGpuProcesses")):
            memory = f"{seen.get('otherGpuMemoryMib', 0)} MiB of its memory"
            yield f"{row_title(row)}: {others} processes of others used its GPU when it began, {memory}"


def _measured(row: MeasuredRow) -> tuple[str, ...]:
    from pytest_glasshouse.analysis.wording import printed_pct, verdict_text

    interval = row.get("overheadCi95Pct")
    unit = row["unit"]
    return (
        row["order"],
        f"{row['protectedPerSec']:.2f} {unit}/s",
        f"{row['rawPerSec']:.2f} {unit}/s",
        f"{printed_pct(row):+.2f} %",
        _NO_FIGURE if interval is None else f"{interval[0]:+.2f} to {interval[1]:+.2f}",
        verdict_text(row),
        findings(row["findings"]),
    )


def _rate(row: SealedRow) -> str:
    from pytest_glasshouse.analysis.wording import rate_with_interval

    return rate_with_interval(row["protectedPerSec"], row["protectedPerSecCi95"], row["unit"])


def _null(row: NullRow) -> tuple[str, ...]:
    interval = row["differenceCi90Pct"]
    return (
        str(row["rounds"]),
        f"{row.get('roundsMeanPct', row['differencePct']):+.2f} %",
        _NO_FIGURE if interval is None else f"{interval[0]:+.2f} to {interval[1]:+.2f}",
        "yes" if row["qualifies"] else "no",
        findings(row["findings"]),
    )


def findings(judged: Sequence[FindingRecord]) -> str:
    """How many findings held, and how many of the others were broken or unseen."""
    counts = {finding: sum(each["finding"] == finding for each in judged) for finding in ("held", "broken", "unseen")}
    others = [f"{counts[finding]} {finding}" for finding in ("broken", "unseen") if counts[finding]]
    return ", ".join([f"{counts['held']} of {len(judged)} held", *others])


def table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Columns of equal width, whatever is in their cells."""
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def not_a_gate(rows: int) -> str:
    """The last line of a dry run."""
    return f"0 of {rows} rows measured on the GPU they name; not a gate"


def dry_runs(records: Sequence[Record]) -> str:
    """The last line of a run on a GPU of one's own, of which some rows name another; empty where none does."""
    dry = sum(bool(each["record"]["dryRun"]) for each in records)
    return f"{dry} of {len(records)} rows name another GPU than this machine's: dry runs, not a gate" if dry else ""
