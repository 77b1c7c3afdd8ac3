"""The live line: what runs now, and how far each row is."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.run.eta import ROUND_OVER, Eta, Etas, duration
from pytest_glasshouse.run.progress_file import ProgressFile
from pytest_glasshouse.wire.printable import printable, visible

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytest_glasshouse.run.engine import Event

#: The live line is one line of a terminal.
_LIVE = 400
#: Without a terminal a row that is still in the same leg gets another line after this long.
STILL_THERE_S = 60.0


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
        self._last_line: dict[str, tuple[object, float]] = {}
        self._booting: dict[str, float] = {}
        self._column: int | None = None
        self._at_line_start = False
        self._estimates = Etas()
        self._file: ProgressFile | None = None
        #: US dollars spent so far; None where nothing is rented.
        self.money: Callable[[], float | None] = lambda: None
        #: GPU-hours so far; None where nothing runs that has no price.
        self.gpu_hours: Callable[[], float | None] = lambda: None

        #: The most that the run may spend and take; None for no limit.
        self.budget_usd: float | None = None
        self.max_gpu_hours: float | None = None

    def write_to(self, path: Path) -> None:
        """Write it to a file for `glasshouse watch`, too."""
        self._file = ProgressFile(path)

    def show(self, event: Event, *, worker: str = "") -> None:
        """Show one progress event."""
        with self._lock:
            estimate = self._estimates.see(event, at=time.monotonic(), worker=worker)
            spent, hours = self.money(), self.gpu_hours()
            line = progress_line(event, worker=worker, estimate=estimate, spent_usd=spent, gpu_hours=hours)
            line = visible(line, limit=_LIVE)
            self._running[worker] = line
            if self._file is not None:
                cost = ", ".join(cost_words(spent, self.budget_usd, "USD") + cost_words(hours, self.max_gpu_hours, "GPU-hours"))
                self._file.write(self._running, at=time.monotonic(), cost=cost)
            if self._terminal:
                self._overwrite("  |  ".join(self._running.values())[: self._columns - 1])
            elif self._needs_line(event, worker):
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

    def show_boot(self, name: str, what: str) -> None:
        """Show how far an allocation is in booting; an empty `what` ends that."""
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

    def _needs_line(self, event: Event, worker: str) -> bool:
        leg = (event.get("row_id"), event.get("round"), event.get("leg"))
        last, when = self._last_line.get(worker, (None, 0.0))
        now = time.monotonic()
        if last == leg and now - when < STILL_THERE_S:
            return False
        self._last_line[worker] = (leg, now)
        return True

    def _write(self, text: str) -> None:
        if self._fd < 0 or not text:
            return
        try:
            os.write(self._fd, text.encode(self._encoding, "backslashreplace"))
        except OSError:
            self._fd = -1


def cost_words(used: float | None, most: float | None, unit: str) -> list[str]:
    """What was used so far and what is left of a limit; nothing where nothing is counted."""
    if used is None:
        return []
    return [f"{used:.2f} {unit} so far", *([] if most is None else [f"{max(most - used, 0.0):.2f} left of {most:g}"])]


def progress_line(
    event: Event,
    *,
    worker: str = "",
    estimate: Eta | None = None,
    spent_usd: float | None = None,
    gpu_hours: float | None = None,
) -> str:
    """A progress event in one line: of the interval half its width, and never its position."""
    eta = None if estimate is None else estimate.eta_s
    over = event.get("phase") == ROUND_OVER
    width = event.get("half_width_pct") if estimate is None else estimate.half_width_pct
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
        "" if over else f"for {event.get('elapsed_s') or 0:.0f} s",
        f"row done in about {duration(eta)}" if eta is not None else "",
        f"interval half-width {width:.2f} points" if width is not None else "",
        f"{spent_usd:.2f} USD so far" if spent_usd is not None else "",
        f"{gpu_hours:.2f} GPU-hours so far" if gpu_hours is not None else "",
    ]
    return "  ".join(part for part in parts if part)
