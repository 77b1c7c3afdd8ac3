"""A gate's policy from `[tool.glasshouse.gate]` and from flags, flags first.

This module knows names, types and files of a policy. It refuses a name it does not know: a misspelt limit that is ignored is
no limit.
"""

from __future__ import annotations

import hashlib
import math
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.report.check import Level
from pytest_glasshouse.report.gate import GatePolicy

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
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
#: The flag of a name where it is another word.
FLAGS = {"rows": "row", "level": "require"}
_PLACE = "tool.glasshouse.gate"
_LEVELS = tuple(level.value for level in Level if level is not Level.NOTHING)
_FULL_COMMIT = 40
_SHORT_COMMIT = 7


@dataclass(frozen=True, kw_only=True)
class PolicyTable:
    """A file's `[tool.glasshouse.gate]`. `values` is None where there is no such table; `told` says which policy that is."""

    path: Path
    values: Mapping[str, Any] | None
    told: str


def read_table(path: Path, *, required: bool) -> PolicyTable:
    """The table of a TOML file, or word that there is none where the file or the table is not there and neither is required."""
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        if required:
            raise ConfigurationError(f"--policy {path}: no such file") from None
        return PolicyTable(path=path, values=None, told=f"no policy: there is no {path} in this directory")
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"{path}: cannot be read as TOML ({error})") from error
    _refuse_elsewhere(path, document)
    ours = _table(path, "tool.glasshouse", _table(path, "tool", document.get("tool", {})).get("glasshouse", {}))
    _refuse_unknown(path, "tool.glasshouse", ours, ["gate"])
    if "gate" not in ours:
        if required:
            raise ConfigurationError(f"--policy {path}: expected a table [{_PLACE}], saw none")
        return PolicyTable(path=path, values=None, told=f"no policy: {path} has no table [{_PLACE}]")
    values = _table(path, _PLACE, ours["gate"])
    _refuse_unknown(path, _PLACE, values, [*FIELDS, "trust"])
    return PolicyTable(path=path, values=values, told=f"policy: [{_PLACE}] in {path}")


def _table(path: Path, name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ConfigurationError(f"{path}: {name}: expected a table, saw {value!r}")
    return value


def _refuse_unknown(path: Path, table: str, seen: Mapping[str, Any], known: Sequence[str]) -> None:
    for name in seen:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}? Expected" if close else "expected"
            raise ConfigurationError(f"{path}: {table}.{name}: nothing here has this name; {hint} one of {', '.join(known)}")


def _refuse_elsewhere(path: Path, document: Mapping[str, Any]) -> None:
    """Raise where a table is named almost like ours: who wrote it believes that the gate reads it."""
    for outer, inner in document.items():
        tables = inner if isinstance(inner, dict) else {}
        found = [f"{outer}.{name}" for name in tables if _like_tool(outer) and _like_ours(name)]
        if _like_ours(outer) and isinstance(inner, dict):
            found.append(outer)
        for name in found:
            if name != "tool.glasshouse":
                raise ConfigurationError(f"{path}: [{name}]: did you mean [tool.glasshouse]? Nothing would read a policy there")


def _like_tool(name: str) -> bool:
    return bool(get_close_matches(name.lower(), ["tool"], cutoff=0.75))


def _like_ours(name: str) -> bool:
    plain = name.lower().translate({ord(each): None for each in "-_ ."})
    return "glasshouse" in plain or bool(get_close_matches(plain, ["glasshouse"], cutoff=0.8))


def policy_of(table: PolicyTable | None, flags: Mapping[str, Any], *, subject: Path | None = None) -> GatePolicy:
    """The policy: what a flag says, else what the table says. `flags` has the table's names; None was not given."""
    given = {name: (f"--{FLAGS.get(name, name)}", value) for name, value in flags.items() if value is not None}
    if table is not None and table.values is not None:
        written = {name: (f"{table.path}: {_PLACE}.{name}", value) for name, value in table.values.items()}
        given = {**written, **given}
    fields = {FIELDS[name]: _value(name, place, value) for name, (place, value) in given.items() if name in FIELDS}
    if subject is not None:
        fields["subject_sha256"] = _digest(subject)
    return GatePolicy(**fields)


def trusted_of(table: PolicyTable) -> list[Path]:
    """The key files that the table's `trust` names, which are relative to the table's file."""
    trusted = [] if table.values is None else table.values.get("trust", [])
    if not isinstance(trusted, list) or not _names(trusted):
        raise ConfigurationError(f"{table.path}: {_PLACE}.trust: expected a list of key files, saw {trusted!r}")
    return [table.path.parent / each for each in trusted]


def _value(name: str, place: str, value: Any) -> Any:
    """The value as `GatePolicy` has it. Raises `ConfigurationError` with where it stands and what was expected."""
    expected, good = _KINDS[name]
    if not good(value):
        raise ConfigurationError(f"{place}: expected {expected}, saw {value!r}")
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
