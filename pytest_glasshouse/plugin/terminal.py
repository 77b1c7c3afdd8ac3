"""What a person sees: the header, one live line while rows run, and the summary.

This module turns plain values into lines. It refuses to know where they come from.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.run.eta import ROUND_OVER, Outlook, Outlooks, duration
from pytest_glasshouse.run.progress_file import ProgressFile
from pytest_glasshouse.wire.printable import printable, visible

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

    from pytest_glasshouse.plugin.options import Options

#: Without a terminal a row that goes on in one leg is mentioned again after this long.
STILL_THERE_S = 60.0

_NO_FIGURE = "-"
#: A reason names every finding that did not hold; the live line is one line of a terminal.
_REASON, _LIVE = 4000, 400


def header(options: Options, *, run_id: str, rows: int, notes: Sequence[str], taken: Sequence[str]) -> list[str]:
    """The lines above the rows: what will happen, where, and that nothing is rented."""
    faults = f", faults: {' '.join(options.faults)}" if options.faults else ""
    where = {
        "mock": "a dry run on this machine; nothing is rented",
        "local": "this machine's own GPU; nothing is rented",
        "row": "where each row was published",
    }.get(options.provider, "rented")
    lines = [
        (f"glasshouse: provider {options.provider} ({where}), order {options.order or 'row'}, run {run_id}{faults}"),
        f"glasshouse: {_count(rows, 'row')}{_changes(options)}",
        f"glasshouse: attestation server {'in this process' if options.server is None else options.server + ' (outside)'}",
    ]
    lines += [f"glasshouse: {note}" for note in notes]
    lines += [f"glasshouse: {flag} belongs to another plugin here; use --glasshouse-{flag.lstrip('-')}" for flag in taken]
    return [visible(line) for line in lines]


def tell(reporter: pytest.TerminalReporter, line: str, **markup: bool) -> None:
    """Write one line: pytest's terminal gets every line of ours here."""
    reporter.write_line(visible(line), **markup)


def made_visible(shown: Any) -> Any:
    """A failure as pytest is going to print it, with every text in it on visible lines. A guest's words stand in errors."""
    if isinstance(shown, str):
        return "\n".join(visible(line) for line in shown.split("\n"))
    if isinstance(shown, list | tuple):
        return type(shown)(made_visible(each) for each in shown)
    if type(shown).__module__.startswith("_pytest."):
        for name, value in vars(shown).items():
            setattr(shown, name, made_visible(value))
    return shown


def obeyed(reporter: pytest.TerminalReporter, command: str) -> None:
    """Write a line that a CI runner is to obey (`report.github`)."""
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


class Live:
    """One line that shows what runs now, past pytest's capture: `fd` is a duplicate of the real standard output.

    On a terminal the line is overwritten and gone before pytest writes again; elsewhere each leg gets a line of its own.
    """

    def __init__(
        self,
        fd: int,
        *,
        terminal: bool,
        width_of_current_line: Any = lambda: 0,
        columns: int = 100,
        encoding: str = "utf-8",
    ) -> None:
        self._fd = fd
        self._encoding = encoding
        self._terminal = terminal
        self._width = width_of_current_line
        self._columns = columns
        self._lock = threading.Lock()
        self._running: dict[str, str] = {}
        self._told: dict[str, tuple[object, float]] = {}
        self._booting: dict[str, float] = {}
        self._column: int | None = None
        self._at_line_start = False
        self._outlooks = Outlooks()
        self._file: ProgressFile | None = None
        #: US dollars spent so far; None where nothing is rented.
        self.money: Callable[[], float | None] = lambda: None

    def also_to(self, path: Path) -> None:
        """Let `glasshouse watch` see it too."""
        self._file = ProgressFile(path)

    def show(self, event: Mapping[str, Any], *, worker: str = "") -> None:
        """Show one progress event."""
        with self._lock:
            outlook = self._outlooks.see(event, at=time.monotonic(), worker=worker)
            line = visible(progress_line(event, worker=worker, outlook=outlook, spent_usd=self.money()), limit=_LIVE)
            self._running[worker] = line
            if self._file is not None:
                self._file.write(self._running, at=time.monotonic())
            if self._terminal:
                self._overwrite("  |  ".join(self._running.values())[: self._columns - 1])
            elif self._worth_a_line(event, worker):
                newline = "\n" if not self._at_line_start and self._width() else ""
                self._write(f"{newline}  {line}\n")
                self._at_line_start = True

    def clear(self, *, worker: str | None = None) -> None:
        """Make room for what pytest writes next; with `worker`, its row has ended."""
        with self._lock:
            self._at_line_start = False
            if worker is not None:
                self._running.pop(worker, None)
            if self._column is not None:
                back = f"\x1b[A\x1b[{self._column}C" if self._column else ""
                self._write(f"\r\x1b[2K{back}")
                self._column = None

    def tell_boot(self, name: str, what: str) -> None:
        """Show how far an allocation is that boots; with nothing as `what`, that it does no more."""
        if not what:
            self._booting.pop(name, None)
            with self._lock:
                self._running.pop(name, None)
            return
        began = self._booting.setdefault(name, time.monotonic())
        event = {"row_id": "", "leg": what, "round": what, "elapsed_s": time.monotonic() - began}
        self.show(event, worker=name)

    def close(self) -> None:
        """Give the descriptor back."""
        self.clear()
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
            self._fd = -1

    def _overwrite(self, line: str) -> None:
        if self._column is None:
            self._column = self._width()
            self._write("\n" if self._column else "")
        self._write(f"\r\x1b[2K{line}")

    def _worth_a_line(self, event: Mapping[str, Any], worker: str) -> bool:
        leg = (event.get("row_id"), event.get("round"), event.get("leg"))
        told, when = self._told.get(worker, (None, 0.0))
        now = time.monotonic()
        if told == leg and now - when < STILL_THERE_S:
            return False
        self._told[worker] = (leg, now)
        return True

    def _write(self, text: str) -> None:
        if self._fd < 0 or not text:
            return
        try:
            os.write(self._fd, text.encode(self._encoding, "backslashreplace"))
        except OSError:
            self._fd = -1


