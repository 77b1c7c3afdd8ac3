"""The recording of `make demo` in the README: its real output on a terminal, as an SVG that plays.

    python -m benchmarks.demo_recording [--raw FILE] [COMMAND...]      (default: the rows of `make demo`)

Writes docs/demo.svg. The command runs on a pseudo-terminal of its own; every line is shown from the moment when it was there to
the moment when it changed, so much faster that all of it takes `PLAYED_S`, which the picture says. This checkout's path is
written as `~`.
With `--raw` what the terminal got is read from that file, or written there when it is missing: lines of JSON, seconds and text.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TypeAlias

ROOT = Path(__file__).parents[1]
TO = ROOT / "docs" / "demo.svg"
DEMO = (sys.executable, "-m", "pytest", "benchmarks/", "-m", "smoke", "--glasshouse-html")
SHOWN = "make demo"
COLUMNS, PLAYED_S, END_S, FRAME_S = 100, 30.0, 6.0, 0.3
Line: TypeAlias = "tuple[tuple[str, str], ...]"
_WIDTH, _HEIGHT, _PAD = 8.4, 18, 14
_CONTROL = re.compile(r"\x1b\[([0-9;]*)([A-Za-z])|[\r\n\b]|[^\x1b\r\n\b]+|\x1b.?")
_COLOURS = {"31": "bad", "32": "good", "33": "warn"}
_STYLE = (
    "text{font:13px ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace;fill:#e8eaed;white-space:pre}"
    ".bad{fill:#ff8a80}.good{fill:#56d083}.warn{fill:#e6b450}.soft{fill:#a3abb4}"
)


@dataclass
class Screen:
    """What a terminal shows: lines of (character, colour). It never scrolls: the picture is as high as the output."""

    lines: list[list[tuple[str, str]]] = field(default_factory=lambda: [[]])
    row: int = 0
    column: int = 0
    colour: str = ""

    def feed(self, text: str) -> None:
        """Take what a program wrote: text, new lines, and the few control sequences that pytest and this project use."""
        for found in _CONTROL.finditer(text):
            if found[2] is not None:
                self._control(found[1], found[2])
            elif found[0] == "\r":
                self.column = 0
            elif found[0] == "\n":
                self.row += 1
                self.lines += [[] for _ in range(self.row + 1 - len(self.lines))]
            elif found[0] == "\b":
                self.column = max(self.column - 1, 0)
            elif not found[0].startswith("\x1b"):
                self._write(found[0])

    def _control(self, given: str, kind: str) -> None:
        count = int(given.partition(";")[0] or 1) if kind in "ABCD" else 0
        if kind == "m":
            named = [_COLOURS[each] for each in given.split(";") if each in _COLOURS]
            self.colour = named[0] if named else "" if given in ("", "0") else self.colour
        elif kind == "K":
            del self.lines[self.row][0 if given == "2" else self.column :]
        elif kind == "J":
            del self.lines[self.row][self.column :]
            del self.lines[self.row + 1 :]
        elif kind == "A":
            self.row = max(self.row - count, 0)
        elif kind == "C":
            self.column += count

    def _write(self, text: str) -> None:
        for letter in text:
            if self.column == COLUMNS:
                self.feed("\r\n")
            line = self.lines[self.row]
            line += [(" ", "")] * (self.column + 1 - len(line))
            line[self.column] = (letter, self.colour)
            self.column += 1

    def spans(self) -> list[tuple[tuple[str, str], ...]]:
        """Each line as runs of one colour."""
        return [tuple(_runs(line)) for line in self.lines]


def _runs(line: list[tuple[str, str]]) -> Iterable[tuple[str, str]]:
    run, colour = "", ""
    for letter, own in line:
        if own != colour and run:
            yield run, colour
            run = ""
        run, colour = run + letter, own
    if run.strip():
        yield run.rstrip(), colour


def recorded(command: Iterable[str]) -> list[tuple[float, str]]:
    """What a command wrote to a terminal of this width, and when."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 60, COLUMNS, 0, 0))
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": str(COLUMNS)}
    environment.pop("CI", None)
    process = subprocess.Popen(list(command), cwd=ROOT, stdin=its, stdout=its, stderr=its, env=environment, close_fds=True)
    os.close(its)
    found: list[tuple[float, str]] = []
    began = time.monotonic()
    while True:
        if not select.select([ours], [], [], 1.0)[0]:
            continue
        try:
            data = os.read(ours, 65536)
        except OSError:  # the last process that had the terminal has ended
            break
        if not data:
            break
        found.append((time.monotonic() - began, data.decode("utf-8", "replace")))
    os.close(ours)
    process.wait()
    return found


