"""What a provider said, made fit to be shown: no key, no address, no port, one line.

It knows the shapes of what must not be seen, and the secrets it is given. It does not know who shows the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_SHOWN = 240
_SHORTEST_SECRET = 6
_SHAPES = (
    (re.compile(r"(?i)\bbearer\s+\S+"), "Bearer ***"),
    (re.compile(r"\b[a-z]+://\S+"), "<url>"),
    (re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b"), "<address>"),
    (re.compile(r"(?i)\b[\w.-]+\.(?:runpod\.(?:net|io)|vast\.ai)(?::\d+)?\b"), "<host>"),
    (re.compile(r"(?i)\b(ssh\b.*?)(?:-p\s*)\d+"), r"\1-p ***"),
    (re.compile(r"\bssh-(?:ed25519|rsa)\s+\S+"), "<public key>"),
    (re.compile(r"(?s)-----BEGIN .*?-----END [A-Z ]+-----"), "<key>"),
)


def cleaned(text: str, *, secrets: Iterable[str] = ()) -> str:
    """`text` without secrets, keys and addresses; its lines stay lines."""
    for secret in sorted((one for one in secrets if len(one) >= _SHORTEST_SECRET), key=len, reverse=True):
        text = text.replace(secret, "***")
    for shape, instead in _SHAPES:
        text = shape.sub(instead, text)
    return "".join(letter for letter in text if letter == "\n" or letter.isprintable())


def said(text: object, *, secrets: Iterable[str] = ()) -> str:
    """What a provider said, in one short line for an error's text."""
    line = " ".join(cleaned(str(text), secrets=secrets).split())
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…"
