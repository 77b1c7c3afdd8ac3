"""Reading what was asked: fields of the right type, or `malformed`.

Knows messages as JSON objects. Refuses to know what any of them means.
"""

from __future__ import annotations

from collections.abc import Mapping

from pytest_glasshouse.errors import IntegrityError, RefusedError
from pytest_glasshouse.wire.canonical import Json
from pytest_glasshouse.wire.tokens import expect

Message = Mapping[str, Json]
#: More journal lines than a release can have.
LOG_LINES = 16


def text(message: Message, name: str) -> str:
    """The field `name`, a string."""
    value = message.get(name)
    if not isinstance(value, str):
        raise RefusedError("malformed", name)
    return value


def lines(message: Message, name: str) -> list[str]:
    """The field `name`: a list of at most `LOG_LINES` strings."""
    value = message.get(name)
    if not isinstance(value, list) or len(value) > LOG_LINES:
        raise RefusedError("malformed", name)
    found = [line for line in value if isinstance(line, str)]
    if len(found) != len(value):
        raise RefusedError("malformed", name)
    return found


def shaped(claims: Message, shape: Mapping[str, type], reason: str) -> None:
    """Refuse with `reason` claims that are not exactly those of `shape`."""
    try:
        expect(claims, shape)
    except IntegrityError as error:
        raise RefusedError(reason, error.detail) from None


def need(holds: bool, reason: str, detail: str = "") -> None:  # noqa: FBT001  (a check is what this is about)
    """Refuse with `reason` unless the check holds."""
    if not holds:
        raise RefusedError(reason, detail)
