"""JSON with indents, as the standard library writes it, in a third of the time: reports are written and packed in this form.

The standard library's fast encoder knows no indent. What this one does not know either, it leaves to the standard library.
"""

from __future__ import annotations

import json
import math
from json.encoder import encode_basestring
from typing import Any


class _UnknownError(Exception):
    """A value of a type that only the standard library knows how to write."""


def indented_json(value: object) -> str:
    """`json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)`, raising as that does."""
    try:
        return _written(value, "\n")
    except _UnknownError:
        return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)


def _written(value: Any, line: str) -> str:
    """The text of a value; `line` begins one at its depth."""
    kind = type(value)
    if kind is str:
        return encode_basestring(value)
    if kind is dict:
        return _object(value, line + "  ", line) if value else "{}"
    if kind is list or kind is tuple:
        deeper = line + "  "
        return f"[{deeper}{f',{deeper}'.join([_written(each, deeper) for each in value])}{line}]" if value else "[]"
    return _scalar(value)


def _object(value: dict[Any, Any], deeper: str, line: str) -> str:
    if any(type(key) is not str for key in value):
        raise _UnknownError
    members = [
        f"{encode_basestring(key)}: {encode_basestring(each) if type(each) is str else _written(each, deeper)}"
        for key, each in value.items()
    ]
    return f"{{{deeper}{f',{deeper}'.join(members)}{line}}}"


def _scalar(value: Any) -> str:
    if value is None or value is True or value is False:
        return {None: "null", True: "true", False: "false"}[value]
    if type(value) is int or (type(value) is float and math.isfinite(value)):
        return repr(value)
    raise _UnknownError
