"""Reads the fields of a request: values of the right type, or the refusal `malformed`.

Knows requests as JSON objects. Refuses to know what any of them means.
"""

from __future__ import annotations

from collections.abc import Mapping

from pytest_glasshouse.errors import IntegrityError, RefusedError
from pytest_glasshouse.wire.canonical import Json
from pytest_glasshouse.wire.tokens import expect

Message = Mapping[str, Json]
#: More lines than the journal can have at a release.
LOG_LINES = 16


def text_field(message: Message, name: str) -> str:
    """The field `name`, a string."""
    value = message.get(name)
    if not isinstance(value, str):
        raise RefusedError("malformed", name)
    return value


def lines_field(message: Message, name: str) -> list[str]:
    """The field `name`: a list of at most `LOG_LINES` strings."""
    value = message.get(name)
    if not isinstance(value, list) or len(value) > LOG_LINES:
        raise RefusedError("malformed", name)
    found = [line for line in value if isinstance(line, str)]
    if len(found) != len(value):
        raise RefusedError("malformed", name)
    return found


def object_field(message: Message, name: str) -> Mapping[str, Json]:
    """The field `name`, an object; an empty one where there is no such field."""
    value = message.get(name, {})
    if not isinstance(value, dict):
        raise RefusedError("malformed", name)
    return value


def require_shape(claims: Message, shape: Mapping[str, type], reason: str) -> None:
    """Refuse with `reason` claims whose names and types are not exactly those of `shape`."""
    try:
        expect(claims, shape)
    except IntegrityError as error:
        raise RefusedError(reason, error.detail) from None


def require(holds: bool, reason: str, detail: str = "") -> None:  # noqa: FBT001  (the condition is the point)
    """Refuse with `reason` unless the check holds."""
    if not holds:
        raise RefusedError(reason, detail)
