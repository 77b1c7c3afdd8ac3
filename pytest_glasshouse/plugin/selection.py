"""From collected items to the rows that run: marks, overrides, and what is deselected, visibly.

This module knows items and rows; it refuses to know where a row runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import pytest

from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.plugin.markers import MARKERS
from pytest_glasshouse.plugin.parameters import parameters_of
from pytest_glasshouse.plugin.stash import ROW
from pytest_glasshouse.rows.overrides import Overrides, RowItem, collapse
from pytest_glasshouse.rows.spec import RowSpec
from pytest_glasshouse.run.plan import Selected
from pytest_glasshouse.wire.printable import printable

if TYPE_CHECKING:
    from pytest_glasshouse.run.options import Options

#: A test that takes none of these fixtures does not run the row it is parametrized with.
FIXTURES = {"allocation", "protected_runtime", "raw_runner", "row_report"}


def apply_row(item: pytest.Item, overrides: Overrides) -> None:
    """If the item runs a row, add the row's marks and replace it by the row that runs."""
    rows = rows_of(item)
    if not rows:
        return
    argument, declared = rows[0]
    row_item = RowItem.of(declared, overrides, parameters_of(item, argument))
    item.stash[ROW] = row_item
    for mark in declared.marks:
        item.add_marker(mark)
    _params(item)[argument] = row_item.row


def rows_of(item: pytest.Item) -> list[tuple[str, RowSpec]]:
    """The rows among an item's parameters, by name; none where the test only looks at rows."""
    if FIXTURES.isdisjoint(getattr(item, "fixturenames", ())):
        return []
    return [(name, value) for name, value in _params(item).items() if isinstance(value, RowSpec)]


def _params(item: pytest.Item) -> dict[str, object]:
    params: dict[str, object] = getattr(getattr(item, "callspec", None), "params", {})
    return params


def check_parametrization(items: Iterable[object]) -> None:
    """Raise `ConfigurationError`, naming test and parameter, where a test has two rows or a parameter that cannot be named."""
    for item in items:
        rows = rows_of(item) if isinstance(item, pytest.Item) else []
        if isinstance(item, pytest.Item) and len(rows) > 1:
            names = " and ".join(f"{name} ({row.name})" for name, row in rows)
            raise ConfigurationError(
                f"{printable(item.name)}: expected one row, saw {names}; a test runs one row, so write a test for each"
            )
        if isinstance(item, pytest.Item) and rows:
            parameters_of(item, rows[0][0])


def deselection(items: list[pytest.Item], options: Options) -> tuple[list[pytest.Item], tuple[str, ...]]:
    """The items to deselect among the selected ones, and a note about each. `items` is left as it is.

    Raises `ConfigurationError` where rows that differ would be one row in a report.
    """
    left_out: dict[int, pytest.Item] = {}
    notes: list[str] = []
    rows = [(item, found.declared) for item in items if (found := item.stash.get(ROW, None)) is not None]
    if options.order not in {None, "interleaved"}:
        for item, declared in rows:
            if declared.order == "interleaved":
                left_out[id(item)] = item
                kind = "null" if declared.null else "interleaved"
                notes.append(f"{declared.name}: left out, --order {options.order} runs no {kind} rows")
    for collapsed in collapse([(item, row) for item, row in rows if id(item) not in left_out], options.overrides):
        left_out[id(collapsed.key)] = collapsed.key
        notes.append(f"{collapsed.row.name}: left out, it is the same as {collapsed.same_as.name} in this run")
    staying: dict[str, pytest.Item] = {}
    for item, _ in rows:
        if id(item) in left_out:
            continue
        other = staying.setdefault(item.stash[ROW].row.row_id, item)
        if other is not item:
            _refuse_another_model(item, other)
            left_out[id(item)] = item
            names = printable(item.name), printable(other.name)
            notes.append(f"{names[0]}: left out, it runs the same row as {names[1]}; a row runs once")
    return list(left_out.values()), tuple(notes)


def _refuse_another_model(item: pytest.Item, other: pytest.Item) -> None:
    """A report cannot tell two directories of one name apart: it holds no path of this machine."""
    if item.stash[ROW].model != other.stash[ROW].model:
        raise ConfigurationError(
            f"{printable(item.name)} and {printable(other.name)}: expected models with names of their own, saw two "
            f"directories named {item.stash[ROW].row.model}; rename one, or the rows"
        )


def without_effect(rows: Iterable[RowItem], options: Options) -> tuple[str, ...]:
    """A note for each option that was given and changes none of the rows that run."""
    running = [each.row for each in rows]
    notes = []
    if options.preset is not None and not any(row.order == "interleaved" for row in running):
        notes.append(
            f"--glasshouse-preset {options.preset} changes nothing here: no interleaved row is selected (--order interleaved)"
        )
    if options.max_overhead_pct is not None and (sealed := [printable(row.name) for row in running if row.sealed]):
        notes.append(
            f"--glasshouse-max-overhead limits nothing in {', '.join(sealed)}: where the base is sealed there is no raw leg, "
            "and no overhead"
        )
    if options.model is not None and not any(row.workload == "lora" for row in running):
        notes.append("--glasshouse-model changes nothing here: no lora row is selected")
    if options.stand_in is not None and not any(row.workload == "lora" for row in running):
        notes.append("--glasshouse-stand-in changes nothing here: no lora row is selected")
    return tuple(notes)


def unknown_markers(expression: str, known: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Names in a `-m` expression that are not registered and look like one of this plugin's markers: (name, marker)."""
    from difflib import get_close_matches

    valid = set(known) | {"and", "or", "not", "True", "False", "None"}
    names = [name for name in re.findall(r"(?<![\w.=\"'])[A-Za-z_]\w*(?!\w*\s*=)", expression) if name not in valid]
    close = [(name, get_close_matches(name, MARKERS, n=1, cutoff=0.7)) for name in names]
    return tuple((name, matches[0]) for name, matches in close if matches)


def registered_markers(config: pytest.Config) -> set[str]:
    """Every marker name this pytest run knows."""
    lines: Sequence[str] = config.getini("markers")
    return {re.split(r"[:(]", line, maxsplit=1)[0].strip() for line in lines}


def selected_of(
    items: Sequence[pytest.Item], notes: Sequence[str] = (), *, files: Sequence[str] = (), refused: str = ""
) -> Selected:
    """The selection of `items`, each of which reports something."""
    rows = {item.nodeid: item.stash[ROW] for item in items if ROW in item.stash}
    return Selected(rows=rows, others=len(items) - len(rows), notes=tuple(notes), files=tuple(files), refused=refused)
