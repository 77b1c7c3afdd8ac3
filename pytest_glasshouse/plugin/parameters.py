"""The other parameters of a row's test, as texts that tell its rows apart in a report.

The text of a value must be the same in the next process and hold nothing that a report may not hold. So numbers, texts and
what is built of them are written as Python writes them; anything else gets pytest's own id. Where neither is fit, the test is
refused while it is collected.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.rows.spec import LONGEST_PARAMETER, MOST_PARAMETERS
from pytest_glasshouse.wire.printable import printable

if TYPE_CHECKING:
    import pytest

_PLAIN = (type(None), bool, int, float, complex, str, bytes)
_DEEPEST = 4


def parameters_of(item: pytest.Item, row: str) -> tuple[tuple[str, str], ...]:
    """Name and text of every parameter but `row`, sorted by name. Raises `ConfigurationError`, naming test and parameter.

    A name that begins with an underscore is a plugin's (pytest-repeat counts so): the row is the same row.
    """
    callspec: Any = getattr(item, "callspec", None)
    params: Mapping[str, object] = getattr(callspec, "params", {})
    others = [name for name in params if name != row and not name.startswith("_")]
    if len(others) > MOST_PARAMETERS or any(len(ascii(name)) > LONGEST_PARAMETER for name in others):
        most = f"{MOST_PARAMETERS} parameters, of names of at most {LONGEST_PARAMETER} characters,"
        raise ConfigurationError(f"{printable(item.name)}: expected at most {most} beside the row, saw {len(others)}")
    ids = _ids(callspec, params)
    return tuple(sorted((ascii(name)[1:-1], _text(item, name, params[name], ids[name])) for name in others))


def _text(item: pytest.Item, name: str, value: object, given: str) -> str:
    """The text of a value: as Python writes it, else pytest's id."""
    own = _own(value)
    for text in (own, given):
        if text is not None and 0 < len(text) <= LONGEST_PARAMETER and not _forbidden(name, text):
            return text
    why = _forbidden(name, own or given)
    problem = f"looks like something a report may not hold (rule {why})" if why else f"takes {len(own or given)} characters"
    raise ConfigurationError(
        f"{printable(item.name)}: parameter {name}: expected a value that a report can name, in at most {LONGEST_PARAMETER} "
        f"characters; saw one that {problem}. Give it an id: pytest.param(..., id=...)"
    )


def _own(value: object, depth: int = 0) -> str | None:
    """A text that is the same for equal values in every process; None where there is none."""
    if isinstance(value, enum.Enum):
        return f"{type(value).__name__}.{value.name}"
    if isinstance(value, type):
        return value.__qualname__
    return ascii(value) if _is_plain(value, depth) else None


def _is_plain(value: object, depth: int) -> bool:
    """Numbers and texts, and lists, tuples and mappings of such. How a subclass writes itself is not known."""
    if type(value) in _PLAIN:
        return not isinstance(value, str | bytes) or len(value) <= LONGEST_PARAMETER
    if depth == _DEEPEST:
        return False
    if type(value) is dict:
        return len(value) <= LONGEST_PARAMETER and all(_is_plain(each, depth + 1) for pair in value.items() for each in pair)
    if type(value) in (list, tuple):
        inside: Any = value
        return len(inside) <= LONGEST_PARAMETER and all(_is_plain(each, depth + 1) for each in inside)
    return False


def _ids(callspec: Any, params: Mapping[str, object]) -> dict[str, str]:
    """Pytest's id of each parameter; of those given several to a list, and where pytest does not tell them apart, the item's."""
    each = list(getattr(callspec, "_idlist", ()))
    if len(each) != len(params):
        each = [str(getattr(callspec, "id", ""))] * len(params)
    return {name: ascii(text)[1:-1] for name, text in zip(params, each, strict=True)}


def _forbidden(name: str, text: str) -> str:
    """The rule of the report's gate that the text falls under; empty where none does."""
    from pytest_glasshouse.report.redaction import hits

    return next((hit.rule for hit in hits({"parameters": {name: text}})), "")
