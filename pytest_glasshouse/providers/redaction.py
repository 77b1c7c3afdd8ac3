"""What a provider said, made fit to be shown: no key, no address, no port, one line.

It knows the shapes of what must not be seen, and the secrets it is given. It does not know who shows the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from pytest_glasshouse.wire.printable import printable, visible

_SHOWN = 240
_SHORTEST_SECRET = 6
#: Characters that are looked through, and those of a line that are shown. No shape below takes more than linear time.
_LONGEST = 20_000
_MOST = 256 * 1024
_LINE = 1_000
_SHAPES = (
    (re.compile(r"(?i)\bbearer\s++\S+"), "Bearer ***"),
    (re.compile(r"\b[a-z]++://\S+"), "<url>"),
    (re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b"), "<address>"),
    (re.compile(r"(?i)(?<![\w.-])[\w.-]+\.(?:runpod\.(?:net|io)|vast\.ai)(?::\d+)?\b"), "<host>"),
    (re.compile(r"(?<![\w-])-p\s*+\d+"), "-p ***"),
    (re.compile(r"\bssh-(?:ed25519|rsa)\s++\S+"), "<public key>"),
    # To the end where nothing ends it: half a key is one, and a text of beginnings is read once.
    (re.compile(r"(?s)-----BEGIN .*?(?:-----END [A-Z ]+-----|\Z)"), "<key>"),
)


def cleaned(text: str, *, secrets: Iterable[str] = ()) -> str:
    """The end of `text` without secrets, keys and addresses; its lines stay lines, each of visible characters."""
    text = _without(text[-_MOST:], secrets)[-_LONGEST:]
    for shape, instead in _SHAPES:
        text = shape.sub(instead, text)
    return "\n".join(visible(line)[:_LINE] for line in text.split("\n"))


def said(text: object, *, secrets: Iterable[str] = ()) -> str:
    """What a provider said, in one short line for an error's text."""
    line = _without(str(text)[:_MOST], secrets)[:_LONGEST]
    for shape, instead in _SHAPES:
        line = shape.sub(instead, line)
    return printable(line, limit=_SHOWN)


def _without(text: str, secrets: Iterable[str]) -> str:
    """`text` without secrets. It comes first, and takes the whole: what is cut off afterwards leaves no half of one."""
    text = "".join(letter for letter in text if letter.isprintable() or letter.isspace())
    for secret in sorted((one for one in secrets if len(one) >= _SHORTEST_SECRET), key=len, reverse=True):
        text = text.replace(secret, "***")
    return text