def open_live(config: pytest.Config) -> Live:
    """The live line of this process. To be called while pytest does not capture; `-q` shows none."""
    if config.pluginmanager.get_plugin("terminalreporter") is None or sys.stdout is None:
        return Live(-1, terminal=False)  # nobody looks
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


def progress_line(
    event: Mapping[str, Any], *, worker: str = "", outlook: Outlook | None = None, spent_usd: float | None = None
) -> str:
    """What a progress event says, in one line: of the interval half its width, and never where it lies."""
    eta = None if outlook is None else outlook.eta_s
    over = event.get("phase") == ROUND_OVER
    width = event.get("half_width_pct") if outlook is None else outlook.half_width_pct
    name = str(event.get("row_id", "")).rpartition("-")[0]
    rounds = event.get("rounds") or 1
    parts = [
        f"[{worker}]" if worker else "",
        printable(name),
        printable(event.get("leg") or ""),
        f"round {printable(event.get('round'))} of {rounds}" if rounds > 1 else "",
        "round over" if over else printable(event.get("phase") or ""),
        f"{event['fraction']:.0%}" if event.get("fraction") is not None else "",
        f"{event['rate']:.1f}/s" if event.get("rate") is not None else "",
        "" if over else f"{event.get('elapsed_s') or 0:.0f} s",
        f"row done in about {duration(eta)}" if eta is not None else "",
        f"interval +-{width:.2f} points" if width is not None else "",
        f"{spent_usd:.2f} USD so far" if spent_usd is not None else "",
    ]
    return "  ".join(part for part in parts if part)


def summary(records: Sequence[Mapping[str, Any]], tamper: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The table of measured rows, then every other row with its reason and decision, then the tamper suite."""
    from pytest_glasshouse.report.attempts import shown, titled

    measured = [each["record"] for each in records if each["list"] == "rows"]
    nulls = [each["record"] for each in records if each["list"] == "nullRows"]
    excluded = [each["record"] for each in records if each["list"] == "excludedResults"]
    if measured:
        yield from table([("row", "order", "protected", "raw", "overhead", "95 % interval", "verdict", "findings")] + [
            (titled(row), *_measured(row)) for row in measured
        ])  # fmt: skip
    if nulls:
        yield ""
        yield from table([("raw against raw", "rounds", "difference", "90 % interval", "inside its margin", "findings")] + [
            (titled(row), *_null(row)) for row in nulls
        ])  # fmt: skip
    if excluded:
        yield ""
        yield "not measured:"
        for row in excluded:
            yield f"  {printable(titled(row))} ({row['order']}): {row['outcome']}"
            yield f"      reason    {printable(row['reason'], limit=_REASON)}"
            yield f"      decision  {printable(row['decision'], limit=_REASON)}"
    if again := [row for row in (*measured, *nulls, *excluded) if shown(row)]:
        yield ""
        yield "tried more than once, not publishable:"
        yield from (f"  {printable(titled(row))}: {printable(shown(row), limit=_REASON)}" for row in again)
    if tamper:
        refused = [case for case in tamper if case["expectedReason"] is not None]
        control = [case for case in tamper if case["expectedReason"] is None]
        yield ""
        yield (
            f"tamper: {sum(case['passed'] for case in refused)} of {len(refused)} refused as expected, "
            f"{sum(case['passed'] for case in control)} of {len(control)} controls released"
        )


def _measured(row: Mapping[str, Any]) -> tuple[str, ...]:
    interval = row.get("overheadCi95Pct")
    unit = row["unit"]
    return (
        row["order"],
        f"{row['protectedPerSec']:.2f} {unit}/s",
        f"{row['rawPerSec']:.2f} {unit}/s",
        f"{row['overheadPct']:+.2f} %",
        _NO_FIGURE if interval is None else f"{interval[0]:+.2f} to {interval[1]:+.2f}",
        row["verdict"],
        findings(row["findings"]),
    )


def _null(row: Mapping[str, Any]) -> tuple[str, ...]:
    interval = row["differenceCi90Pct"]
    return (
        str(row["rounds"]),
        f"{row['differencePct']:+.2f} %",
        _NO_FIGURE if interval is None else f"{interval[0]:+.2f} to {interval[1]:+.2f}",
        "yes" if row["qualifies"] else "no",
        findings(row["findings"]),
    )


def findings(judged: Sequence[Mapping[str, Any]]) -> str:
    """How many findings held, and how many of the others were broken or unseen."""
    counts = {word: sum(each["finding"] == word for each in judged) for word in ("held", "broken", "unseen")}
    others = [f"{counts[word]} {word}" for word in ("broken", "unseen") if counts[word]]
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
