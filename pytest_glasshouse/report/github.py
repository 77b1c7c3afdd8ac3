"""What GitHub Actions understands on standard output: annotations. Knows their escapes and that few of them are shown."""

from __future__ import annotations

from typing import Literal

#: A step shows about ten annotations of a kind; the rest of what there is to say is in the job summary.
SHOWN = 9


def annotation(kind: Literal["error", "warning", "notice"], title: str, text: str) -> str:
    """One workflow command line, without a newline at its end."""
    return f"::{kind} title={_property(title)}::{_data(text)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
