"""A gate's policy, from `[tool.glasshouse.gate]` and from flags; flags have precedence.

Unknown and misspelt names are refused: an ignored limit would let a release through.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from pytest_glasshouse.check.check import Level
from pytest_glasshouse.check.gate import GatePolicy
from pytest_glasshouse.errors import ConfigurationError, IntegrityError
from pytest_glasshouse.wire.bounded_file import opened, read_toml
from pytest_glasshouse.wire.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

FILE = "pyproject.toml"
#: The table's names and the fields of `GatePolicy` they set. `trust` belongs to the reader and is read separately.
FIELDS = {
    "rows": "rows",
    "max-overhead": "max_overhead_pct",
    "max-round-overhead": "max_round_overhead_pct",
    "max-margin": "max_margin_pct",
    "min-rounds": "min_rounds",
    "publishable": "publishable",
    "level": "level",
    "commit": "commit",
    "max-age": "max_age_h",
    "min-lifecycle": "min_lifecycle",
    "allow-dirty": "allow_dirty",
    "allow-lenient-policy": "allow_lenient_policy",
}
#: The flags that are not called like the table's name.
FLAGS = {"rows": "row", "level": "require"}
_PLACE = "tool.glasshouse.gate"
#: Names that require something of the measurement. Flags are a policy only with one of these, a table with any of `_REQUIRING`.
_MEASURED = frozenset(
    {"rows", "max-overhead", "max-round-overhead", "max-margin", "min-rounds", "publishable", "level", "min-lifecycle"}
)
_REQUIRING = _MEASURED | {"commit", "max-age"}
#: Normalised keys that hardly any other tool's table has.
_DISTINCTIVE = frozenset({"maxoverhead", "maxroundoverhead", "minrounds", "minlifecycle", "allowlenientpolicy"})
#: Longer names are not compared with known ones, and deeper tables are not searched.
_LONGEST, _DEEPEST = 100, 6
_LEVELS = tuple(level.value for level in Level if level is not Level.NOTHING)
_FULL_COMMIT = 40
_MOST = 1e9
_SHORT_COMMIT = 7


@dataclass(frozen=True, kw_only=True)
class PolicyTable:
    """A file's `[tool.glasshouse.gate]`. `values` is None where there is no such table; `source` says where the policy is from.

    `near_misses` are tables and files that may have been meant; the error about a missing policy names them.
    """

    path: Path
    values: Mapping[str, object] | None
    source: str
    near_misses: tuple[str, ...] = ()


def no_policy(why: str) -> PolicyTable:
    """No table, and the reason."""
    return PolicyTable(path=Path(FILE), values=None, source=f"no policy: {why}")


def find_table(start: Path) -> PolicyTable:
    """The table of the nearest `pyproject.toml` that has one, from `start` upwards, as pytest finds its own.

    Raises `ConfigurationError` where one of them cannot be read, or has a table named almost like ours: it may be the policy.
    """
    near_misses: list[str] = [str(path) for path in _like_the_file(start)]
    for folder in (start, *start.parents):
        path = Path(os.path.relpath(folder / FILE, start))
        found = read_table(path, required=False, base=start)
        if found.values is not None:
            return found
        near_misses += found.near_misses
    why = f"no {FILE} in this directory or above it has a table [{_PLACE}]"
    return dataclasses.replace(no_policy(why), near_misses=tuple(near_misses))


def read_table(path: Path, *, required: bool, base: Path = Path()) -> PolicyTable:
    """The table of a TOML file; without values where file or table is missing and not `required`.

    A relative `path` is below `base`.
    """
    try:
        document = read_toml(base / path)
    except (FileNotFoundError, NotADirectoryError):
        if required:
            raise ConfigurationError(f"--policy {path}: no such file") from None
        return no_policy(f"there is no {path}")
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read ({error.strerror})") from None
    except IntegrityError as error:
        raise ConfigurationError(f"{path}: {error.detail}") from None
    near_misses = _refuse_elsewhere(path, document)
    ours = _table(path, "tool.glasshouse", _table(path, "tool", document.get("tool", {})).get("glasshouse", {}))
    _refuse_unknown(path, "tool.glasshouse", ours, ["gate"])
    if "gate" not in ours:
        if required:
            raise ConfigurationError(f"--policy {path}: expected a table [{_PLACE}], saw {', '.join(near_misses) or 'none'}")
        return dataclasses.replace(no_policy(f"{path} has no table [{_PLACE}]"), path=path, near_misses=tuple(near_misses))
    values = _table(path, _PLACE, ours["gate"])
    _refuse_unknown(path, _PLACE, values, [*FIELDS, "trust"])
    return PolicyTable(path=path, values=values, source=f"policy: [{_PLACE}] in {path}")


def refuse_empty_policy(table: PolicyTable, flags: Mapping[str, object]) -> None:
    """Raise `ConfigurationError` unless the table, or a flag about the measurement, requires something.

    Flags that only say which report it must be (`--commit`, `--subject`, `--max-age`) are not a policy.
    """
    if any(_requires(flags.get(name)) for name in _MEASURED):
        return
    if table.values is not None:
        if not any(_requires(value) for name, value in table.values.items() if name in _REQUIRING):
            raise ConfigurationError(f"{table.path}: [{_PLACE}] requires nothing; name what must hold, or give --no-policy")
        return
    seen = f"; almost: {', '.join(table.near_misses)}" if table.near_misses else ""
    raise ConfigurationError(
        f"{table.source}{seen}; expected a policy there, in the file of --policy, or in flags (--max-overhead, --row, ...); "
        "to judge without one, give --no-policy"
    )


def _requires(value: object) -> bool:
    """Whether a value requires more than its absence does; a limit of 0 does."""
    return value is not None and value is not False and value != Level.CONSISTENT.value


def _table(path: Path, name: str, value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise ConfigurationError(f"{path}: {name}: expected a table, saw {_shown(value)}")
    return value


def _refuse_unknown(path: Path, table: str, seen: Mapping[str, object], known: Sequence[str]) -> None:
    for name in seen:
        if name not in known:
            close = get_close_matches(name.lower().replace("_", "-")[:_LONGEST], known, n=1)
            hint = f"did you mean {close[0]}? Expected" if close else "expected"
            raise ConfigurationError(f"{path}: {table}.{printable(name)}: unknown name; {hint} one of {', '.join(known)}")


def _refuse_elsewhere(path: Path, document: Mapping[str, object]) -> list[str]:
    """Raise where a table is named almost like ours: its author expects that the gate reads it.

    Returns tables that may have been meant but may also be another tool's.
    """
    near_misses = []
    for parts, table in _tables(document):
        name = ".".join(part if re.fullmatch(r"[\w-]+", part, re.ASCII) else f'"{printable(part)}"' for part in parts)
        if parts[:2] == ("tool", "glasshouse"):
            continue
        named = _like_ours(parts[-1]) and (len(parts) == 1 or (len(parts) == 2 and _like_tool(parts[0])))  # noqa: PLR2004
        a_policy = bool({_plain(key) for key in table} & _DISTINCTIVE)
        meant = any(_like_ours(part) or _like_gate(part) for part in parts)
        if named or (a_policy and meant):
            raise ConfigurationError(f"{path}: [{name}]: did you mean [tool.glasshouse]? A policy there is not read")
        if a_policy or (_like_gate(parts[-1]) and len(parts) <= 2):  # noqa: PLR2004
            near_misses.append(f"[{name}] in {path}")
    return near_misses


def _tables(document: Mapping[str, object]) -> Iterator[tuple[tuple[str, ...], Mapping[str, object]]]:
    """Every table with its path, down to a limited depth."""
    waiting: list[tuple[tuple[str, ...], object]] = [((name,), value) for name, value in document.items()]
    for parts, value in waiting:
        for table in value if isinstance(value, list) else [value]:
            if isinstance(table, dict):
                yield parts, table
                if len(parts) < _DEEPEST:
                    waiting += [((*parts, name), inner) for name, inner in table.items() if isinstance(inner, dict | list)]


def _like_the_file(folder: Path) -> Iterator[Path]:
    """Files that may be a misnamed `pyproject.toml`."""
    with contextlib.suppress(OSError):
        for name in sorted(path.name for path in folder.iterdir()):
            if name != FILE and (name.lower() == FILE or (name.endswith(".toml") and _like_ours(name.removesuffix(".toml")))):
                yield Path(printable(name))


def _plain(name: str) -> str:
    return name.lower().translate({ord(each): None for each in "-_ ."})[:_LONGEST]


def _like_tool(name: str) -> bool:
    return bool(get_close_matches(_plain(name), ["tool"], cutoff=0.75))


def _like_gate(name: str) -> bool:
    return _plain(name) in {"gate", "gates", "releasegate"}


def _like_ours(name: str) -> bool:
    return "glasshouse" in _plain(name) or bool(get_close_matches(_plain(name), ["glasshouse"], cutoff=0.8))


def policy_of(table: PolicyTable | None, flags: Mapping[str, object], *, subject: Path | None = None) -> GatePolicy:
    """The policy: a flag's value, else the table's. `flags` has the table's names, None for a flag that was not given."""
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
        raise ConfigurationError(f"{table.path}: {_PLACE}.trust: expected a list of key files, saw {_shown(trusted)}")
    return [table.path.parent / each for each in trusted]


