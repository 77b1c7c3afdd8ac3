"""A gate's policy from `[tool.glasshouse.gate]` and from flags, flags first.

This module knows names, types and files of a policy. It refuses a name it does not know: a misspelt limit that is ignored is
no limit.
"""

from __future__ import annotations

import hashlib
import math
import tomllib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.report.check import Level
from pytest_glasshouse.report.gate import GatePolicy

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

#: A name of the table to the field of `GatePolicy` it sets. `trust` is the reader's and set beside it.
FIELDS = {
    "rows": "rows",
    "max-overhead": "max_overhead_pct",
    "min-rounds": "min_rounds",
    "publishable": "publishable",
    "level": "level",
    "commit": "commit",
    "max-age": "max_age_h",
    "min-lifecycle": "min_lifecycle",
    "allow-dirty": "allow_dirty",
    "allow-lenient-policy": "allow_lenient_policy",
}
_LEVELS = tuple(level.value for level in Level if level is not Level.NOTHING)
_FULL_COMMIT = 40
_SHORT_COMMIT = 7


def read_table(path: Path, *, required: bool) -> dict[str, Any]:
    """The table of a TOML file; empty where the file or the table is not there and neither is required."""
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        if required:
            raise ConfigurationError(f"--policy {path}: no such file") from None
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"{path}: cannot be read as TOML ({error})") from error
    table = document.get("tool", {}).get("glasshouse", {}).get("gate")
    if table is None:
        if required:
            raise ConfigurationError(f"--policy {path}: expected a table [tool.glasshouse.gate], saw none")
        return {}
    if not isinstance(table, dict):
        raise ConfigurationError(f"{path}: tool.glasshouse.gate: expected a table")
    for name in table:
        if name not in FIELDS and name != "trust":
            known = ", ".join([*FIELDS, "trust"])
            raise ConfigurationError(f"{path}: tool.glasshouse.gate.{name}: expected one of {known}")
    return table


def policy_of(table: Mapping[str, Any], flags: Mapping[str, Any], *, subject: Path | None = None) -> GatePolicy:
    """The policy: what a flag says, else what the table says. `flags` has the table's names; None was not given."""
    merged = {**table, **{name: value for name, value in flags.items() if value is not None}}
    fields = {FIELDS[name]: _value(name, value) for name, value in merged.items() if name in FIELDS}
    if subject is not None:
        fields["subject_sha256"] = _digest(subject)
    return GatePolicy(**fields)


def _value(name: str, value: Any) -> Any:
    """The value as `GatePolicy` has it. Raises `ConfigurationError` with what was expected."""
    expected, good = _KINDS[name]
    if not good(value):
        raise ConfigurationError(f"gate: {name}: expected {expected}, saw {value!r}")
    return {"rows": tuple, "level": Level}.get(name, _as_is)(value)


def _as_is(value: Any) -> Any:
    return value


def _names(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(each, str) and each for each in value)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _commit(value: Any) -> bool:
    hexadecimal = isinstance(value, str) and set(value.lower()) <= set("0123456789abcdef")
    return hexadecimal and _SHORT_COMMIT <= len(value) <= _FULL_COMMIT


_SWITCH: tuple[str, Callable[[Any], bool]] = ("true or false", lambda value: isinstance(value, bool))
#: What each value has to be, in words and as a test.
_KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "rows": ("a list of row names or patterns", _names),
    "max-overhead": ("a number", _number),
    "min-rounds": ("a whole number, 1 or more", lambda value: _number(value) and isinstance(value, int) and value >= 1),
    "publishable": _SWITCH,
    "level": (f"one of {', '.join(_LEVELS)}", lambda value: value in _LEVELS),
    "commit": ("7 to 40 hexadecimal digits", _commit),
    "max-age": ("a number above 0", lambda value: _number(value) and value > 0),
    "min-lifecycle": ("a share from 0 to 1", lambda value: _number(value) and 0 <= value <= 1),
    "allow-dirty": _SWITCH,
    "allow-lenient-policy": _SWITCH,
}


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConfigurationError(f"--subject {path}: cannot be read ({error.strerror})") from error
