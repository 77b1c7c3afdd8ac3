"""One HTTP answer, whole and bounded, and what may be read out of its headers and body. Pure: nothing is sent here.

Everything in it was written by a stranger. A header means something only in the one form that is meant, JSON has limits.
"""

from __future__ import annotations

import email.utils
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.wire.canonical import Json, parse_strict, parse_tolerant

#: Bytes of an answer, head and body together. No listing of a person's allocations is as long as this.
MOST_BYTES = 8 * 1024 * 1024
#: Values in a JSON body, counted by its commas and brackets: a byte of JSON can cost a hundred bytes of memory.
MOST_VALUES = 500_000
#: The longest that any server is left alone because it says so, in seconds. Limits here are by the minute.
MOST_RETRY_AFTER_S = 60.0
_SECONDS = re.compile(r"[0-9]+", re.ASCII)
_LONGEST_DATE = 64


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer, of any status. Header names are lower case. `body` may hold what must not be shown."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    def value(self, *, tolerant: bool = False) -> Json:
        """The body as JSON. Raises `IntegrityError`.

        With `tolerant` a part nobody can read does not hide the rest: see `parse_tolerant`.
        """
        if sum(map(self.body.count, (b",", b"[", b"{"))) > MOST_VALUES:
            raise IntegrityError("too-large", f"more than {MOST_VALUES} values")
        if tolerant:
            return parse_tolerant(self.body, limit=MOST_BYTES)
        return parse_strict(self.body, limit=MOST_BYTES, floats=True)

    @property
    def content_type(self) -> str:
        """What it says its body is, without parameters; empty where it says nothing."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def retry_after_s(self) -> float | None:
        """How long the server asks to be left alone, if it says so in seconds: never more than `MOST_RETRY_AFTER_S`."""
        told = self.headers.get("retry-after", "").strip()
        if not _SECONDS.fullmatch(told):
            return None
        return MOST_RETRY_AFTER_S if len(told) > len(str(int(MOST_RETRY_AFTER_S))) + 8 else min(float(told), MOST_RETRY_AFTER_S)

    @property
    def server_time_s(self) -> float | None:
        """The server's clock in seconds since 1970, from the `Date` header."""
        told = self.headers.get("date", "")
        if not told or not told.isascii() or len(told) > _LONGEST_DATE:
            return None
        try:
            return email.utils.parsedate_to_datetime(told).timestamp()
        except (ValueError, TypeError, LookupError, ArithmeticError):
            return None