def drawn(recording: list[tuple[float, str]]) -> str:
    """The SVG. Each line has a time span in which it is visible; the whole begins again after `END_S`."""
    speed = max(1.0, recording[-1][0] / PLAYED_S)
    screen = Screen()
    spans: list[tuple[int, Line, float, float | None]] = []
    shown: dict[int, tuple[Line, float]] = {}
    # In frames: a line that is drawn over ten times in one is seen as it was at its end.
    for frame, pieces in itertools.groupby(recording, key=lambda piece: int(piece[0] / speed / FRAME_S)):
        now = frame * FRAME_S
        for _, text in pieces:
            screen.feed(text.replace(str(ROOT), "~"))
        lines = screen.spans()
        for place in range(max(len(lines), len(shown))):
            line = lines[place] if place < len(lines) else ()
            before, since = shown.get(place, ((), now))
            if line != before:
                if before:
                    spans.append((place, before, since, now))
                shown[place] = (line, now)
    spans += [(place, line, since, None) for place, (line, since) in shown.items() if line]
    total = recording[-1][0] / speed + END_S
    height = 2 * _PAD + _HEIGHT * (max(place for place, *_ in spans) + 3)
    width = 2 * _PAD + _WIDTH * COLUMNS
    head = (f"$ {SHOWN}", "good"), (f"     (played {speed:.0f} times as fast)" if speed >= 2 else "", "soft")  # noqa: PLR2004
    parts = [_text(0, head, 0.0, None, total)]
    parts += [_text(place + 1, line, since, until, total) for place, line, since, until in spans]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-label="Recording of {SHOWN}"><style>{_STYLE}</style>'
        f'<rect width="100%" height="100%" rx="6" fill="#14171a"/>{"".join(parts)}</svg>\n'
    )


def _text(place: int, line: Iterable[tuple[str, str]], since: float, until: float | None, total: float) -> str:
    body = "".join(f'<tspan class="{colour}">{escape(run)}</tspan>' if colour else escape(run) for run, colour in line)
    times = [since / total, *([] if until is None else [until / total])]
    # Opacity in steps: hidden, shown, and hidden again where the line changed. Without animation every last line is seen.
    values = "0;1" if until is None else "0;1;0"
    at = ";".join(["0", *(f"{max(each, 0.00001):.5f}" for each in times)])
    still = "" if until is None else ' opacity="0"'
    animated = "" if since == 0.0 and until is None else (
        f'<animate attributeName="opacity" calcMode="discrete" dur="{total:.1f}s" repeatCount="indefinite" '
        f'values="{values}" keyTimes="{at}"/>'
    )  # fmt: skip
    return f'<text xml:space="preserve" x="{_PAD}" y="{_PAD + _HEIGHT * (place + 1) - 5}"{still}>{body}{animated}</text>'


def main() -> None:
    arguments = sys.argv[1:]
    raw = Path(arguments[1]) if arguments[:1] == ["--raw"] else None
    command = arguments[2 if raw else 0 :] or DEMO
    if raw is not None and raw.exists():
        recording = [(float(at), str(text)) for at, text in map(json.loads, raw.read_text("utf-8").splitlines())]
    else:
        recording = recorded(command)
        if raw is not None:
            raw.write_text("".join(f"{json.dumps(each)}\n" for each in recording), "utf-8")
    TO.write_text(drawn(recording), "utf-8")
    print(f"{TO.relative_to(ROOT)}: {TO.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
