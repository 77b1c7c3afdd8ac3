"""The only writers of the `glasshouse` command to standard output and standard error.

Control characters in lines are made visible here, since lines quote untrusted text. A requested document (Markdown, HTML,
JSON, SVG) has escapes of its own and is written as it is.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, TextIO

from pytest_glasshouse.wire.printable import visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class RedLine(str):
    """A line about what failed: red on a terminal, unless NO_COLOR is set (no-color.org)."""

    __slots__ = ()


def write_lines(lines: Iterable[object]) -> None:
    """Write lines to standard output."""
    _write(sys.stdout, "".join(f"{_coloured(line, sys.stdout)}\n" for line in lines))


def write_errors(*lines: object) -> None:
    """Write lines to standard error."""
    _write(sys.stderr, "".join(f"{visible(line)}\n" for line in lines))


def write_document(document: str) -> None:
    """Write a whole document to standard output."""
    _write(sys.stdout, document)


def write_block(lines: Sequence[object], *, out: TextIO, over: int) -> None:
    """Write lines to a terminal in place of the `over` lines that were written last."""
    back = f"\x1b[{over}A\r\x1b[J" if over else ""
    _write(out, back + "".join(f"{_coloured(line, out)}\n" for line in lines))


def _coloured(line: object, stream: TextIO) -> str:
    shown = visible(line)
    if not isinstance(line, RedLine) or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not stream.isatty():
        return shown
    return f"\x1b[31m{shown}\x1b[0m"


def write_line(line: object, *, out: TextIO, over: bool = False) -> None:
    """Write one line to `out`; with `over`, on a terminal, in place of the one before."""
    _write(out, f"\r\x1b[2K{visible(line)}" if over else f"{visible(line)}\n")


def write_ci_command(line: str) -> None:
    """Write a workflow command for a CI runner (`render.github_annotations`) to standard error."""
    _write(sys.stderr, f"{line}\n")


def _write(stream: TextIO, text: str) -> None:
    """A letter that the stream's encoding lacks becomes an escape: an ASCII or Latin-1 terminal is no reason to fail."""
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()
