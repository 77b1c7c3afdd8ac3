"""GitHub Actions annotations on standard output: how they are escaped, and how many of them are shown."""

from __future__ import annotations

from typing import Literal

from pytest_glasshouse.wire.printable import visible

#: A step shows about ten annotations of a kind; the job summary has the rest.
SHOWN = 9
_TITLE, _LINE, _LINES = 240, 2000, 40


def annotation(kind: Literal["error", "warning", "notice"], title: str, text: str) -> str:
    """One workflow command line, without a newline at its end."""
    message = "\n".join(visible(line, limit=_LINE, data=True) for line in text.split("\n")[:_LINES])
    return f"::{kind} title={_property(visible(title, limit=_TITLE, data=True))}::{_data(message)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
