"""One HTTP answer, and what is read from its headers and body. Pure: sends nothing.

Nothing in an answer is trusted: a header counts only in its one documented form, and JSON has limits.
"""

from __future__ import annotations

import email.utils
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.wire.canonical import Json, parse_strict, parse_tolerant

#: Bytes of an answer, head and body together. No listing of one account is as long as this.
MOST_BYTES = 8 * 1024 * 1024
#: Values in a JSON body, counted by its commas and brackets: a byte of JSON can take a hundred bytes of memory.
MOST_VALUES = 500_000
#: The longest wait in seconds that a server may ask for. Rate limits here are by the minute.
MOST_RETRY_AFTER_S = 60.0
_SECONDS = re.compile(r"[0-9]+", re.ASCII)
_LONGEST_DATE, _LONGEST_NUMBER = 64, 10


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer, of any status. Header names are lower case. `body` may hold secrets."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    def value(self, *, tolerant: bool = False) -> Json:
        """The body as JSON. Raises `IntegrityError`.

        With `tolerant` a part that cannot be read does not hide the rest: see `parse_tolerant`.
        """
        if sum(map(self.body.count, (b",", b"[", b"{"))) > MOST_VALUES:
            raise IntegrityError("too-large", f"more than {MOST_VALUES} values")
        if tolerant:
            return parse_tolerant(self.body, limit=MOST_BYTES)
        return parse_strict(self.body, limit=MOST_BYTES, floats=True)

    @property
    def content_type(self) -> str:
        """The media type of its body, without parameters; empty where there is none."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def retry_after_s(self) -> float | None:
        """The `Retry-After` header where it is in seconds, and never more than `MOST_RETRY_AFTER_S`."""
        seconds = self.headers.get("retry-after", "").strip()
        if not _SECONDS.fullmatch(seconds):
            return None
        return MOST_RETRY_AFTER_S if len(seconds) > _LONGEST_NUMBER else min(float(seconds), MOST_RETRY_AFTER_S)

    @property
    def server_time_s(self) -> float | None:
        """The server's clock in seconds since 1970, from the `Date` header."""
        date = self.headers.get("date", "")
        if not date or not date.isascii() or len(date) > _LONGEST_DATE:
            return None
        try:
            return email.utils.parsedate_to_datetime(date).timestamp()
        except (ValueError, TypeError, LookupError, ArithmeticError):
            return None