def _value(name: str, place: str, value: object) -> Any:
    """The value as `GatePolicy` has it. Raises `ConfigurationError` with its place and what was expected."""
    expected, good = _KINDS[name]
    if not good(value):
        which = " that is finite and not below 0" if isinstance(value, float) and expected == "a number" else ""
        raise ConfigurationError(f"{place}: expected {expected}{which}, saw {_shown(value)}")
    return {"rows": tuple, "level": Level}.get(name, _as_is)(value)


def _shown(value: object) -> str:
    try:
        return printable(repr(value), limit=100)
    except ValueError:  # an integer of more digits than Python writes
        return "a giant number"


def _as_is(value: object) -> object:
    return value


def _names(value: object) -> TypeGuard[list[str] | tuple[str, ...]]:
    return isinstance(value, list | tuple) and all(isinstance(each, str) and each for each in value)


def _number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < _MOST


def _commit(value: object) -> bool:
    if not isinstance(value, str) or not _SHORT_COMMIT <= len(value) <= _FULL_COMMIT:
        return False
    return set(value.lower()) <= set("0123456789abcdef")


_SWITCH: tuple[str, Callable[[object], bool]] = ("true or false", lambda value: isinstance(value, bool))
#: What each value must be, as text and as a test.
_KINDS: dict[str, tuple[str, Callable[[object], bool]]] = {
    "rows": ("a list of at least one row name or pattern", lambda value: _names(value) and bool(value)),
    "max-overhead": ("a number", _number),
    "max-round-overhead": ("a number", _number),
    "max-margin": ("a number above 0", lambda value: _number(value) and value > 0),
    "min-rounds": ("a whole number, 1 or more", lambda value: _number(value) and isinstance(value, int) and value >= 1),
    "publishable": _SWITCH,
    "level": (f"one of {', '.join(_LEVELS)}", lambda value: isinstance(value, str) and value in _LEVELS),
    "commit": ("7 to 40 hexadecimal digits", _commit),
    "max-age": ("a number above 0", lambda value: _number(value) and value > 0),
    "min-lifecycle": ("a share from 0 to 1", lambda value: _number(value) and 0 <= value <= 1),
    "allow-dirty": _SWITCH,
    "allow-lenient-policy": _SWITCH,
}


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with opened(path) as (descriptor, found):
            left = found.st_size
            while left > 0 and (piece := os.read(descriptor, min(1 << 20, left))):
                digest.update(piece)
                left -= len(piece)
            if left or os.read(descriptor, 1):
                raise ConfigurationError(f"--subject {path}: it changed while it was read")
    except OSError as error:
        raise ConfigurationError(f"--subject {path}: cannot be read ({error.strerror})") from error
    except IntegrityError as error:
        raise ConfigurationError(f"--subject {path}: {error.detail}") from error
    return digest.hexdigest()
