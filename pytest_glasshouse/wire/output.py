"""Where the words of the `glasshouse` command leave it: nothing else in it writes to standard output or standard error.

Lines are made visible here, whoever wrote what is in them. A document that somebody asked for (Markdown, HTML, JSON, SVG) has
escapes of its own and goes out as it is.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TextIO

from pytest_glasshouse.wire.printable import visible

if TYPE_CHECKING:
    from collections.abc import Iterable


def say(lines: Iterable[object]) -> None:
    """Write lines to standard output."""
    _write(sys.stdout, "".join(f"{visible(line)}\n" for line in lines))


def complain(*lines: object) -> None:
    """Write lines to standard error."""
    _write(sys.stderr, "".join(f"{visible(line)}\n" for line in lines))


def give(document: str) -> None:
    """Write a whole document to standard output."""
    _write(sys.stdout, document)


def show(line: object, *, out: TextIO, over: bool = False) -> None:
    """Write one line to `out`; with `over`, on a terminal, in place of the one before."""
    _write(out, f"\r\x1b[2K{visible(line)}" if over else f"{visible(line)}\n")


def command(line: str) -> None:
    """Write a line that a CI runner is to obey (`report.github`) to standard error."""
    _write(sys.stderr, f"{line}\n")


def _write(stream: TextIO, text: str) -> None:
    """A stream that cannot spell a letter gets an escape for it: an ASCII or Latin-1 terminal is no reason to fail."""
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()
