"""What GitHub Actions understands on standard output: annotations. Knows their escapes and that few of them are shown."""

from __future__ import annotations

from typing import Literal

from pytest_glasshouse.wire.printable import printable, printable_lines

#: A step shows about ten annotations of a kind; the rest of what there is to say is in the job summary.
SHOWN = 9
_LINE = 2000


def annotation(kind: Literal["error", "warning", "notice"], title: str, text: str) -> str:
    """One workflow command line, without a newline at its end."""
    lines = "\n".join(printable_lines(text, limit=_LINE))
    return f"::{kind} title={_property(printable(title))}::{_data(lines)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
