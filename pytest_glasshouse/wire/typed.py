"""A JSON value checked against a type: TypedDicts, lists, literals and plain values, by their annotations.

Members that a TypedDict does not name may hold anything: later versions add members, and what nothing reads cannot mislead.
Values are not shown in an error: one may be a secret.
"""

from __future__ import annotations

from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, NotRequired, TypeVar, Union, cast, get_args, get_origin, get_type_hints, is_typeddict

from pytest_glasshouse.errors import ProtocolError

T = TypeVar("T")

_NAMES: dict[object, str] = {
    str: "a text", int: "an integer", float: "a number", bool: "true or false", NoneType: "null",
    list: "a list", dict: "an object",
}  # fmt: skip


def check_typed(value: object, kind: type[T], where: str) -> T:
    """`value` as a `kind`, `where` being its path. Raises `ProtocolError` with the path of the first value of another type."""
    _check(value, kind, where)
    return cast("T", value)


def _check(value: object, kind: Any, where: str) -> None:
    origin = get_origin(kind)
    if kind is Any:
        return
    if origin in {Union, UnionType}:
        _check_union(value, get_args(kind), where)
    elif origin is Literal:
        _check_literal(value, get_args(kind), where)
    elif origin is list:
        _check_items(value, get_args(kind)[0], where)
    elif origin is dict or is_typeddict(kind):
        _check_members(value, kind, where)
    elif not isinstance(value, (int, float) if kind is float else kind) or (isinstance(value, bool) and kind is not bool):
        raise _wrong(where, _NAMES[kind], value)


def _wrong(where: str, expected: str, seen: object) -> ProtocolError:
    return ProtocolError(f"{where}: expected {expected}, saw {_NAMES.get(type(seen), 'what no JSON holds')}")


def _check_union(value: object, kinds: tuple[Any, ...], where: str) -> None:
    """A plain value of one of `kinds`, or a value of the one kind among them that is not plain."""
    if type(value) in kinds or (type(value) is int and float in kinds):
        return
    others = [kind for kind in kinds if kind not in _NAMES]
    if not others:
        raise _wrong(where, " or ".join(_NAMES[kind] for kind in kinds), value)
    _check(value, others[0], where)


def _check_literal(value: object, values: tuple[str, ...], where: str) -> None:
    expected = " or ".join(values)
    if not isinstance(value, str):
        raise _wrong(where, expected, value)
    if value not in values:
        raise ProtocolError(f"{where}: expected {expected}, saw another text")


def _check_items(value: object, kind: Any, where: str) -> None:
    if not isinstance(value, list):
        raise _wrong(where, "a list", value)
    for number, item in enumerate(value):
        _check(item, kind, f"{where}[{number}]")


def _check_members(value: object, kind: Any, where: str) -> None:
    if not isinstance(value, dict):
        raise _wrong(where, "an object", value)
    members, required = _members(kind) if is_typeddict(kind) else (dict.fromkeys(value, get_args(kind)[1]), ())
    for name in required:
        if name not in value:
            raise ProtocolError(f"{where}.{name}: expected a value, saw none")
    for name, item in value.items():
        if name in members:
            _check(item, members[name], f"{where}.{name}")


@cache
def _members(kind: Any) -> tuple[dict[str, object], tuple[str, ...]]:
    """The members of a TypedDict with their types, and the names of those that it must have."""
    hints = get_type_hints(kind, include_extras=True)
    required = tuple(name for name in hints if name in kind.__required_keys__ and get_origin(hints[name]) is not NotRequired)
    return get_type_hints(kind), required
